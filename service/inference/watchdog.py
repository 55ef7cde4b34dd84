"""Reload models and keys on SIGHUP or change, and end the process if the engine hangs."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from service.inference.engine import Engine
from service.observability.logs import log

PERIOD_S: Final = 0.5


async def watch(
    engine: Engine, reload: asyncio.Event, reload_keys: Callable[[], None], watch_files: bool
) -> None:
    """Check the engine and the files every PERIOD_S, until the engine has failed.

    When `reload` is set, read the keys and every model again; with `watch_files`, also models whose files
    are new or have changed. The repository refuses a file that is half written, and reads it once it has
    changed again. A hang is noticed while a model is being loaded, too.
    """
    refreshing: asyncio.Task[None] | None = None
    reload_all = False
    try:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(reload.wait(), PERIOD_S)
            if engine.stuck:
                _abort(engine)
                return
            engine.metrics.refresh()
            if reload.is_set():
                reload.clear()
                reload_all = True
                await asyncio.to_thread(reload_keys)
            if (reload_all or watch_files) and (refreshing is None or refreshing.done()):
                refreshing = asyncio.create_task(_refresh(engine, changed_only=not reload_all))
                reload_all = False
    finally:
        if refreshing is not None:
            refreshing.cancel()


async def _refresh(engine: Engine, changed_only: bool) -> None:
    try:
        await engine.repository.refresh(changed_only)
    except Exception:  # such as a folder that vanishes while it is listed: the next refresh may succeed
        log.exception("the model files could not be checked")


def _abort(engine: Engine) -> None:
    """End the process; at once, if a thread hangs in native code, which cannot be stopped otherwise."""
    if engine.alive:
        log.critical("inference or decoding hangs; the process ends, so that a supervisor can restart it")
        os._exit(1)
    log.critical("inference has failed; the process ends, so that a supervisor can restart it")
    engine.failed = True
