"""Tests of failures of the session and its threads.

No request hangs or gets a wrong answer, and readiness and metrics are right.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from service.inference.engine import Engine
from service.models.session import Model, load_model
from tests.support.eventually import eventually
from tests.support.serving.images import encoded, noise, plain
from tests.support.serving.in_process import serving_in_process
from tests.support.serving.responses import check
from tests.support.serving.server import CLASSES, Server, metrics, serving

IMAGE = encoded(noise(3))


class Session:
    """A real session, until `fault` is set: it is called instead, with the real run and the batch size."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.fault: Callable[..., Any] | None = None

    def run(self, outputs: Any, parts: Any) -> Any:
        if self.fault is None:
            return self._real.run(outputs, parts)
        return self.fault(lambda: self._real.run(outputs, parts), sum(map(len, parts)))


@dataclass
class Service:
    """A server in this process, whose parts a test can break."""

    engine: Engine
    session: Session
    client: httpx.Client

    def predict(self, image: bytes = IMAGE, **headers: str) -> httpx.Response:
        return self.client.post("/predict", content=image, headers=headers)

    def metric(self, name: str) -> float:
        return metrics(cast(Server, self)).get(f"alexnet_{name}", 0)


@contextmanager
def running(model_file: Path, threads: int = 2) -> Iterator[Service]:
    sessions = []

    def load(path: Path) -> Model:
        model = load_model(path, device="cpu", threads=1)
        sessions.append(Session(model.session))
        return replace(model, session=sessions[-1])

    with serving_in_process(model_file, load, threads) as running:
        service = Service(running.engine, sessions[0], running.client)
        assert service.predict().status_code == 200
        yield service


def raising(error: BaseException) -> Callable[..., Any]:
    def fault(_run: Callable[[], Any], _size: int) -> Any:
        raise error

    return fault


@pytest.mark.parametrize("error", [RuntimeError("secret"), MemoryError(), OSError(28, "secret")], ids=repr)
def test_failed_run_fails_its_batch_only(model_file: Path, error: Exception) -> None:
    with running(model_file) as service:
        expected = service.predict().json()["predictions"]
        service.session.fault = raising(error)
        answer = service.predict()
        check(answer, 500, "internal")
        assert "secret" not in answer.text
        service.session.fault = None
        assert service.predict().json()["predictions"] == expected
        assert service.client.get("/health/ready").status_code == 200
        assert service.metric("requests_total,route=/predict,status=500") == 1
        assert service.metric("images_total") == 3
        assert service.metric("in_flight_images") == 0


class Panic(BaseException):
    """An error as native code raises it, which `except Exception` does not catch."""


@pytest.mark.parametrize("path", ["/predict", "/predict?crops=10"])
@pytest.mark.parametrize("threads", [1, 2])
def test_ended_worker_thread_makes_the_server_not_ready(model_file: Path, threads: int, path: str) -> None:
    with running(model_file, threads) as service:
        service.session.fault = raising(Panic())
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _n: service.client.post(path, content=IMAGE), range(8)))
        for answer in [*answers, service.client.get("/health/ready"), service.client.get("/health")]:
            check(answer, 503, "not_ready")
        assert service.client.get("/v2/health/ready").status_code == 503
        assert service.client.get("/health/live").status_code == 200
        assert service.metric("ready") == 0
        eventually(lambda: service.engine.failed)  # then `python -m service` ends


def test_hanging_thread_does_not_stop_the_others(model_file: Path) -> None:
    opened, entered = threading.Event(), threading.Event()

    def hang_once(run: Callable[[], Any], _size: int) -> Any:
        first = not entered.is_set()
        entered.set()
        if first:
            assert opened.wait(20)
        return run()

    with running(model_file) as service:
        expected = service.predict().json()["predictions"]
        service.session.fault = hang_once
        check(service.predict(encoded(noise(8)), **{"X-Request-Timeout-MS": "500"}), 504, "deadline")
        for _request in range(5):
            assert service.predict().json()["predictions"] == expected, "the other thread answers"
        assert service.engine.scheduler.stuck_for > 0
        assert service.client.get("/health/ready").status_code == 200, (
            "a hanging thread does not make it unready"
        )
        opened.set()
        for _request in range(5):
            assert service.predict().json()["predictions"] == expected, "the late result is dropped"
        assert service.metric("requests_total,route=/predict,status=504") == 1


