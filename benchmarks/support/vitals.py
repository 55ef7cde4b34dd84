"""Watch a server during a long run: its process, and its responses to a few requests; check criteria.

The acceptance criteria are evaluated and reported at the end of the run.
"""

import argparse
import http.client
import json
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.support.machine import family


@dataclass(frozen=True)
class Sample:
    """The server and its descendants at `when` (time.monotonic, s); memory is in MB of 10^6 bytes."""

    when: float
    memory_mb: float
    threads: int
    descriptors: int


@dataclass(frozen=True)
class Response:
    """A response to a request sent at `when`; `status` 0 is none; `label` is the predicted one."""

    when: float
    status: int
    ms: float
    label: str | None = None


@dataclass(frozen=True)
class Criterion:
    """An acceptance criterion and its result; with `depends_on_speed`, it depends on the machine."""

    name: str
    measured: str
    passed: bool
    depends_on_speed: bool = False


def take_sample(pid: int) -> Sample:
    """Take a sample of the server process and its descendants."""
    memory = threads = descriptors = 0
    for member in family(pid):
        folder = Path(f"/proc/{member}")
        try:
            memory += int((folder / "statm").read_text().split()[1]) * resource.getpagesize()
            threads += len(list((folder / "task").iterdir()))
            descriptors += len(list((folder / "fd").iterdir()))
        except OSError:
            continue
    return Sample(time.monotonic(), memory / 1e6, threads, descriptors)


@dataclass
class Watcher:
    """Watches a server during a `with` block.

    Takes a sample every `period` s, requests /health/live ten times and /predict with `image` twice per
    second, each on a new connection.
    """

    url: str
    pid: int
    image: bytes
    period: float = 1.0
    samples: list[Sample] = field(default_factory=list)
    health: list[Response] = field(default_factory=list)
    answers: list[Response] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._sample),
            threading.Thread(target=self._ask, args=(self.health, "GET", "/health/live", 0.1)),
            threading.Thread(target=self._ask, args=(self.answers, "POST", "/predict", 0.5)),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _sample(self) -> None:
        while True:
            self.samples.append(take_sample(self.pid))
            if self._ended.wait(self.period):
                return

    def _ask(self, responses: list[Response], method: str, path: str, pause: float) -> None:
        while not self._ended.wait(pause):
            responses.append(ask(self.url, method, path, self.image if method == "POST" else b""))


def ask(url: str, method: str, path: str, body: bytes = b"", timeout: float = 60) -> Response:
    """Send one request on a new connection."""
    split, start = urlsplit(url), time.monotonic()
    connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=timeout)
    status, label = 0, None
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        status = answer.status
        _before, mark, after = text.partition('"predictions":[{"label":"')
        label = after.partition('"')[0] if mark else None
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    return Response(start, status, 1000 * (time.monotonic() - start), label)


def growth(
    samples: list[Sample], name: str, statistic: Callable[[list[float]], float]
) -> tuple[float, float]:
    """Return the statistic of the second and of the last quarter; the first one is warm-up."""
    quarter = max(1, len(samples) // 4)
    values = [float(getattr(entry, name)) for entry in samples]
    return statistic(values[quarter : 2 * quarter] or values), statistic(values[-quarter:])


def memory_is_flat(samples: list[Sample]) -> Criterion:
    """Compare the medians of memory; the maximum depends on how many images were in flight at once."""
    early, late = growth(samples, "memory_mb", median)
    peak = max(entry.memory_mb for entry in samples)
    return Criterion(
        "memory stays flat (5 % and 20 MB)",
        f"{early:.0f} MB early, {late:.0f} MB late (medians; peak {peak:.0f})",
        late <= 1.05 * early + 20,
    )


def does_not_grow(samples: list[Sample], name: str, allowed: int) -> Criterion:
    """Compare the maxima of a count early and late in the run."""
    early, late = growth(samples, name, max)
    text = f"{early:.0f} early, {late:.0f} late"
    return Criterion(f"{name} do not grow ({allowed} more allowed)", text, late <= early + allowed)


def options(doc: str, seconds: float) -> argparse.ArgumentParser:
    """Return a parser with the options of every long run."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/flowers17.onnx"))
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: drawn, 101 KB each")
    parser.add_argument("--seconds", type=float, default=seconds, help="of the run")
    parser.add_argument("--peak-seconds", type=float, default=20.0, help="for measuring the peak")
    parser.add_argument("--json", type=Path, help="file for all results")
    return parser


def report(criteria: list[Criterion], results: dict[str, Any], file: Path | None) -> int:
    """Print the criteria and write all results to `file`; return the exit code."""
    if file is not None:
        record = results | {"criteria": [asdict(criterion) for criterion in criteria]}
        file.write_text(json.dumps(record, indent=1))
    width = max(len(criterion.name) for criterion in criteria)
    for criterion in criteria:
        outcome = "passed" if criterion.passed else "FAILED"
        print(f"{outcome}  {criterion.name:<{width}}  {criterion.measured}")
    return 0 if all(criterion.passed for criterion in criteria) else 1
