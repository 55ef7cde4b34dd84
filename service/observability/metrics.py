"""Define the metrics of `/metrics`, named by Prometheus conventions: seconds, totals, base units."""

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
UNFAMILIARITIES: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
METRICS_BYTES: Final = 1_000_000  # size of the metric files of one worker process
METRICS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"  # variable with the folder of these files
GAUGES: Final[tuple[tuple[str, str, Literal["livesum", "livemin", "livemax"]], ...]] = (
    ("ready", "1 while /health/ready is 200, in every worker", "livemin"),
    ("in_flight_images", "images admitted and not yet answered", "livesum"),
    (
        "in_flight_images_limit",
        "maximum images in flight: MAX_QUEUE, summed over workers; beyond it: 429",
        "livesum",
    ),
    ("queue_images", "decoded images waiting for a batch", "livesum"),
    (
        "resident_memory_bytes",
        "resident memory of all workers; shared pages count once per worker",
        "livesum",
    ),
    ("memory_limit_bytes", "memory limit of the container; +Inf without one", "livemax"),
    ("workers", "serving processes", "livesum"),
    ("gpu_memory_bytes", "memory in use on the GPU, by all processes; 0 without a GPU", "livemax"),
)

Encode = Callable[[CollectorRegistry], bytes]


class Metrics:
    """The metrics of this process, or of all WORKERS, which prometheus_client sums up from files.

    Refused and late requests are statuses of `requests`: 429 beyond MAX_QUEUE, 504 for a missed deadline.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        if METRICS_FOLDER in os.environ:
            registry.register(_WorkerCollector(None))  # type: ignore[no-untyped-call]
            # Values are written to the files of the folder, and reported from there.
            registry = CollectorRegistry()
        else:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
        self.requests = Counter(
            "alexnet_requests", "requests answered", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "alexnet_request_seconds",
            "from the request headers to the end of the response, including the upload",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.images = Counter("alexnet_images", "images answered", registry=registry)
        self.unknown_images = Counter(
            "alexnet_unknown_images",
            "images answered as unknown: their unfamiliarity is above the limit",
            registry=registry,
        )
        self.unfamiliarity = Histogram(
            "alexnet_unfamiliarity",
            "unfamiliarity of each image answered by a model whose file has it, 0 to 1",
            buckets=UNFAMILIARITIES,
            registry=registry,
        )
        stages = Histogram(
            "alexnet_stage_seconds",
            "stages of one image: decode, queue (wait for a worker and a batch), inference (batch runs)",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        # Look up each label once, not for every image.
        self.decode_seconds = stages.labels("decode")
        self.queue_seconds = stages.labels("queue")
        self.inference_seconds = stages.labels("inference")
        self.batch_images = Histogram(
            "alexnet_batch_images", "images in one batch", buckets=BATCHES, registry=registry
        )
        self._model = Gauge(
            "alexnet_model_info",
            "1 for each served model, 0 for a model that is no longer served",
            ["name", "version", "sha256", "provider"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._gauges = {
            name: Gauge(f"alexnet_{name}", description, multiprocess_mode=mode, registry=registry)
            for name, description, mode in GAUGES
        }
        if METRICS_FOLDER in os.environ:
            _reserve(Path(os.environ[METRICS_FOLDER]))
        self._pending: dict[Encode, asyncio.Task[bytes]] = {}  # the next texts, not started yet
        self._encoding = asyncio.Lock()
        self._next_start = 0.0  # earliest start of the next text, by time.monotonic
        self._labels: set[tuple[str, ...]] = set()
        self._measure: Callable[[], dict[str, float]] = dict

    def watch(self, measure: Callable[[], dict[str, float]]) -> None:
        """Set the source of the engine's gauges: values by name, without the prefix `alexnet_`."""
        self._measure = measure
        self.refresh()

    def refresh(self) -> None:
        """Update the gauges of this process; other workers update their own."""
        values = self._measure() | {
            "resident_memory_bytes": resident_memory(),
            "memory_limit_bytes": memory_limit(),
            "workers": 1,
        }
        for name, value in values.items():
            self._gauges[name].set(value)

    def set_models(self, models: Iterable[tuple[ModelName, str]]) -> None:
        """Report the served models, each with its ONNX Runtime provider."""
        for labels in self._labels:
            self._model.labels(*labels).set(0)
        for name, provider in models:
            labels = (name.name, str(name.version), name.sha256, provider)
            self._labels.add(labels)
            self._model.labels(*labels).set(1)

    async def text(self, encode: Encode = generate_latest) -> bytes:
        """Return the metrics in one format, as of now or a moment later.

        Concurrent callers share one text, and encoding is paced to take at most a tenth of the time.
        """
        if encode not in self._pending:
            self._pending[encode] = asyncio.create_task(self._encode_text(encode))
        return await asyncio.shield(self._pending[encode])

    async def _encode_text(self, encode: Encode) -> bytes:
        async with self._encoding:  # one format at a time
            await asyncio.sleep(self._next_start - time.monotonic())
            del self._pending[encode]  # later callers get the next text
            started = time.monotonic()
            self.refresh()
            text = encode(self._registry)
            ended = time.monotonic()
            self._next_start = ended + 9 * (ended - started)
        return text


class _WorkerCollector(MultiProcessCollector):
    """Sum up the files of all workers.

    Skips empty files, which a starting worker has created but not filled: prometheus_client reports them as
    damaged.
    """

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in Path(self._path).glob("*.db") if _is_filled(file)]
        return self.merge(files)  # type: ignore[no-untyped-call, no-any-return]


def _is_filled(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # its worker has ended
        return False


def _reserve(folder: Path) -> None:
    """Allocate the disk blocks of this process's metric files.

    On a full disk, the first write to an unallocated page of a mapped file would kill the process.
    """
    for file in folder.glob(f"*_{os.getpid()}.db"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def resident_memory() -> float:
    """Return the resident memory of this process in bytes; 0 without /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()
