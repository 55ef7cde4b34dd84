"""WORKERS processes on one socket, where one Python process cannot feed the device.

The parent listens, starts the workers, hands signals on to them, and starts one again that has died or
does not answer any more. On GPUs they take turns. prometheus_client adds their metrics up in a folder.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from prometheus_client.multiprocess import mark_process_dead

from service import stdio
from service.observability import logs
from service.observability.metrics import METRICS_BYTES, METRICS_FOLDER
from service.server import signals
from service.server.run import exit_code, serve
from service.server.uvicorn_server import FORCED_EXIT_S
from service.settings import Settings, SettingsError

PERIOD_S: Final = 0.1
MAX_DEATHS: Final = 5  # of workers, within MINUTE_S; then the service ends, for a supervisor to see
MINUTE_S: Final = 60.0
MIN_SILENCE_S: Final = 5.0  # REQUEST_TIMEOUT_S may be shorter than a busy machine needs for a beat
BEAT: Final = b"\0"
PR_SET_PDEATHSIG: Final = 1  # of Linux' prctl.h


class Worker:
    """A process that serves on the parent's socket, and a pipe on which it says what it serves, and from
    then on every second that its event loop turns.
    """

    def __init__(self, number: int, listener: socket.socket) -> None:
        self._pipe, its = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.server.workers", str(listener.fileno()), str(its)],
            env=os.environ | gpu_for(number),
            pass_fds=(listener.fileno(), its),
            process_group=0,  # or Ctrl-C would reach it twice
        )
        os.close(its)
        os.set_blocking(self._pipe, False)
        self._beating = False
        self._silent_s = 0.0

    def wait_until_ready(self) -> list[str]:
        """What it serves, by which provider, and a path to ask; nothing if it has ended instead."""
        os.set_blocking(self._pipe, True)
        said = b""
        while said.count(b"\n") < 3 and (more := os.read(self._pipe, 65536)):
            said += more
        os.set_blocking(self._pipe, False)
        return said.decode().split("\n")[:3] if said.count(b"\n") == 3 else []

    def silent_for(self, passed: float) -> float:
        """-> seconds without a beat, `passed` s after the last call; 0 before the first one.

        They are counted by the calls: where the parent stands still too, in a paused container, none pass.
        """
        heard = b""
        with suppress(BlockingIOError):
            heard = os.read(self._pipe, 65536)
        self._beating = self._beating or BEAT in heard
        self._silent_s = self._silent_s + passed if self._beating and BEAT not in heard else 0.0
        return self._silent_s

    def end_within(self, seconds: float) -> bool:
        """-> whether it has ended by itself; if not, it is killed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        os.close(self._pipe)


