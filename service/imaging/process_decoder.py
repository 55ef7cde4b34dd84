"""Decoding in processes of their own, each limited in memory."""

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
from service.imaging.decoder import Watch
from service.observability.logs import log
from service.stdio import real_stderr

# Of a process, beside the picture itself: its body twice, what profiles and parsers take.
_OVERHEAD: Final = 150_000_000
_START_S: Final = 60.0
_RESTART_S: Final = 1.0  # between attempts to start a process, when it does not start
_PAUSE_S: Final = 0.1  # before a second attempt
_BROKEN: Final = "decoding the image ended the process that did it; it is broken"
_SHARED: Final = 10 * 3 * max(recipe.crop for recipe in RECIPES.values()) ** 2  # bytes: ten crops
_LINE: Final = 65536  # bytes of an answer, at most
_ERRORS: Final = {kind.__name__: kind for kind in (UnsupportedImage, InvalidImage, TooManyPixels)}


class _Ended(Exception):
    """The process has ended before its answer, or has said what it was not asked."""


class Process:
    """Its standard input and output are one socket, and its crops are in memory that it shares: through the
    socket they took half a millisecond of the kernel's time.
    """

    def __init__(self, memory: int) -> None:
        root = Path(__file__).parents[2]
        environ = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ
        }
        # Nothing here computes with BLAS, whose threads would take addresses and nothing else.
        environ |= {"PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._socket, its = socket.socketpair()
        shared = os.memfd_create("crops", os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(shared, _SHARED)
            # What cannot be read any more would end the process that reads it.
            fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._shared = mmap(shared, _SHARED, prot=PROT_READ)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.imaging.decode_worker", str(memory), str(shared)],
                stdin=its.fileno(),
                stdout=its.fileno(),
                stderr=real_stderr(),
                env=environ,
                pass_fds=[shared],
            )
        finally:
            its.close()
            os.close(shared)
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        """Raises OSError, of which TimeoutError is one."""
        try:
            if self._read_line(time.monotonic() + _START_S) != b"ready\n":
                raise OSError
        except (OSError, _Ended) as error:
            self.kill()
            raise OSError(
                "a process for decoding does not start; what it wrote on stderr says why"
            ) from error

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> int:
        """-> its exit code."""
        self._process.kill()
        code = self._process.wait()
        self._socket.close()
        return code

    def decode(self, job: dict[str, Any], data: bytes, recipe: Recipe, timeout: float) -> DecodedImage:
        """Raises ImageError, SlowPicture, and where it has ended then _Ended, and after `timeout` s
        TimeoutError.
        """
        end = time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(json.dumps(job).encode() + b"\n" + data)
            said = json.loads(self._read_line(end))
            if "error" in said:
                raise _ERRORS[said["error"]](said["detail"])
            if "slow" in said:
                raise SlowPicture(said["slow"])
            return DecodedImage(list(shared_crops(self._shared, recipe, job["crops"]).copy()), **said)
        except (ImageError, SlowPicture):
            raise
        except Exception as error:  # it has ended, or says what it was not asked
            self.kill()
            if isinstance(error, TimeoutError):
                raise
            raise _Ended from None

    def _read_line(self, end: float) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            self._socket.settimeout(max(1e-3, end - time.monotonic()))
            more = self._socket.recv(_LINE)
            if not more or len(line) > _LINE:
                raise _Ended
            line += more
        return line


class ProcessDecoder:
    """`timeout` in seconds, 0 for none. What takes longer, or ends two processes one after the other, is
    answered with InvalidImage, and they are replaced; the images beside it are in others.
    """

    def __init__(self, processes: int, max_pixels: int, timeout: float) -> None:
        self._max_pixels = max_pixels
        self._timeout = timeout or threading.TIMEOUT_MAX
        self._count = processes
        self._memory = max_pixels * BYTES_PER_PIXEL + _OVERHEAD
        self._idle: SimpleQueue[Process | None] = SimpleQueue()
        self._running: set[Process] = set()
        self._none_since = time.perf_counter()
        self._lost: SimpleQueue[bool] = SimpleQueue()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="decode_keeper", daemon=True)

    @property
    def stuck_for(self) -> float:
        return 0.0 if self._running else time.perf_counter() - self._none_since

    def start(self) -> None:
        started = [Process(self._memory) for _number in range(self._count)]
        for process in started:
            self._take_in(process)
        self._keeper.start()

    def close(self) -> None:
        self._closing.set()
        self._lost.put(False)
        self._idle.put(None)
        for process in self._running.copy():
            process.kill()

    def decode(self, data: bytes, recipe: Recipe, crops: int, slow: bool, watch: Watch) -> DecodedImage:
        job = {"bytes": len(data), "recipe": recipe.id, "max_pixels": self._max_pixels}
        job |= {"crops": crops, "slow": slow}
        for pause in (_PAUSE_S, 0.0):
            process = self._wait_for_one()
            watch.began = time.perf_counter()
            try:
                return process.decode(job, data, recipe, self._timeout)
            except TimeoutError:
                log.warning("decoding a picture takes longer than DECODE_TIMEOUT_MS; its process is killed")
                raise too_long(self._timeout) from None
            except _Ended:
                # It may have been killed for the memory that others took; they end soon too.
                time.sleep(pause)
            finally:
                self._give_back(process)
        raise InvalidImage(_BROKEN)

    def _wait_for_one(self) -> Process:
        """-> a process that has nothing to do."""
        while True:
            process = self._idle.get()
            if process is None:
                self._idle.put(None)
                raise InvalidImage(_BROKEN)  # nobody waits for it any more
            if not process.ended:
                return process
            self._give_back(process)  # it was killed while it was idle

    def _give_back(self, process: Process) -> None:
        if not process.ended:
            self._idle.put(process)
            return
        log.error("a process that decodes ended with %s and is replaced", process.kill())
        self._running.discard(process)
        if not self._running:
            self._none_since = time.perf_counter()
        self._lost.put(True)

    def _take_in(self, process: Process) -> None:
        """Raises OSError."""
        process.wait_until_ready()
        self._running.add(process)
        if self._closing.is_set():  # and those that run have been killed
            process.kill()
        self._idle.put(process)

    def _keep(self) -> None:
        """A process is killed with the thread that started it, so this one starts all."""
        while self._lost.get():
            while not self._closing.is_set():
                try:
                    self._take_in(Process(self._memory))
                    break
                except OSError as error:
                    log.error("a process for decoding does not start, again in %g s: %s", _RESTART_S, error)
                    self._closing.wait(_RESTART_S)
