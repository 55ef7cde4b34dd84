"""A scheduler with a fake decoder and a fake network that tests can block."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from contract.preprocess import Pixels
from contract.recipe import DEFAULT_RECIPE, Recipe
from service.imaging.decode import DecodedImage
from service.imaging.decoder import DecodeClock
from service.inference.batches import BatchResult
from service.inference.scheduler import Scheduler
from service.models.session import Outputs
from tests.support.eventually import eventually_async

FOREVER = 1000.0  # s, longer than any test takes


class Gate:
    """Block threads until it is opened; `passed` has what each of them called `wait` with."""

    def __init__(self, opened: bool = True) -> None:
        self.passed: list[Any] = []
        self.opened = threading.Event()
        if opened:
            self.opened.set()

    def wait(self, item: Any) -> None:
        self.passed.append(item)
        assert self.opened.wait(20)


class Decoder:
    """A fake decoder: an image's bytes are a number, and each of its crops is one pixel of that value.

    `gates` block the decoding of an image, `raised` has the errors that it raises first; `error` is
    raised for every image.
    """

    stuck_for: float = 0.0
    begins: float = 0.0  # when decoding begins, as the DecodeClock has it

    def __init__(self) -> None:
        self.gates: dict[bytes, Gate] = {}
        self.raised: dict[bytes, list[BaseException]] = {}
        self.error: BaseException | None = None
        self.threads: list[str] = []
        self.slow: list[bytes] = []

    def start(self) -> None: ...

    def close(self) -> None: ...

    def decode(
        self, data: bytes, recipe: Recipe, crops: int, slow: bool, clock: DecodeClock
    ) -> DecodedImage:
        assert recipe is DEFAULT_RECIPE
        self.slow += [data] if slow else []
        clock.began = self.begins
        self.threads.append(threading.current_thread().name)
        if data in self.gates:
            self.gates[data].wait(data)
        if self.error is not None:
            raise self.error.with_traceback(None)
        if self.raised.get(data):
            raise self.raised[data].pop(0)
        now = time.perf_counter()
        return DecodedImage(pixels(*[int(data)] * crops), 1, 1, "JPEG", now, now)


@dataclass(eq=False)
class Network:
    """A fake model whose output is ten times the pixel.

    `runs` has the pixels of each batch, `exclusive` those of the exclusive batches, `parts` all arrays.
    """

    target_batch_size: int = 8
    whole: object = None
    gate: Gate = field(default_factory=Gate)
    runs: list[list[int]] = field(default_factory=list)
    exclusive: list[list[int]] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    outputs: list[tuple[str, ...]] = field(default_factory=list)
    parts: list[Pixels] = field(default_factory=list)
    raises: BaseException | None = None
    manifest: Any = field(default_factory=lambda: SimpleNamespace(recipe=DEFAULT_RECIPE))

    def run(self, parts: list[Pixels], outputs: tuple[str, ...], exclusive: bool) -> Outputs:
        values = [int(crop[0, 0, 0]) for part in parts for crop in part]
        self.runs.append(values)
        self.parts += parts
        self.exclusive += [values] if exclusive else []
        self.threads.append(threading.current_thread().name)
        self.outputs.append(outputs)
        self.gate.wait(values)
        if self.raises is not None:
            raise self.raises
        return {"p": np.array([[number * 10] for number in values], np.float32)}


def pixels(*numbers: int) -> Pixels:
    """Make a crop of one pixel for each number, (N, 1, 1, 3) uint8."""
    return np.stack([np.full((1, 1, 3), number, np.uint8) for number in numbers])


def outputs_of(result: BatchResult) -> list[int]:
    return [int(value) for (value,) in result.outputs["p"]]


@dataclass
class Scheduled:
    scheduler: Scheduler
    decoder: Decoder
    network: Network

    def image(
        self, number: int, crops: int = 1, network: Network | None = None, outputs: tuple[str, ...] = ("p",)
    ) -> "asyncio.Task[BatchResult]":
        model: Any = network or self.network
        data = str(number).encode()
        return asyncio.create_task(self.scheduler.infer_image(model, data, crops, outputs))

    def crops(self, *numbers: int) -> "asyncio.Task[BatchResult]":
        return self.tensor(pixels(*numbers))

    def tensor(self, crops: Pixels) -> "asyncio.Task[BatchResult]":
        model: Any = self.network
        return asyncio.create_task(self.scheduler.infer_crops(model, crops, ("p",)))

    async def hold_image(self, number: int = 0) -> "asyncio.Task[BatchResult]":
        """Let a thread decode an image that does not end until `release_image`."""
        self.decoder.gates[str(number).encode()] = gate = Gate(opened=False)
        task = self.image(number)
        await eventually_async(lambda: bool(gate.passed))
        return task

    def release_image(self, number: int = 0) -> None:
        self.decoder.gates[str(number).encode()].opened.set()


@asynccontextmanager
async def scheduled(network: Network | None = None, **settings: Any) -> AsyncIterator[Scheduled]:
    """Start a scheduler of one thread, which waits for a full batch while there is more to decode."""
    decoder, network = Decoder(), network or Network()

    def run(model: Any, batch: Any, outputs: Any, exclusive: bool) -> Any:
        return model.run(batch, outputs, exclusive)

    scheduler = Scheduler(decoder, run, **{"threads": 1, "max_batch_delay": FOREVER} | settings)
    scheduler.start()
    try:
        yield Scheduled(scheduler, decoder, network)
    finally:
        await scheduler.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))
