"""An image that is alone in the house is inferred by the thread that has decoded it, others in a lane."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.recipe import DEFAULT_RECIPE
from service.decode_threads import Threads
from service.session import Model, load_model
from tests.service.images import encoded, noise, plain
from tests.service.inside import inside

IMAGE = encoded(noise(3))


@dataclass
class Session:
    """The real one, which tells who called it; the next run raises `error`, or waits for `opened`."""

    real: Any
    callers: list[str] = field(default_factory=list)
    error: BaseException | None = None
    opened: threading.Event | None = None

    def run(self, outputs: Any, feed: Any) -> Any:
        self.callers.append(threading.current_thread().name.split("_")[0])
        error, opened, self.error, self.opened = self.error, self.opened, None, None
        if error is not None:
            raise error
        if opened is not None:
            assert opened.wait(20)
        return self.real.run(outputs, feed)


@contextmanager
def running(model_file: Path, **settings: Any) -> Iterator[tuple[httpx.Client, Session]]:
    sessions = []

    def load(path: Path) -> Model:
        model = load_model(path, device="cpu", threads=1)
        sessions.append(Session(model.session))
        return replace(model, session=sessions[-1])

    with inside(model_file, load, threads=2, **settings) as (client, _loop, _engine):
        yield client, sessions[0]


def test_by_the_thread_that_has_decoded_it(model_file: Path) -> None:
    with running(model_file) as (client, session):
        alone = client.post("/predict", content=IMAGE)
        assert session.callers == ["decode"]
        of_several = client.post("/predict", files=[("file", IMAGE), ("file", plain(1))])
        assert set(session.callers[1:]) == {"inference"}
        assert alone.json()["predictions"] == of_several.json()["results"][0]["predictions"]
        session.callers.clear()
        for path in ("/predict?crops=10", "/embed"):
            assert client.post(path, content=IMAGE).status_code == 200
        assert session.callers == ["inference", "decode"]


def test_beside_another_in_a_lane(model_file: Path) -> None:
    with running(model_file) as (client, session), ThreadPoolExecutor(1) as pool:
        session.opened = opened = threading.Event()
        first = pool.submit(client.post, "/predict", content=IMAGE)
        while not session.callers:
            assert not first.done()
            time.sleep(0.01)
        second = client.post("/predict", content=IMAGE)
        assert not first.done()
        opened.set()
        assert first.result().json()["predictions"] == second.json()["predictions"]
        assert session.callers == ["decode", "inference"]


@pytest.mark.parametrize("settings", [{"max_wait_ms": 1}, {"decode_processes": 1}], ids=str)
def test_in_a_lane_where_others_are_to_be_waited_for_and_behind_a_process(
    model_file: Path, settings: dict[str, int]
) -> None:
    with running(model_file, **settings) as (client, session):
        assert client.post("/predict", content=IMAGE).status_code == 200
        assert session.callers == ["inference"]


def test_what_fails_is_tried_again_in_a_lane(model_file: Path) -> None:
    with running(model_file) as (client, session):
        right = client.post("/predict", content=IMAGE).json()["predictions"]
        session.error = RuntimeError("once")
        assert client.post("/predict", content=IMAGE).json()["predictions"] == right
        assert session.callers == ["decode", "decode", "inference"]


def test_inference_is_no_decoding() -> None:
    """Which has a timeout of its own, and holds the thread for good where it is exceeded."""

    async def run() -> None:
        decoder = Threads(1, 1_000_000, timeout=0.3)
        await decoder.start()
        assert await decoder.decode(IMAGE, DEFAULT_RECIPE, 1, lambda _crops: time.sleep(0.6))
        assert decoder.alive
        await decoder.close()

    asyncio.run(run())
