"""Serve with several worker processes (WORKERS) on one socket, and restart those that die.

The parent binds the socket, starts the workers, forwards signals to them, and restarts those that have died
or no longer respond. GPUs are assigned to them in turn. prometheus_client adds up their metrics, which they
write to files in a common folder.
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
from service.server.worker_count import visible_gpus
from service.settings import Settings, SettingsError

PERIOD_S: Final = 0.1
MAX_DEATHS: Final = 5  # worker deaths within MINUTE_S after which the service ends with an error
MINUTE_S: Final = 60.0
MIN_SILENCE_S: Final = 5.0  # a beat may take longer than REQUEST_TIMEOUT_S on a busy machine
BEAT: Final = b"\0"
PR_SET_PDEATHSIG: Final = 1  # of Linux' prctl.h


class Worker:
    """Start and watch one worker process, which serves on the parent's `listener`.

    On a pipe it first writes what it serves, in three lines, and then one byte every second as long as its
    event loop runs.
    """

    def __init__(self, number: int, listener: socket.socket) -> None:
        self._pipe, write_end = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.server.workers", str(listener.fileno()), str(write_end)],
            env=os.environ | gpu_for(number),
            pass_fds=(listener.fileno(), write_end),
            process_group=0,  # else Ctrl-C would reach it twice
        )
        os.close(write_end)
        os.set_blocking(self._pipe, False)
        self._started = False  # its event loop runs
        self._silent_s = 0.0

    def wait_until_ready(self) -> list[str]:
        """Wait until it serves; return its models' names, the provider and a path to try.

        Returns an empty list if the process has ended instead.
        """
        os.set_blocking(self._pipe, True)
        output = b""
        while output.count(b"\n") < 3 and (data := os.read(self._pipe, 65536)):
            output += data
        os.set_blocking(self._pipe, False)
        self._started = bool(output)
        return output.decode().split("\n")[:3] if output.count(b"\n") == 3 else []

    def silent_for(self, elapsed: float) -> float:
        """Return the seconds without a beat, `elapsed` s after the last call; 0 until it has started.

        They are added up by these calls: while the parent is suspended too, as in a paused container, none
        are counted.
        """
        data = b""
        with suppress(BlockingIOError):
            data = os.read(self._pipe, 65536)
        self._started = self._started or bool(data)
        self._silent_s = self._silent_s + elapsed if self._started and not data else 0.0
        return self._silent_s

    def end_within(self, seconds: float) -> bool:
        """Wait `seconds` for it to end, else kill it. Return whether it ended by itself."""
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
    """Start, watch, restart and stop the worker processes."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._workers: list[Worker] = []
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self.stopping = self.failed = False

    def start(self) -> None:
        for number in range(self._settings.workers):
            self._workers.append(Worker(number, self._listener))
            self._stop_if_stopping(self._workers[-1])

    def wait_until_ready(self) -> list[str]:
        """Wait until all serve; return the models' names, the provider and a path to try.

        Returns an empty list if one of them has ended instead.
        """
        outputs = [worker.wait_until_ready() for worker in self._workers]
        return outputs[0] if all(outputs) else []

    def forward_signal(self, number: int, _frame: FrameType | None = None) -> None:
        """Send a signal to all workers; any but SIGHUP stops the service."""
        self.stopping = self.stopping or number != signal.SIGHUP
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(number)

    def handle_sighup(self, number: int, _frame: FrameType | None = None) -> None:
        """Let the workers reload, or stop them if the terminal has been closed."""
        self.forward_signal(signal.SIGTERM if signals.terminal_is_closed() else number)

    def kill_unresponsive_workers(self, elapsed: float) -> None:
        """Kill workers that are suspended or whose event loop hangs, `elapsed` s after the last call.

        Their connections are lost.
        """
        limit = max(self._settings.request_timeout_s, MIN_SILENCE_S)
        for index, worker in enumerate(self._workers):
            if worker.silent_for(elapsed) > limit and worker.process.poll() is None:
                logs.log.error("worker %s has not responded for %g s and is killed", index, limit)
                worker.kill()

    def restart_workers(self) -> None:
        """Restart workers that have ended; MAX_DEATHS within MINUTE_S are a failure."""
        for index, worker in enumerate(self._workers):
            if worker.process.poll() is None or self.stopping:
                continue
            logs.log.error("worker %s has ended with %s", index, worker.process.returncode)
            mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
            self._deaths.append(time.monotonic())
            if len(self._deaths) == MAX_DEATHS and self._deaths[-1] - self._deaths[0] < MINUTE_S:
                self.failed = True
                return
            worker.close()
            self._workers[index] = Worker(index, self._listener)
            self._stop_if_stopping(self._workers[index])

    def _stop_if_stopping(self, worker: Worker) -> None:
        """Stop a worker that was being started while the signal to stop arrived."""
        if self.stopping:
            worker.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Stop all workers; kill those that do not end within the limits of a shutdown."""
        if not self.stopping:
            self.forward_signal(signal.SIGTERM)
        settings = self._settings
        end = time.monotonic() + settings.drain_delay_s + settings.drain_timeout_s + FORCED_EXIT_S + 1
        for index, worker in enumerate(self._workers):
            if not worker.end_within(max(0.0, end - time.monotonic())):
                logs.log.error("worker %s does not stop and is killed", index)
                self.failed = True


def supervise(settings: Settings, listener: socket.socket, ready: Callable[[str, str, str], None]) -> int:
    """Serve with several workers until a signal arrives.

    Returns the exit code: 0, or 1 if the workers do not start or keep dying. `ready` is called as by
    `serve`. Raises SettingsError if TMPDIR has no space for the workers' metrics.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="alexnet-metrics-"))
            # Workers map these files: on a full disk, a write would kill them. So check the space now.
            (Path(folder) / "space").write_bytes(bytes(METRICS_BYTES * settings.workers))
            (Path(folder) / "space").unlink()
        except OSError as error:
            raise SettingsError(
                f"WORKERS is {settings.workers}; their metrics need {METRICS_BYTES} bytes each in "
                f"TMPDIR: {error.strerror}"
            ) from None
        os.environ[METRICS_FOLDER] = folder
        # For the workers: as reduced by the limit of open files, and as chosen for `auto`.
        os.environ["MAX_CONNECTIONS"] = str(settings.max_connections)
        os.environ["WORKERS"] = str(settings.workers)
        # Ignored until the workers run, which inherit this.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        workers = Workers(settings, listener)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, workers.forward_signal)
        workers.start()
        signal.signal(signal.SIGHUP, workers.handle_sighup)
        served = workers.wait_until_ready()
        if served:
            ready(*served)
        workers.failed = not served and not workers.stopping
        while not workers.stopping and not workers.failed:
            time.sleep(PERIOD_S)
            workers.kill_unresponsive_workers(PERIOD_S)
            workers.restart_workers()
        workers.end()
        return 1 if workers.failed else 0


def gpu_for(number: int) -> dict[str, str]:
    """Return the environment variable that assigns a worker one of the GPUs in turn; {} without a GPU."""
    gpus = visible_gpus()
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}


def main(listener: int, pipe: int) -> int:
    """Run one worker with the descriptors of the socket and of the pipe to the parent."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # when the parent is killed

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the models are being loaded anyway
    for descriptor in (listener, pipe):  # not for decoding processes
        os.set_inheritable(descriptor, False)
    os.set_blocking(pipe, False)  # never wait for a suspended parent

    def ready(*lines: str) -> None:
        os.write(pipe, "".join(f"{line}\n" for line in lines).encode())

    def beat() -> None:
        with suppress(OSError):  # the pipe is full, or the parent has ended
            os.write(pipe, BEAT)

    settings = Settings.from_environ()
    stdio.log_library_stderr()
    logs.configure(settings.log_format)
    return serve(settings, socket.socket(fileno=listener), ready, beat)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(*map(int, sys.argv[1:]))))
