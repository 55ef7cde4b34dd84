"""What a long run watches beside the load: how the server's process is, and how it answers a few requests
of our own; and the verdict at the end.
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
    """At `when` (time.monotonic, s): of the server and its descendants, memory in MB of 10^6 bytes."""

    when: float
    memory_mb: float
    threads: int
    descriptors: int


@dataclass(frozen=True)
class Answered:
    """`status` 0 is no answer; `label` the best one, where there is one."""

    when: float
    status: int
    ms: float
    label: str | None = None


@dataclass(frozen=True)
class Bar:
    """`speed` says that the figure depends on the machine, and not on whether the server is right."""

    name: str
    found: str
    holds: bool
    speed: bool = False


def look(pid: int) -> Sample:
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
    """While `with` lasts: the vital signs every `period` s, /health/live ten times a second and `image` to
    /predict twice a second, each on a connection of its own.
    """

    url: str
    pid: int
    image: bytes
    period: float = 1.0
    samples: list[Sample] = field(default_factory=list)
    health: list[Answered] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)

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
            self.samples.append(look(self.pid))
            if self._ended.wait(self.period):
                return

    def _ask(self, found: list[Answered], method: str, path: str, pause: float) -> None:
        while not self._ended.wait(pause):
            found.append(ask(self.url, method, path, self.image if method == "POST" else b""))


def ask(url: str, method: str, path: str, body: bytes = b"", timeout: float = 60) -> Answered:
    """One request on a connection of its own."""
    split, began = urlsplit(url), time.monotonic()
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
    return Answered(began, status, 1000 * (time.monotonic() - began), label)


def growth(samples: list[Sample], name: str, of: Callable[[list[float]], float]) -> tuple[float, float]:
    """-> `of` the second quarter of the time, and of the last: the first is for warming up."""
    quarter = max(1, len(samples) // 4)
    values = [float(getattr(sample, name)) for sample in samples]
    return of(values[quarter : 2 * quarter] or values), of(values[-quarter:])


def flat(samples: list[Sample]) -> Bar:
    """By the median: the most is a matter of how many images were inside at some moment."""
    early, late = growth(samples, "memory_mb", median)
    most = max(sample.memory_mb for sample in samples)
    return Bar(
        "memory stays flat (5 % and 20 MB)",
        f"{early:.0f} MB early, {late:.0f} MB late (medians; at most {most:.0f})",
        late <= 1.05 * early + 20,
    )


def not_grown(samples: list[Sample], name: str, allowed: int) -> Bar:
    early, late = growth(samples, name, max)
    text = f"{early:.0f} early, {late:.0f} late"
    return Bar(f"{name} do not grow (by {allowed} at most)", text, late <= early + allowed)


def options(doc: str, seconds: float) -> argparse.ArgumentParser:
    """Those of every long run."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/flowers17.onnx"))
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: drawn, 101 KB each")
    parser.add_argument("--seconds", type=float, default=seconds, help="of the run itself")
    parser.add_argument("--peak-seconds", type=float, default=20.0, help="of finding the peak")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    return parser


def verdict(bars: list[Bar], found: dict[str, Any], file: Path | None) -> int:
    """Prints the bars, writes all that was found; -> the exit code."""
    if file is not None:
        file.write_text(json.dumps(found | {"bars": [asdict(bar) for bar in bars]}, indent=1))
    width = max(len(bar.name) for bar in bars)
    for bar in bars:
        print(f"{'holds' if bar.holds else 'FAILS'}  {bar.name:<{width}}  {bar.found}")
    return 0 if all(bar.holds for bar in bars) else 1
