"""What `/metrics` tells Prometheus, named by its conventions: seconds, totals, base units."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from service.schemas import ModelName
from service.settings import memory_limit

__all__ = ["CONTENT_TYPE", "Metrics"]

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """In a registry of its own. What is refused or late is a status of `requests`: 429 is more than
    MAX_QUEUE, 504 a deadline missed.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
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
        self.images = Counter("alexnet_images", "images classified", registry=registry)
        self.stage_seconds = Histogram(
            "alexnet_stage_seconds",
            "of one image: decode, queue (for a thread and for the batch), inference (its batch's run)",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_images = Histogram(
            "alexnet_batch_images", "images in one run of the network", buckets=BATCHES, registry=registry
        )
        self._model = Gauge(
            "alexnet_model_info",
            "1 for each model that is served",
            ["name", "version", "sha256", "provider"],
            registry=registry,
        )
        self._ready = Gauge("alexnet_ready", "1 while /health/ready is 200", registry=registry)
        self._inside = Gauge(
            "alexnet_inside_images", "images admitted and not yet answered", registry=registry
        )
        self._limit = Gauge(
            "alexnet_inside_images_limit", "MAX_QUEUE; more are answered 429", registry=registry
        )
        self._waiting = Gauge(
            "alexnet_queue_images", "decoded images that wait for a batch", registry=registry
        )
        memory = Gauge(
            "alexnet_memory_limit_bytes", "of the container; +Inf without a limit", registry=registry
        )
        memory.set(memory_limit())

    def watch(
        self, ready: Callable[[], bool], inside: Callable[[], int], limit: int, waiting: Callable[[], int]
    ) -> None:
        """The gauges, read when Prometheus asks; `limit` is that of the images inside."""
        self._limit.set(limit)
        self._ready.set_function(ready)
        self._inside.set_function(inside)
        self._waiting.set_function(waiting)

    def serving(self, models: Iterable[tuple[ModelName, str]]) -> None:
        """The models that are served from now on, each with its provider."""
        self._model.clear()
        for name, provider in models:
            self._model.labels(name.name, name.version, name.sha256, provider).set(1)

    def text(self) -> bytes:
        return generate_latest(self._registry)
