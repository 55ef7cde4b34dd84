"""Decoding in processes of their own, each limited in memory."""

import asyncio
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from contract.picture import ImageError, InvalidImage, TooManyPixels, UnsupportedImage
from contract.recipe import Recipe
from service.crops import BYTES_PER_PIXEL, Cropped, Then, too_long
from service.logs import log

# Of a process, beside the picture itself: its body twice, what profiles and parsers take.
_OVERHEAD: Final = 150_000_000
_START_S: Final = 60.0
_RESTART_S: Final = 1.0  # between attempts to start a process, when it does not start
_ERRORS: Final = {kind.__name__: kind for kind in (UnsupportedImage, InvalidImage, TooManyPixels)}

Kept = TypeVar("Kept")


class Processes:
    """`timeout` in seconds, 0 for none. What takes longer, or ends its process, is answered with
    InvalidImage and the process is replaced; the pictures beside it are in others.
    """

    def __init__(self, processes: int, max_pixels: int, timeout: float) -> None:
        self._max_pixels = max_pixels
        self._timeout = timeout
        self._count = processes
        self._memory = max_pixels * BYTES_PER_PIXEL + _OVERHEAD
        self._idle: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        self._running: set[asyncio.subprocess.Process] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._none_since = time.perf_counter()
        self._closing = False

    @property
    def waiting(self) -> int:
        return 0

    @property
    def alive(self) -> bool:
        return bool(self._running)

    @property
    def stuck_for(self) -> float:
        return 0.0 if self._running else time.perf_counter() - self._none_since

    async def start(self) -> None:
        for process in await asyncio.gather(*(self._start() for _ in range(self._count))):
            self._idle.put_nowait(process)

    async def decode(self, data: bytes, recipe: Recipe, crops: int, _then: Then | None = None) -> Cropped:
        process = await self._idle.get()
        while (
            process.returncode is not None
        ):  # ended while it had nothing to do: no fault of this picture's
            self._replace(process)
            process = await self._idle.get()
        # A task of its own: whoever asked may go away, and the process is in the middle of an answer.
        # This frame does not hold it: an error would hold the frame, and both the picture, until the
        # collector comes.
        return await asyncio.shield(
            self._keep(asyncio.create_task(self._ask(process, data, recipe, crops)))
        )

    async def close(self) -> None:
        self._closing = True
        for process in list(self._running):
            self._kill(process)
            await process.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _ask(
        self, process: asyncio.subprocess.Process, data: bytes, recipe: Recipe, crops: int
    ) -> Cropped:
        try:
            async with asyncio.timeout(self._timeout or None):
                made = await self._exchange(process, data, recipe, crops)
        except ImageError:
            self._idle.put_nowait(process)
            raise
        except TimeoutError:
            log.warning("a picture takes longer than DECODE_TIMEOUT_MS to decode; its process is replaced")
            self._replace(process)
            raise too_long(self._timeout) from None
        except Exception:  # it has ended, or what it says is not what it was asked for
            self._kill(process)
            log.error("a process that decodes ended with %s and is replaced", await process.wait())
            self._replace(process)
            raise InvalidImage("decoding the image ended the process that did it; it is broken") from None
        self._idle.put_nowait(process)
        return made

    async def _exchange(
        self, process: asyncio.subprocess.Process, data: bytes, recipe: Recipe, crops: int
    ) -> Cropped:
        """Raises ImageError, and anything else when the process has ended or says what it was not asked."""
        asked, answers = process.stdin, process.stdout
        assert asked is not None
        assert answers is not None
        job = {"bytes": len(data), "recipe": recipe.id, "max_pixels": self._max_pixels, "crops": crops}
        asked.write(json.dumps(job).encode() + b"\n")
        asked.write(data)
        await asked.drain()
        head = json.loads(await answers.readuntil(b"\n"))
        if "error" in head:
            raise _ERRORS[head["error"]](head["detail"])
        if head["bytes"] != math.prod((crops, recipe.crop, recipe.crop, 3)):
            raise ValueError("not as many pixels as the crops have")
        pixels = await answers.readexactly(head["bytes"])
        made = list(np.frombuffer(pixels, np.uint8).reshape(head["shape"]))
        return Cropped(made, head["width"], head["height"], head["format"], head["began"], head["ended"])

    async def _start(self) -> asyncio.subprocess.Process:
        root = Path(__file__).parents[1]
        environ = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ
        }
        # Nothing here computes with BLAS, whose threads would take addresses and nothing else.
        environ |= {"PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service.crops", str(self._memory)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environ,
            limit=1 << 20,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                ready = await process.stdout.readline()
            if ready != b"ready\n":
                raise OSError("a process for decoding does not start; what it wrote on stderr says why")
        except BaseException:
            self._kill(process)
            raise
        if self._closing:  # and those that run have been ended
            self._kill(process)
        self._running.add(process)
        return process

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.kill()

    def _replace(self, process: asyncio.subprocess.Process) -> None:
        self._kill(process)
        self._running.discard(process)
        if not self._running:
            self._none_since = time.perf_counter()
        if not self._closing:
            self._keep(asyncio.create_task(self._start_another()))

    async def _start_another(self) -> None:
        while not self._closing:
            try:
                self._idle.put_nowait(await self._start())
            except (OSError, TimeoutError) as error:
                log.error("a process for decoding does not start, again in %g s: %s", _RESTART_S, error)
                await asyncio.sleep(_RESTART_S)
            else:
                return

    def _keep(self, task: "asyncio.Task[Kept]") -> "asyncio.Task[Kept]":
        """The loop holds tasks weakly; and a failure that nobody waits for is not one of the log's."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return task
