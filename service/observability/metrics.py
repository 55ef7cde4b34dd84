"""What `/metrics` tells Prometheus, named by its conventions: seconds, totals, base units."""

import asyncio
import os
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from alexnet_client.schemas import ModelName
from contract.limits import memory_limit

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
METRICS_BYTES: Final = 1_000_000  # of each worker's files there
METRICS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"  # by this variable prometheus_client knows of workers
GAUGES: Final[tuple[tuple[str, str, Literal["livesum", "livemin", "livemax"]], ...]] = (
    ("ready", "1 while /health/ready is 200, in every worker", "livemin"),
    ("in_flight_images", "images admitted and not yet answered", "livesum"),
    ("in_flight_images_limit", "MAX_QUEUE of all workers; more are answered 429", "livesum"),
    ("queue_images", "decoded images that wait for a batch", "livesum"),
    ("resident_memory_bytes", "of all workers, what they share counted in each", "livesum"),
    ("memory_limit_bytes", "of the container; +Inf without a limit", "livemax"),
    ("workers", "processes that serve", "livesum"),
    ("gpu_memory_bytes", "of this worker's GPU, taken by whomever; 0 without one", "livemax"),
)

Encode = Callable[[CollectorRegistry], bytes]


class Metrics:
    """Of this process, or with WORKERS of all of them: prometheus_client then adds them up in a folder.
    What is refused or late is a status of `requests`: 429 is more than MAX_QUEUE, 504 a deadline missed.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        if METRICS_FOLDER in os.environ:
            registry.register(_Workers(None))  # type: ignore[no-untyped-call]
            # What is measured here goes into the folder, and what is told comes from there.
            registry = CollectorRegistry()
        else:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
        self.requests = Counter(
            "alexnet_requests", "requests answered", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "alexnet_request_seconds",
            "from a request's headers to the end of its answer, the body's arrival included",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.images = Counter("alexnet_images", "images answered", registry=registry)
        stages = Histogram(
            "alexnet_stage_seconds",
            "of one image: decode, queue (for a thread and for the batch), inference (its batches' runs)",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        # Found by its label once, not with every image.
        self.decode_seconds = stages.labels("decode")
        self.queue_seconds = stages.labels("queue")
        self.inference_seconds = stages.labels("inference")
        self.batch_images = Histogram(
            "alexnet_batch_images", "images in one run of the network", buckets=BATCHES, registry=registry
        )
        self._model = Gauge(
            "alexnet_model_info",
            "1 for each model that is served, 0 for one that was",
            ["name", "version", "sha256", "provider"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._gauges = {
            name: Gauge(f"alexnet_{name}", meaning, multiprocess_mode=mode, registry=registry)
            for name, meaning, mode in GAUGES
        }
        if METRICS_FOLDER in os.environ:
            _reserve(Path(os.environ[METRICS_FOLDER]))
        self._coming: dict[Encode, asyncio.Task[bytes]] = {}  # the next texts, not begun yet
        self._making = asyncio.Lock()
        self._next = 0.0  # when it may be begun, of time.monotonic
        self._labels: set[tuple[str, ...]] = set()
        self._measure: Callable[[], dict[str, float]] = dict

    def watch(self, measure: Callable[[], dict[str, float]]) -> None:
        """`measure` gives the gauges that the engine knows, by name without their prefix."""
        self._measure = measure
        self.refresh()

    def refresh(self) -> None:
        """Takes the gauges as they are now; those of other workers come from their own calls."""
        values = self._measure() | {
            "resident_memory_bytes": resident_memory(),
            "memory_limit_bytes": memory_limit(),
            "workers": 1,
        }
        for name, value in values.items():
            self._gauges[name].set(value)

    def serving(self, models: Iterable[tuple[ModelName, str]]) -> None:
        """The models that are served from now on, each with its provider."""
        for labels in self._labels:
            self._model.labels(*labels).set(0)
        for name, provider in models:
            labels = (name.name, str(name.version), name.sha256, provider)
            self._labels.add(labels)
            self._model.labels(*labels).set(1)

    async def text(self, encode: Encode = generate_latest) -> bytes:
        """As it is now or a moment later. All who ask meanwhile get the same, so that making it takes a
        tenth of the time at most.
        """
        if encode not in self._coming:
            self._coming[encode] = asyncio.create_task(self._make_text(encode))
        return await asyncio.shield(self._coming[encode])

    async def _make_text(self, encode: Encode) -> bytes:
        async with self._making:  # one format at a time
            await asyncio.sleep(self._next - time.monotonic())
            del self._coming[encode]  # whoever asks from now on gets the next
            began = time.monotonic()
            self.refresh()
            text = encode(self._registry)
            ended = time.monotonic()
            self._next = ended + 9 * (ended - began)
        return text


class _Workers(MultiProcessCollector):
    """Adds the workers' files up, without those that a starting worker has made and not filled yet, which
    prometheus_client takes for damaged.
    """

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in Path(self._path).glob("*.db") if _filled(file)]
        return self.merge(files)  # type: ignore[no-untyped-call, no-any-return]


def _filled(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # that of a worker that has ended
        return False


def _reserve(folder: Path) -> None:
    """This process's files get the disk's blocks for all of their size: a page that is mapped and finds no
    room when it is first written to is the end of the process.
    """
    for file in folder.glob(f"*_{os.getpid()}.db"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def resident_memory() -> float:
    """Bytes of this process; 0 where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()
