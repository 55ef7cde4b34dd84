"""Where pictures are decoded: in threads of this process, or in processes of their own that are killed when
a picture takes too long and that cannot take this one with them. Both have one interface, `Decoder`.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from contract.picture import ImageError, InvalidImage, TooManyPixels, UnsupportedImage
from contract.recipe import Recipe
from service.admission import PixelBudget
from service.crops import BYTES_PER_PIXEL, Cropped, decode_crops
from service.logs import log
from service.settings import Settings

# Of a process, beside the picture itself: its body twice, what profiles and parsers take.
_OVERHEAD: Final = 150_000_000
_START_S: Final = 60.0
_RESTART_S: Final = 1.0  # between attempts to start a process, when it does not start
_ERRORS: Final = {kind.__name__: kind for kind in (UnsupportedImage, InvalidImage, TooManyPixels)}


class Decoder(Protocol):
    @property
    def alive(self) -> bool:
        """A picture that came now would be decoded, sooner or later."""

    @property
    def stuck_for(self) -> float:
        """Seconds for which nothing could be decoded any more; 0 while something can."""

    async def start(self) -> None:
        """Before the first picture. Raises OSError or TimeoutError."""

    async def decode(self, data: bytes, recipe: Recipe, crops: int) -> Cropped:
        """Raises ImageError, for a picture that takes too long too."""

    async def close(self) -> None:
        """Nothing is asked any more."""


def decoder_for(settings: Settings, threads: int) -> Decoder:
    timeout = settings.decode_timeout_ms / 1000
    if settings.decode_processes:
        return Processes(settings.decode_processes, settings.max_pixels, timeout)
    return Threads(threads, settings.max_pixels, timeout)


def too_long(limit: float) -> InvalidImage:
    return InvalidImage(f"the image takes longer than {limit * 1000:g} ms to decode; send it smaller")


class _Clock:
    """How long a picture has been worked on; waiting for memory does not count."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = time.perf_counter()

    @property
    def seconds(self) -> float:
        since = self._since
        return self._before + (time.perf_counter() - since if since is not None else 0.0)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self._before, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.perf_counter()


class Threads:
    """`timeout` in seconds, 0 for none. A thread cannot be ended: a picture that takes too long is
    answered in time, but its thread is lost until the decoder is done with it.
    """

    def __init__(self, threads: int, max_pixels: int, timeout: float) -> None:
        self._max_pixels = max_pixels
        self._timeout = timeout
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._free = asyncio.Semaphore(
            threads
        )  # waited for here, so that time in the queue is not decoding
        self._budget = PixelBudget(max_pixels * BYTES_PER_PIXEL)
        self._stuck: dict[int, float] = {}  # since when
        self._jobs = 0

    @property
    def alive(self) -> bool:
        return len(self._stuck) < self._threads

    @property
    def stuck_for(self) -> float:
        return 0.0 if self.alive else time.perf_counter() - max(self._stuck.values())

    async def start(self) -> None:
        pass

    async def decode(self, data: bytes, recipe: Recipe, crops: int) -> Cropped:
        await self._free.acquire()
        self._jobs += 1
        job = self._jobs

        def end(ended: "asyncio.Future[Cropped]") -> None:
            self._free.release()
            self._stuck.pop(job, None)
            if not ended.cancelled():
                ended.exception()  # of one for which nobody waits any more

        clock = _Clock()
        work = asyncio.get_running_loop().run_in_executor(
            self._pool, self._decode, data, recipe, crops, clock
        )
        work.add_done_callback(end)
        del data
        while self._timeout and clock.seconds < self._timeout:
            # Shielded: a caller that goes away leaves a thread that goes on.
            done, _pending = await asyncio.wait([work], timeout=self._timeout - clock.seconds)
            if done:
                break
        if self._timeout and not work.done():
            self._stuck[job] = time.perf_counter()
            log.warning(
                "decoding a picture takes longer than DECODE_TIMEOUT_MS; %d of %d threads are lost to such",
                len(self._stuck),
                self._threads,
            )
            raise too_long(self._timeout)
        return await asyncio.shield(work)

    def _decode(self, data: bytes, recipe: Recipe, crops: int, clock: _Clock) -> Cropped:
        """In a thread."""

        @contextmanager
        def reserve(wanted: int) -> Iterator[None]:
            with ExitStack() as room:
                with clock.stopped():
                    room.enter_context(self._budget.reserve(wanted))
                yield

        return decode_crops(data, recipe, self._max_pixels, crops, reserve)

    async def close(self) -> None:
        self._pool.shutdown(wait=not self._stuck, cancel_futures=True)


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
    def alive(self) -> bool:
        return bool(self._running)

    @property
    def stuck_for(self) -> float:
        return 0.0 if self._running else time.perf_counter() - self._none_since

    async def start(self) -> None:
        for process in await asyncio.gather(*(self._start() for _ in range(self._count))):
            self._idle.put_nowait(process)

    async def decode(self, data: bytes, recipe: Recipe, crops: int) -> Cropped:
        process = await self._idle.get()
        while (
            process.returncode is not None
        ):  # ended while it had nothing to do: no fault of this picture's
            self._replace(process)
            process = await self._idle.get()
        # A task of its own: whoever asked may go away, and the process is in the middle of an answer.
        task = asyncio.create_task(self._ask(process, data, recipe, crops))
        self._keep(task)
        return await asyncio.shield(task)

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
                answer = await self._exchange(process, data, recipe, crops)
        except TimeoutError:
            log.warning("a picture takes longer than DECODE_TIMEOUT_MS to decode; its process is replaced")
            self._replace(process)
            raise too_long(self._timeout) from None
        except (OSError, asyncio.IncompleteReadError, json.JSONDecodeError):
            self._kill(process)
            log.error("a process that decodes ended with %s and is replaced", await process.wait())
            self._replace(process)
            raise InvalidImage("decoding the image ended the process that did it; it is broken") from None
        self._idle.put_nowait(process)
        if isinstance(answer, ImageError):
            raise answer
        return answer

    async def _exchange(
        self, process: asyncio.subprocess.Process, data: bytes, recipe: Recipe, crops: int
    ) -> Cropped | ImageError:
        asked, answers = process.stdin, process.stdout
        assert asked is not None
        assert answers is not None
        job = {"bytes": len(data), "recipe": recipe.id, "max_pixels": self._max_pixels, "crops": crops}
        asked.write(json.dumps(job).encode() + b"\n")
        asked.write(data)
        await asked.drain()
        head = json.loads(await answers.readuntil(b"\n"))
        pixels = await answers.readexactly(head["bytes"])
        if "error" in head:
            return _ERRORS[head["error"]](head["detail"])
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
        async with asyncio.timeout(_START_S):
            ready = await process.stdout.readline()
        if ready != b"ready\n":
            raise OSError("a process for decoding does not start; what it wrote on stderr says why")
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

    def _keep(self, task: "asyncio.Task[object]") -> None:
        """The loop holds tasks weakly; and a failure that nobody waits for is not one of the log's."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
