"""Beside the requests: a new model file is taken over, what hangs ends the process."""

import asyncio
import os
from typing import Final

from service.engine import Engine
from service.keys import Keys
from service.logs import log

PERIOD_S: Final = 0.5


async def follow(engine: Engine, keys: Keys, watch: bool) -> None:
    """Reloads models and keys when it is wanted, and with `watch` models that are new or have changed. A
    file that is read half written is refused by the repository, and read again when it has changed once
    more. What hangs is found while a model is being loaded too.
    """
    looking: asyncio.Task[None] | None = None
    everything = False
    try:
        while True:
            await asyncio.sleep(PERIOD_S)
            engine.metrics.refresh()
            if engine.stuck:
                _end(engine)
                return
            if engine.reload_wanted:
                engine.reload_wanted, everything = False, True
                await asyncio.to_thread(keys.read_again)
            if (everything or watch) and (looking is None or looking.done()):
                looking = asyncio.create_task(_look(engine, changed_only=not everything))
                everything = False
    finally:
        if looking is not None:
            looking.cancel()


async def _look(engine: Engine, changed_only: bool) -> None:
    try:
        await engine.repository.refresh(changed_only)
    except Exception:  # a folder that vanishes as it is listed: the next look may succeed
        log.exception("the models could not be looked at")


def _end(engine: Engine) -> None:
    """At once if a thread hangs in native code, which nothing else ends."""
    log.critical(
        "the network or the decoder does not answer any more; the process ends, to be started again"
    )
    if engine.alive:
        os._exit(1)
    engine.failed = True
