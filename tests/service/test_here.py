"""An image is inferred by the thread that has decoded it, with those that were decoded meanwhile."""

import asyncio
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from service import decode_threads
from service.engine import Engine
from service.session import WORTH, Model, load_model
from tests.service.images import encoded, noise, plain
from tests.service.inside import inside

IMAGE = encoded(noise(3))


@dataclass
class Session:
    """The real one, which tells who called it with how many; the next run raises `error`, or waits for
    `opened`.
    """

    real: Any
    runs: list[tuple[str, int]] = field(default_factory=list)
    error: BaseException | None = None
    opened: threading.Event | None = None

    def run(self, outputs: Any, feed: Any) -> Any:
        self.runs.append((threading.current_thread().name.split("_")[0], len(feed["images"])))
        error, opened, self.error, self.opened = self.error, self.opened, None, None
        if error is not None:
            raise error
        if opened is not None:
            assert opened.wait(20)
        return self.real.run(outputs, feed)


@contextmanager
def running(
    model_file: Path, threads: int = 2, lanes: int = 1, large: bool = False, **settings: Any
) -> Iterator[tuple[httpx.Client, Session, Engine]]:
    """`large`: the network is loaded for what is alone too, as a large one is."""
    sessions = []

    def load(path: Path) -> Model:
        model = load_model(path, "cpu", 2, small=0) if large else load_model(path, "cpu", lanes)
        sessions.append(Session(model.session))
        return replace(model, session=sessions[-1], whole=model.whole and Session(model.whole))

    with inside(model_file, load, threads, **settings) as (client, _loop, engine):
        yield client, sessions[0], engine


@contextmanager
def held(client: httpx.Client, session: Session, pool: ThreadPoolExecutor) -> Iterator[Future[Any]]:
    """While it lasts, a first image is being inferred."""
    session.opened = opened = threading.Event()
    first = pool.submit(client.post, "/predict", content=IMAGE)
    try:
        wait_until(lambda: bool(session.runs))
        assert not first.done()
        yield first
        assert not first.done()
    finally:
        opened.set()


def wait_until(holds: Any) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_by_the_thread_that_has_decoded_it(model_file: Path) -> None:
    with running(model_file) as (client, session, _engine):
        alone = client.post("/predict", content=IMAGE)
        assert session.runs == [("decode", 1)]
        of_several = client.post("/predict", files=[("file", IMAGE), ("file", plain(1))])
        assert {thread for thread, _images in session.runs} == {"decode"}
        assert alone.json()["predictions"] == of_several.json()["results"][0]["predictions"]
        session.runs.clear()
        tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [b64encode(IMAGE).decode()]}
        asks = {"inputs": [tensor], "outputs": [{"name": "probabilities"}]}
        (found,) = client.post("/v2/models/tiny/infer", json=asks).json()["outputs"]
        best = alone.json()["predictions"][0]
        assert found["data"][best["index"]] == pytest.approx(best["probability"], abs=1e-6)
        assert client.post("/embed", content=IMAGE).status_code == 200
        assert client.post("/predict?crops=10", content=IMAGE).status_code == 200
        assert session.runs == [("decode", 1), ("decode", 1), ("inference", 10)]


@pytest.mark.parametrize(
    ("settings", "batches"),
    [({}, [1, WORTH, 3]), ({"max_batch": 3}, [1, 3, 3, 3, 2])],
    ids=["as many as are worth it", "MAX_BATCH at most"],
)
def test_with_those_that_came_meanwhile(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], batches: list[int]
) -> None:
    monkeypatch.setattr(decode_threads, "PATIENCE", 1000)  # a busy machine takes long to make eight
    images = [encoded(noise(seed)) for seed in range(WORTH + 3)]
    with (
        running(model_file, threads=1, **settings) as (client, session, engine),
        ThreadPoolExecutor() as pool,
    ):
        wanted = [client.post("/predict", content=image).json()["predictions"] for image in images]
        session.runs.clear()
        with ThreadPoolExecutor(len(images)) as others, held(client, session, pool):
            sent = [others.submit(client.post, "/predict", content=image) for image in images]
            wait_until(lambda: engine._decoder._jobs.qsize() == len(images))  # type: ignore[attr-defined]
        for answer, predictions in zip(sent, wanted, strict=True):
            found = answer.result().json()["predictions"]
            assert [each["label"] for each in found] == [each["label"] for each in predictions]
            assert found[0]["probability"] == pytest.approx(predictions[0]["probability"], abs=1e-5)
        assert session.runs == [("decode", images) for images in batches]