class Workers:
    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._members: list[Worker] = []
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self.stopping = self.failed = False

    def start(self) -> None:
        for number in range(self._settings.workers):
            self._members.append(Worker(number, self._listener))
            self._stop_too(self._members[-1])

    def wait_until_ready(self) -> list[str]:
        """What they serve, by which provider, and a path to ask; nothing if one of them has ended."""
        said = [member.wait_until_ready() for member in self._members]
        return said[0] if all(said) else []

    def forward_signal(self, number: int, _frame: FrameType | None = None) -> None:
        self.stopping = self.stopping or number != signal.SIGHUP
        for member in self._members:
            if member.process.poll() is None:
                member.process.send_signal(number)

    def hang_up(self, number: int, _frame: FrameType | None = None) -> None:
        """Have the models read again, or stop where the terminal has been closed."""
        self.forward_signal(signal.SIGTERM if signals.terminal_is_closed() else number)

    def kill_unresponsive_workers(self, passed: float) -> None:
        """Those that are stopped, or whose event loop hangs: the connections that they have are lost."""
        limit = max(self._settings.request_timeout_s, MIN_SILENCE_S)
        for place, member in enumerate(self._members):
            if member.silent_for(passed) > limit and member.process.poll() is None:
                logs.log.error("worker %s has not answered for %g s and is killed", place, limit)
                member.kill()

    def restart_workers(self) -> None:
        """So many deaths in so short a time that it does not help are a failure."""
        for place, member in enumerate(self._members):
            if member.process.poll() is None or self.stopping:
                continue
            logs.log.error("worker %s has ended with %s", place, member.process.returncode)
            mark_process_dead(member.process.pid)  # type: ignore[no-untyped-call]
            self._deaths.append(time.monotonic())
            if len(self._deaths) == MAX_DEATHS and self._deaths[-1] - self._deaths[0] < MINUTE_S:
                self.failed = True
                return
            member.close()
            self._members[place] = Worker(place, self._listener)
            self._stop_too(self._members[place])

    def _stop_too(self, member: Worker) -> None:
        """If the signal came while it was being started, and went to the dead one in its place."""
        if self.stopping:
            member.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """They end by themselves within the limits of a stop, unless one does not run at all."""
        if not self.stopping:
            self.forward_signal(signal.SIGTERM)
        settings = self._settings
        end = time.monotonic() + settings.drain_delay_s + settings.drain_timeout_s + FORCED_EXIT_S + 1
        for place, member in enumerate(self._members):
            if not member.end_within(max(0.0, end - time.monotonic())):
                logs.log.error("worker %s does not stop and is killed", place)
                self.failed = True


def supervise(settings: Settings, listener: socket.socket, ready: Callable[[str, str, str], None]) -> int:
    """Serves until a signal comes; -> 0, or 1 if the workers do not start or keep dying. Raises
    SettingsError.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="alexnet-metrics-"))
            # A full disk kills whoever writes to a file that is mapped: better now than then.
            (Path(folder) / "room").write_bytes(bytes(METRICS_BYTES * settings.workers))
            (Path(folder) / "room").unlink()
        except OSError as error:
            raise SettingsError(
                f"WORKERS is {settings.workers}; their metrics need {METRICS_BYTES} bytes each in "
                f"TMPDIR: {error.strerror}"
            ) from None
        os.environ[METRICS_FOLDER] = folder
        os.environ["MAX_CONNECTIONS"] = str(settings.max_connections)  # what the limit of open files left
        # Until there is whom to hand it on to; they inherit it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        workers = Workers(settings, listener)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, workers.forward_signal)
        workers.start()
        signal.signal(signal.SIGHUP, workers.hang_up)
        served = workers.wait_until_ready()
        if served:
            names, provider, path = served
            ready(names, f"{provider}, {settings.workers} workers", path)
        workers.failed = not served and not workers.stopping
        while not workers.stopping and not workers.failed:
            time.sleep(PERIOD_S)
            workers.kill_unresponsive_workers(PERIOD_S)
            workers.restart_workers()
        workers.end()
        return 1 if workers.failed else 0


def gpu_for(number: int) -> dict[str, str]:
    """The variable that shows a worker its GPU alone: they take turns on those there are."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        folder = Path("/proc/driver/nvidia/gpus")
        gpus = [str(n) for n, _gpu in enumerate(folder.iterdir())] if folder.is_dir() else []
    else:
        gpus = [gpu for gpu in shown.split(",") if gpu]
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}


def main(listener: int, says: int) -> int:
    """One worker."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # when the parent is killed

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the models are being read anyway
    for descriptor in (listener, says):  # not for the processes that decode
        os.set_inheritable(descriptor, False)
    os.set_blocking(says, False)  # a parent that stands still is not waited for

    def ready(*said: str) -> None:
        os.write(says, "".join(f"{line}\n" for line in said).encode())

    def beat() -> None:
        with suppress(OSError):  # it is full, or the parent has gone
            os.write(says, BEAT)

    settings = Settings.from_environ()
    stdio.log_library_stderr()
    logs.configure(settings.log_format)
    return serve(settings, socket.socket(fileno=listener), ready, beat)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(*map(int, sys.argv[1:]))))
