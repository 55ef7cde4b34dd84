"""Decoding in processes of their own, each limited in memory."""

import asyncio
import json
import math
import os
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from contract.picture import ImageError, InvalidImage, TooManyPixels, UnsupportedImage
from contract.recipe import Recipe
from service.crops import BYTES_PER_PIXEL, Cropped, SlowPicture, Then, too_long
from service.logs import log
from service.slow import SlowWork
from service.stdio import real_stderr

# Of a process, beside the picture itself: its body twice, what profiles and parsers take.
_OVERHEAD: Final = 150_000_000
_START_S: Final = 60.0
_RESTART_S: Final = 1.0  # between attempts to start a process, when it does not start
_PAUSE_S: Final = 0.1  # before a second attempt
_DECODING: Final = "decoding"  # the name of tasks that may wait for a process
_BROKEN: Final = "decoding the image ended the process that did it; it is broken"
_ERRORS: Final = {kind.__name__: kind for kind in (UnsupportedImage, InvalidImage, TooManyPixels)}

Kept = TypeVar("Kept")


class _Ended(Exception):
    """The process has ended before its answer."""


@dataclass(frozen=True)
class _Job:
    data: bytes
    recipe: Recipe
    crops: int
    slow: bool  # it may take long


class Processes:
    """`timeout` in seconds, 0 for none. What takes longer, or ends two processes one after the other, is
    answered with InvalidImage and they are replaced; the pictures beside it are in others. Pictures that
    take long have all processes but one at most; those that would wait for more than `max_wait` s are
    refused with Overloaded.
    """

    def __init__(self, processes: int, max_pixels: int, timeout: float, max_wait: float = math.inf) -> None:
        self._max_pixels = max_pixels
        self._timeout = timeout
        self._count = processes
        slow = max(1, processes - 1)
        self._slow_work, self._slow_turns = SlowWork(slow, max_wait), asyncio.Semaphore(slow)
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
        # Awaited in tasks of their own: whoever asked may go away, and the process is in the middle of an
        # answer. This frame does not hold them: an error would hold the frame, and both the picture, until
        # the collector comes.
        try:
            return await asyncio.shield(self._begin(await self._free(), data, recipe, crops))
        except SlowPicture as slow:
            seconds = slow.seconds
        with ExitStack() as undo:
            self._slow_work.add(seconds)
            undo.callback(self._slow_work.remove, seconds)
            await self._slow_turns.acquire()
            undo.callback(self._slow_turns.release)
            process = await self._free()
            done = undo.pop_all()  # not when whoever asked has gone, but when the process has ended
        return await asyncio.shield(self._begin(process, data, recipe, crops, done))

    def _begin(
        self,
        process: asyncio.subprocess.Process,
        data: bytes,
        recipe: Recipe,
        crops: int,
        slow: ExitStack | None = None,
    ) -> "asyncio.Task[Cropped]":
        """`slow` is closed at the end; without it the task may raise SlowPicture."""
        job = _Job(data, recipe, crops, slow is not None)
        task = self._keep(asyncio.create_task(self._decode(process, job), name=_DECODING))
        if slow is not None:
            task.add_done_callback(lambda _task: slow.close())
        return task

    async def close(self) -> None:
        self._closing = True
        for process in list(self._running):
            self._kill(process)
            await process.wait()
        for task in self._tasks:
            if task.get_name() == _DECODING:
                task.cancel()  # it may wait for a process, and there are none any more
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _free(self) -> asyncio.subprocess.Process:
        """-> a process that has nothing to do. Those that have ended meanwhile are replaced."""
        while _has_ended(process := await self._idle.get()):
            self._replace(process)
        return process

    async def _decode(self, process: asyncio.subprocess.Process, job: _Job) -> Cropped:
        with suppress(_Ended):
            return await self._ask(process, job)
        # It may have been killed while it was idle, or for the memory that others took; they end soon too.
        await asyncio.sleep(_PAUSE_S)
        with suppress(_Ended):
            return await self._ask(await self._free(), job)
        raise InvalidImage(_BROKEN)

    async def _ask(self, process: asyncio.subprocess.Process, job: _Job) -> Cropped:
        try:
            async with asyncio.timeout(self._timeout or None):
                made = await self._exchange(process, job)
        except (ImageError, SlowPicture):
            self._idle.put_nowait(process)
            raise
        except TimeoutError:
            log.warning("a picture takes longer than DECODE_TIMEOUT_MS to decode; its process is replaced")
            self._replace(process)
            raise too_long(self._timeout) from None
        except Exception as error:  # it has ended, or what it says is not what it was asked for
            self._kill(process)
            log.error("a process that decodes ended with %s and is replaced", await process.wait())
            self._replace(process)
            if isinstance(error, ConnectionError | asyncio.IncompleteReadError):
                raise _Ended from None
            raise InvalidImage(_BROKEN) from None
        self._idle.put_nowait(process)
        return made

    async def _exchange(self, process: asyncio.subprocess.Process, job: _Job) -> Cropped:
        """Raises ImageError, SlowPicture, and anything else when the process has ended or says what it was
        not asked.
        """
        asked, answers = process.stdin, process.stdout
        assert asked is not None
        assert answers is not None
        line = {
            "bytes": len(job.data),
            "recipe": job.recipe.id,
            "max_pixels": self._max_pixels,
            "crops": job.crops,
            "slow": job.slow,
        }
        asked.write(json.dumps(line).encode() + b"\n")
        asked.write(job.data)
        await asked.drain()
        head = json.loads(await answers.readuntil(b"\n"))
        if "error" in head:
            raise _ERRORS[head["error"]](head["detail"])
        if "slow" in head:
            raise SlowPicture(head["slow"])
        if head["bytes"] != math.prod((job.crops, job.recipe.crop, job.recipe.crop, 3)):
            raise ValueError("not as many pixels as the crops have")
        pixels = await answers.readexactly(head["bytes"])
        made = list(np.frombuffer(pixels, np.uint8).reshape(head["shape"]))
        return Cropped(made, **head["facts"])

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
            stderr=real_stderr(),
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
            await process.wait()
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


def _has_ended(process: asyncio.subprocess.Process) -> bool:
    """Asks the kernel: the loop learns of it later."""
    if process.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