def test_a_thread_takes_no_more_than_its_share(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread for two lanes: of 2, 3, 4 and 5 images inside it waits for 1, 2, 2 and 3."""
    monkeypatch.setattr(decode_threads, "PATIENCE", 1000)
    with (
        running(model_file, threads=1, lanes=2) as (client, session, engine),
        ThreadPoolExecutor() as pool,
        ThreadPoolExecutor(4) as others,
    ):
        jobs = engine._decoder._jobs  # type: ignore[attr-defined]
        with held(client, session, pool):
            for number in range(4):
                others.submit(client.post, "/predict", content=IMAGE)
                wait_until(lambda number=number: jobs.qsize() == number + 1)
        wait_until(lambda: not engine.admission.inside)
        assert [images for _thread, images in session.runs] == [1, 1, 2, 1]


def test_as_many_as_are_worth_it_where_nobody_is_counted(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the command line, which admits nobody."""
    monkeypatch.setattr(decode_threads, "PATIENCE", 1000)
    with running(model_file, threads=1) as (_client, session, engine):
        served, opened = engine.repository.find(), threading.Event()
        loop = served.batcher._workers[0].get_loop()

        def look() -> Future[Any]:
            return asyncio.run_coroutine_threadsafe(engine.look(served, IMAGE, ("probabilities",), 1), loop)

        session.opened = opened
        looks = [look()]
        wait_until(lambda: bool(session.runs))
        looks += [look() for _more in range(3)]
        wait_until(lambda: engine._decoder._jobs.qsize() == 3)  # type: ignore[attr-defined]
        opened.set()
        for each in looks:
            each.result(20)
        assert session.runs == [("decode", 1), ("decode", 3)]


def test_a_large_network_takes_every_core_for_what_is_alone(model_file: Path) -> None:
    with (
        running(model_file, large=True, max_batch=10) as (client, session, engine),
        ThreadPoolExecutor(1) as pool,
    ):
        whole = cast(Session, engine.repository.find().model.whole)
        assert client.post("/predict?crops=10", content=IMAGE).status_code == 200
        assert (session.runs, whole.runs) == ([], [("inference", 10)])
        whole.runs.clear()
        with held(client, whole, pool) as first:
            second = client.post("/predict", content=IMAGE)
        assert first.result().json()["predictions"] == second.json()["predictions"]
        assert (session.runs, whole.runs) == ([("decode", 1)], [("decode", 1)])


@pytest.mark.parametrize(
    "asks",
    [{"files": [("file", IMAGE), ("file", IMAGE)]}, {"params": {"crops": 10}, "content": IMAGE}],
    ids=["images that are decoded side by side", "crops that need several batches"],
)
def test_no_batch_of_a_request_with_others_is_alone(model_file: Path, asks: dict[str, Any]) -> None:
    with running(model_file, large=True, max_batch=9) as (client, session, engine):
        assert client.post("/predict", **asks).status_code == 200
        assert session.runs
        assert not cast(Session, engine.repository.find().model.whole).runs


@pytest.mark.parametrize("settings", [{"max_wait_ms": 1}, {"decode_processes": 1}], ids=str)
def test_in_a_lane_where_others_are_to_be_waited_for_and_behind_a_process(
    model_file: Path, settings: dict[str, Any]
) -> None:
    with running(model_file, **settings) as (client, session, _engine):
        assert client.post("/predict", content=IMAGE).status_code == 200
        assert session.runs == [("inference", 1)]


@pytest.mark.parametrize("error", [RuntimeError("once"), SystemExit()], ids=["an error", "an exit"])
def test_what_fails_is_tried_again_in_a_lane(model_file: Path, error: BaseException) -> None:
    with running(model_file, threads=1) as (client, session, _engine):
        post = partial(client.post, "/predict", content=IMAGE)
        right = post().json()["predictions"]
        session.error = error
        assert post().json()["predictions"] == right
        assert post().json()["predictions"] == right
        assert session.runs == [(thread, 1) for thread in ("decode", "decode", "inference", "decode")]
