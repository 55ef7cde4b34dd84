"""Decode images in worker processes, each with a limit of memory, and replace those that end."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from mmap import PROT_READ, mmap
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from contract.picture import ImageError, InvalidImage, TooManyPixels, UnsupportedImage
from contract.recipe import RECIPES, Recipe
from service.imaging.decode import BYTES_PER_PIXEL, DecodedImage, SlowPicture, shared_crops, too_long
from service.imaging.decoder import DecodeClock
from service.observability.logs import log
from service.stdio import real_stderr

# Memory of a process beside the decoded picture: its file twice, colour profiles, parsers.
_OVERHEAD: Final = 150_000_000
_START_S: Final = 60.0
_RESTART_S: Final = 1.0  # between attempts to start a process
_PAUSE_S: Final = 0.1  # before a second attempt
_BROKEN: Final = "decoding the image ended the process that decoded it; the image is broken"
_SHARED: Final = 10 * 3 * max(recipe.crop for recipe in RECIPES.values()) ** 2  # bytes of ten crops
_LINE: Final = 65536  # maximum bytes of an answer
_ERRORS: Final = {kind.__name__: kind for kind in (UnsupportedImage, InvalidImage, TooManyPixels)}


class _ProcessEnded(Exception):
    """The process ended before it answered, or its answer is not valid."""


class Process:
    """A worker process, and the socket and the shared memory by which it is reached.

    Its standard input and output are the socket. The crops come through the shared memory: through the
    socket they cost half a millisecond of the kernel's time.
    """

    def __init__(self, memory: int) -> None:
        root = Path(__file__).parents[2]
        environ = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ
        }
        # BLAS is not used there; its threads would only take address space from the limit.
        environ |= {"PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._socket, worker_socket = socket.socketpair()
        shared = os.memfd_create("crops", os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(shared, _SHARED)
            # If a worker could truncate the memory, reading it would kill the service by SIGBUS.
            fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._shared = mmap(shared, _SHARED, prot=PROT_READ)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.imaging.decode_worker", str(memory), str(shared)],
                stdin=worker_socket.fileno(),
                stdout=worker_socket.fileno(),
                stderr=real_stderr(),
                env=environ,
                pass_fds=[shared],
            )
        finally:
            worker_socket.close()
            os.close(shared)
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until the process can decode. Raises OSError if it does not start, or not in time."""
        try:
            if self._read_line(time.monotonic() + _START_S) != b"ready\n":
                raise OSError
        except (OSError, _ProcessEnded) as error:
            self.kill()
            raise OSError(
                "a decoding process does not start; see its output on stderr for the reason"
            ) from error

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> int:
        """Kill the process and return its exit code."""
        self._process.kill()
        code = self._process.wait()
        self._socket.close()
        return code

    def decode(self, job: dict[str, Any], data: bytes, recipe: Recipe, timeout: float) -> DecodedImage:
        """Decode one image in the process.

        Raises ImageError and SlowPicture. It kills the process and raises TimeoutError after `timeout` s,
        and _ProcessEnded if the process ended or its answer is not valid.
        """
        deadline = time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(json.dumps(job).encode() + b"\n" + data)
            answer = json.loads(self._read_line(deadline))
            if "error" in answer:
                raise _ERRORS[answer["error"]](answer["detail"])
            if "slow" in answer:
                raise SlowPicture(answer["slow"])
            return DecodedImage(shared_crops(self._shared, recipe, job["crops"]).copy(), **answer)
        except (ImageError, SlowPicture):
            raise
        except Exception as error:  # the process ended, or its answer is not valid
            self.kill()
            if isinstance(error, TimeoutError):
                raise
            raise _ProcessEnded from None

    def _read_line(self, deadline: float) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            self._socket.settimeout(max(1e-3, deadline - time.monotonic()))
            received = self._socket.recv(_LINE)
            if not received or len(line) > _LINE:
                raise _ProcessEnded
            line += received
        return line


class ProcessDecoder:
    """Decode in `processes` worker processes; replace those that end or are killed.

    An image that takes longer than `timeout` s (0: no limit), or that ends two processes one after the
    other, raises InvalidImage. Images that are decoded at the same time are in other processes.
    """

    def __init__(self, processes: int, max_pixels: int, timeout: float) -> None:
        self._max_pixels = max_pixels
        self._timeout = timeout or threading.TIMEOUT_MAX
        self._count = processes
        self._memory = max_pixels * BYTES_PER_PIXEL + _OVERHEAD
        self._idle: SimpleQueue[Process | None] = SimpleQueue()
        self._running: set[Process] = set()
        self._none_since = time.perf_counter()
        self._lost: SimpleQueue[bool] = SimpleQueue()  # True per process to replace, False at the end
        self._closing = threading.Event()
        self._supervisor = threading.Thread(
            target=self._restart_lost, name="decode_supervisor", daemon=True
        )

    @property
    def stuck_for(self) -> float:
        return 0.0 if self._running else time.perf_counter() - self._none_since

    def start(self) -> None:
        started = [Process(self._memory) for _number in range(self._count)]
        for process in started:
            self._add_process(process)
        self._supervisor.start()

    def close(self) -> None:
        self._closing.set()
        self._lost.put(False)
        self._idle.put(None)
        for process in self._running.copy():
            process.kill()

    def decode(
        self, data: bytes, recipe: Recipe, crops: int, slow: bool, clock: DecodeClock
    ) -> DecodedImage:
        job = {"bytes": len(data), "recipe": recipe.id, "max_pixels": self._max_pixels}
        job |= {"crops": crops, "slow": slow}
        for pause in (_PAUSE_S, 0.0):
            process = self._acquire_process()
            clock.began = time.perf_counter()
            try:
                return process.decode(job, data, recipe, self._timeout)
            except TimeoutError:
                log.warning("an image takes longer than DECODE_TIMEOUT_MS to decode; its process is killed")
                raise too_long(self._timeout) from None
            except _ProcessEnded:
                # The kernel may have killed it for memory that other processes took, which soon end too.
                time.sleep(pause)
            finally:
                self._release(process)
        raise InvalidImage(_BROKEN)

    def _acquire_process(self) -> Process:
        """Wait for an idle process."""
        while True:
            process = self._idle.get()
            if process is None:
                self._idle.put(None)
                raise InvalidImage(_BROKEN)  # the decoder is closed
            if not process.ended:
                return process
            self._release(process)  # it was killed while it was idle

    def _release(self, process: Process) -> None:
        if not process.ended:
            self._idle.put(process)
            return
        log.error("a decoding process ended with exit code %s and is replaced", process.kill())
        self._running.discard(process)
        if not self._running:
            self._none_since = time.perf_counter()
        self._lost.put(True)

    def _add_process(self, process: Process) -> None:
        """Wait until a new process can decode, then use it. Raises OSError."""
        process.wait_until_ready()
        self._running.add(process)
        if self._closing.is_set():  # close() has killed the others already
            process.kill()
        self._idle.put(process)

    def _restart_lost(self) -> None:
        """Replace the processes that ended, until the decoder is closed.

        The kernel kills a process when the thread that started it ends, so a thread that stays starts all.
        """
        while self._lost.get():
            while not self._closing.is_set():
                try:
                    self._add_process(Process(self._memory))
                    break
                except OSError as error:
                    log.error(
                        "a decoding process does not start; next attempt in %g s: %s", _RESTART_S, error
                    )
                    self._closing.wait(_RESTART_S)