def nan_everywhere(run: Callable[[], Any], _size: int) -> Any:
    return [np.full_like(values, np.nan) for values in run()]


def infinity_in_one_value(run: Callable[[], Any], _size: int) -> Any:
    outputs = [values.copy() for values in run()]
    outputs[0][0, 1] = np.inf
    return outputs


def missing_row(run: Callable[[], Any], _size: int) -> Any:
    return [values[1:] for values in run()]


def extra_row(run: Callable[[], Any], _size: int) -> Any:
    return [np.concatenate([values, values[:1]]) for values in run()]


@pytest.mark.parametrize("fault", [nan_everywhere, infinity_in_one_value, missing_row, extra_row])
def test_invalid_outputs_are_500(model_file: Path, fault: Callable[..., Any]) -> None:
    with running(model_file) as service:
        expected = service.predict().json()["predictions"]
        service.session.fault = fault
        for path in ("/predict", "/predict?crops=10", "/embed", "/explain", "/v2/models/tiny/infer"):
            data = json.dumps(V2) if path.startswith("/v2") else IMAGE
            answer = service.client.post(path, content=data)
            assert answer.status_code == 500, path
            assert "NaN" not in answer.text
        service.session.fault = None
        assert service.predict().json()["predictions"] == expected


V2 = {
    "inputs": [
        {"name": "images", "shape": [1, 224, 224, 3], "datatype": "UINT8", "data": [7] * (224 * 224 * 3)}
    ]
}


@pytest.fixture(params=["fewer", "more"])
def miscounting(request: pytest.FixtureRequest, model_file: Path, tmp_path: Path) -> Path:
    """A model that returns the right number of rows for one image, and a wrong one for several."""
    model = onnx.load(model_file)
    graph = model.graph
    last = next(node for node in graph.node if "probabilities" in node.output)
    last.output[list(last.output).index("probabilities")] = "whole"
    classes = len(CLASSES)
    constants = {
        "row": [1, -1],
        "rows": [-1, classes],
        "down": [-1, 1, classes],
        "across": [1, -1, classes],
    }
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()
    )
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    if request.param == "fewer":
        graph.node.append(helper.make_node("Reshape", ["whole", "row"], ["probabilities"]))
    else:  # repeats each row once per image, by a product with ones
        graph.node.extend(
            [
                helper.make_node("Pow", ["whole", "nothing"], ["ones"]),
                helper.make_node("Reshape", ["whole", "down"], ["whole.down"]),
                helper.make_node("Reshape", ["ones", "across"], ["ones.across"]),
                helper.make_node("Mul", ["whole.down", "ones.across"], ["pairs"]),
                helper.make_node("Reshape", ["pairs", "rows"], ["probabilities"]),
            ]
        )
    path = tmp_path / "tiny.onnx"
    onnx.save(model, path)
    return path


def test_model_with_a_wrong_row_count_mixes_up_no_answers(
    miscounting: Path, model_file: Path, server: Server, tmp_path: Path
) -> None:
    expected = server.client.post("/predict", content=IMAGE).json()["predictions"]
    with serving(tmp_path / "log", miscounting, threads=1) as wrong:
        assert wrong.client.post("/predict", content=IMAGE).json()["predictions"] == expected, (
            "single images are right"
        )
        check(wrong.client.post("/predict?crops=10", content=IMAGE), 500, "internal")
        with ThreadPoolExecutor(8) as pool:
            images = [IMAGE if n % 2 else plain(n) for n in range(32)]
            answers = list(pool.map(lambda image: wrong.client.post("/predict", content=image), images))
        assert {answer.status_code for answer in answers} <= {200, 500}
        for answer in answers[1::2]:
            if answer.status_code == 200:
                assert answer.json()["predictions"][0]["label"] == expected[0]["label"]
        assert "rows for" in wrong.log
        assert wrong.client.get("/health/ready").status_code == 200
        bad = metrics(wrong)["alexnet_requests_total,route=/predict,status=500"]
        assert bad == 1 + sum(answer.status_code == 500 for answer in answers)
