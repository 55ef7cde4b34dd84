"""Beside the requests: a new model file is taken over, a network that hangs ends the process."""

import asyncio
import os
from pathlib import Path
from typing import Final

from service.engine import Engine
from service.logs import log

PERIOD_S: Final = 0.5


async def follow(engine: Engine, model: Path, watch: bool) -> None:
    """Reloads when it is wanted, and with `watch` when the file at `model` is another one. A file that
    is read half written is refused by the engine, and read again when it has changed once more.
    """
    seen = _stamp(model)
    while True:
        await asyncio.sleep(PERIOD_S)
        if engine.stuck:
            _end(engine)
            return
        stamp = _stamp(model)
        if engine.reload_wanted or (watch and stamp not in {None, seen}):
            engine.reload_wanted = False
            seen = stamp
            await engine.reload()


def _end(engine: Engine) -> None:
    """At once if a thread hangs in native code, which nothing else ends."""
    log.critical("the network does not answer any more; the process ends, for a supervisor to start again")
    if engine.current.batcher.alive:
        os._exit(1)
    engine.failed = True


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
