"""What breaks inside: the session, its threads, the model's file, the disk, the clock, the GPU. No request
hangs, none gets a wrong answer, and readiness and metrics say what is true.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import onnx
import pytest
import uvicorn
from fastapi import FastAPI
from onnx import helper, numpy_helper

from service.app import create_app
from service.connection import Connections, Protocol
from service.repository import Place, read, read_all
from service.session import Model, load_model
from service.settings import Settings
from tests.service.images import encoded, noise, plain
from tests.service.server import CLASSES, ROOT, Server, serving
from tests.service.test_errors import check
from tests.service.test_reload import numbered
from tests.service.test_watching import metrics
from tests.service.wire import answer_on, connect, request, rest_of, send

IMAGE = encoded(noise(3))


class Session:
    """A real one, until `fault` is set: that is called in its place, with the real run and its batch."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.fault: Callable[..., Any] | None = None

    def run(self, outputs: Any, feed: Any) -> Any:
        if self.fault is None:
            return self._real.run(outputs, feed)
        return self.fault(lambda: self._real.run(outputs, feed), len(feed["images"]))


@dataclass
class Service:
    """In this process, so that what is inside can be broken."""

    app: FastAPI
    session: Session
    client: httpx.Client

    def predict(self, image: bytes = IMAGE, **headers: str) -> httpx.Response:
        return self.client.post("/predict", content=image, headers=headers)

    @property
    def batcher(self) -> Any:
        return next(self.app.state.engine.repository.served).batcher

    def told(self, name: str) -> float:
        return metrics(cast(Server, self)).get(f"alexnet_{name}", 0)


@contextmanager
def running(model_file: Path, lanes: int = 1) -> Iterator[Service]:
    sessions = []

    def load(path: Path) -> Model:
        model = load_model(path, device="cpu", threads=1)
        sessions.append(Session(model.session))
        return replace(model, session=sessions[-1], lanes=lanes)

    settings = Settings(model=model_file)
    app = create_app(settings, read_all(settings, load), load, threads=2)
    http = partial(Protocol, Connections(settings, lambda _status: None))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", http=cast(Any, http), ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener, asyncio.Runner() as runner:
        thread = threading.Thread(target=lambda: runner.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=20) as client:
                service = Service(app, sessions[0], client)
                assert service.predict().status_code == 200
                yield service
        finally:
            server.should_exit = True
            thread.join()


def raising(error: BaseException) -> Callable[..., Any]:
    def fault(_run: Callable[[], Any], _size: int) -> Any:
        raise error

    return fault


@pytest.mark.parametrize("error", [RuntimeError("secret"), MemoryError(), OSError(28, "secret")], ids=repr)
def test_a_run_that_raises_fails_its_batch_alone(model_file: Path, error: Exception) -> None:
    with running(model_file) as service:
        right = service.predict().json()["predictions"]
        service.session.fault = raising(error)
        answer = service.predict()
        check(answer, 500, "internal")
        assert "secret" not in answer.text
        service.session.fault = None
        assert service.predict().json()["predictions"] == right
        assert service.client.get("/health/ready").status_code == 200
        assert service.told("requests_total,route=/predict,status=500") == 1
        assert service.told("images_total") == 3
        assert service.told("inside_images") == 0


class Panic(BaseException):
    """As native code raises it, past `except Exception`."""


def end_the_threads(service: Service) -> None:
    service.batcher._threads.shutdown()


def panic(service: Service) -> None:
    service.session.fault = raising(Panic())


@pytest.mark.parametrize("end", [end_the_threads, panic])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_thread_that_ends(model_file: Path, lanes: int, end: Callable[[Service], None]) -> None:
    with running(model_file, lanes) as service:
        end(service)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _n: service.predict(), range(8)))
        for answer in [*found, service.client.get("/health/ready"), service.client.get("/health")]:
            check(answer, 503, "not_ready")
        assert service.client.get("/v2/health/ready").status_code == 503
        assert service.client.get("/health/live").status_code == 200
        assert service.told("ready") == 0
        while not service.app.state.engine.failed:
            pass  # until it has been noticed: `python -m service` ends then


def test_a_lane_that_hangs_leaves_the_others_working(model_file: Path) -> None:
    opened, entered = threading.Event(), threading.Event()

    def hang_once(run: Callable[[], Any], _size: int) -> Any:
        first = not entered.is_set()
        entered.set()
        if first:
            assert opened.wait(20)
        return run()

    with running(model_file, lanes=2) as service:
        right = service.predict().json()["predictions"]
        service.session.fault = hang_once
        check(service.predict(encoded(noise(8)), **{"X-Request-Timeout-MS": "500"}), 504, "deadline")
        for _request in range(5):
            assert service.predict().json()["predictions"] == right, "by the lane that is left"
        assert service.batcher.running_for > 0
        assert service.client.get("/health/ready").status_code == 200, "slow is not dead"
        opened.set()
        for _request in range(5):
            assert service.predict().json()["predictions"] == right, "not what came late"
        assert service.told("requests_total,route=/predict,status=504") == 1


def nan_everywhere(run: Callable[[], Any], _size: int) -> Any:
    return [np.full_like(values, np.nan) for values in run()]


def infinity_in_one(run: Callable[[], Any], _size: int) -> Any:
    found = [values.copy() for values in run()]
    found[0][0, 1] = np.inf
    return found


def a_row_less(run: Callable[[], Any], _size: int) -> Any:
    return [values[1:] for values in run()]


def a_row_more(run: Callable[[], Any], _size: int) -> Any:
    return [np.concatenate([values, values[:1]]) for values in run()]


@pytest.mark.parametrize("fault", [nan_everywhere, infinity_in_one, a_row_less, a_row_more])
def test_what_cannot_be_an_answer_is_none(model_file: Path, fault: Callable[..., Any]) -> None:
    with running(model_file) as service:
        right = service.predict().json()["predictions"]
        service.session.fault = fault
        for path in ("/predict", "/predict?crops=10", "/embed", "/explain", "/v2/models/tiny/infer"):
            data = json.dumps(V2) if path.startswith("/v2") else IMAGE
            answer = service.client.post(path, content=data)
            assert answer.status_code == 500, path
            assert "NaN" not in answer.text
        service.session.fault = None
        assert service.predict().json()["predictions"] == right


V2 = {
    "inputs": [
        {"name": "images", "shape": [1, 224, 224, 3], "datatype": "UINT8", "data": [7] * (224 * 224 * 3)}
    ]
}


@pytest.fixture(params=["fewer", "more"])
def miscounting(request: pytest.FixtureRequest, model_file: Path, tmp_path: Path) -> Path:
    """A real model with as many rows as images for one image, and fewer or more of them for several."""
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
    else:  # each row as often as there are images: its product with the ones of all the others
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


def test_a_model_that_miscounts_gives_nobody_anothers_answer(
    miscounting: Path, model_file: Path, server: Server, tmp_path: Path
) -> None:
    right = server.client.post("/predict", content=IMAGE).json()["predictions"]
    with serving(tmp_path / "log", miscounting, threads=1) as wrong:
        assert wrong.client.post("/predict", content=IMAGE).json()["predictions"] == right, (
            "alone it is sound"
        )
        check(wrong.client.post("/predict?crops=10", content=IMAGE), 500, "internal")
        with ThreadPoolExecutor(8) as pool:
            images = [IMAGE if n % 2 else plain(n) for n in range(32)]
            found = list(pool.map(lambda image: wrong.client.post("/predict", content=image), images))
        assert {answer.status_code for answer in found} <= {200, 500}
        for answer in found[1::2]:
            if answer.status_code == 200:
                assert answer.json()["predictions"][0]["label"] == right[0]["label"]
        assert "rows for" in wrong.log
        assert wrong.client.get("/health/ready").status_code == 200
        bad = metrics(wrong)["alexnet_requests_total,route=/predict,status=500"]
        assert bad == 1 + sum(answer.status_code == 500 for answer in found)


def other_weights(model: Path, target: Path) -> Path:
    """Other answers from a file of the same size."""
    loaded = onnx.load(model)
    for tensor in loaded.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1000:
            tensor.raw_data = np.ascontiguousarray(values[::-1]).tobytes()
    onnx.save(loaded, target)
    return target


def test_files_that_are_half_written_gone_or_swapped(model_file: Path, tmp_path: Path) -> None:
    """Whatever a reload meets, an answer is that of one whole file, which it names."""
    ours, theirs = tmp_path / "ours.onnx", other_weights(model_file, tmp_path / "theirs.onnx")
    shutil.copy(model_file, ours)
    file = tmp_path / "served.onnx"
    shutil.copy(ours, file)
    right = {}
    for one in (ours, theirs):
        with serving(tmp_path / "log", one, threads=1) as server:
            answer = server.client.post("/predict", content=IMAGE).json()
            right[answer["model"]["sha256"]] = answer["predictions"]
    assert len({json.dumps(found) for found in right.values()}) == 2

    ended = threading.Event()
    seen: list[str] = []
    with serving(tmp_path / "log", file, threads=1) as server:

        def ask() -> None:
            with httpx.Client(base_url=server.address, timeout=30) as client:
                while not ended.is_set():
                    answer = client.post("/predict", content=IMAGE)
                    assert answer.status_code == 200, answer.text
                    found = answer.json()
                    assert found["predictions"] == right[found["model"]["sha256"]]
                    seen.append(found["model"]["sha256"])

        with ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(ask) for _ in range(2)]
            try:
                for turn in range(4):
                    whole = (theirs if turn % 2 == 0 else ours).read_bytes()
                    for cut in (0, 100, len(whole) // 2, len(whole) - 1):
                        file.write_bytes(whole[:cut])  # as cp does
                        server.process.send_signal(signal.SIGHUP)
                        wait(lambda: reload_error(server) is not None, asking)
                    file.unlink()
                    server.process.send_signal(signal.SIGHUP)
                    wait(lambda: "no model file" in str(reload_error(server)), asking)
                    shutil.copy(theirs if turn % 2 == 0 else ours, tmp_path / "new")
                    (tmp_path / "new").replace(file)
                    server.process.send_signal(signal.SIGHUP)
                    wait(lambda: reload_error(server) is None, asking)
            finally:
                ended.set()
            for asked in asking:
                asked.result()
        assert set(seen) == set(right), "both were served, and nothing else"
        assert "Traceback" not in server.log


def reload_error(server: Server) -> object:
    answer = server.client.get("/health")
    assert answer.status_code == 200
    return answer.json()["reload_error"]


def wait(until: Callable[[], bool], asking: list[Any]) -> None:
    while not until():
        for one in asking:
            if one.done():
                one.result()


def test_a_file_that_is_written_to_while_it_is_read(model_file: Path, tmp_path: Path) -> None:
    """Part of one model and part of another would load, and answer nonsense."""
    file = tmp_path / "model.onnx"
    shutil.copy(model_file, file)

    def load(path: Path) -> Model:
        model = load_model(path, device="cpu", threads=1)
        with path.open("r+b") as opened:
            opened.seek(1000)
            opened.write(b"x")
        return model

    found = read(Place(file), load)
    assert found.model is None
    assert "written to while it was read" in str(found.error)

    def replaced(path: Path) -> Model:
        model = load_model(path, device="cpu", threads=1)
        numbered(model_file, path, 9)
        return model

    shutil.copy(model_file, file)
    assert read(Place(file), replaced).model is not None, "another file in its place is another file"


def test_a_log_that_cannot_be_written(model_file: Path, tmp_path: Path) -> None:
    """The disk is full: nobody notices but those who look for the lines."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {"MODEL": str(model_file), "PORT": str(port), "DEVICE": "cpu", "LOG_FORMAT": "json"}
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            [sys.executable, "-m", "service"],
            stdout=full,
            stderr=full,
            cwd=ROOT,
            env=environ | {"PATH": "/usr/bin:/bin"},
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        try:
            while process.poll() is None:
                try:
                    client.get("/health/live")
                    break
                except httpx.ConnectError:
                    pass
            for _request in range(5):
                assert client.post("/predict", content=IMAGE).status_code == 200
            check(client.post("/predict", content=b"x"), 415, "unsupported_image")
        finally:
            process.terminate()
        assert process.wait(20) in {0, 120}, "120: Python could not write the last of the log"


def test_workers_without_a_folder_for_their_metrics(model_file: Path, tmp_path: Path) -> None:
    small = f"mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} -m service"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", small],
        env={
            "MODEL": str(model_file),
            "PORT": "0",
            "DEVICE": "cpu",
            "WORKERS": "2",
            "TMPDIR": str(tmp_path),
        }
        | {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no file system of its own can be had here")
    assert done.returncode == 2
    assert done.stderr.startswith("error: WORKERS is 2; their metrics need 1000000 bytes each")
    assert done.stderr.count("\n") == 1


def test_a_disk_that_fills_up_under_the_metrics(model_file: Path, tmp_path: Path) -> None:
    """Their files are mapped into memory: a page without room would kill the worker that writes to it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    small = f"mount -t tmpfs -o size=4m none {folder} && exec {sys.executable} -m service"
    process = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", small],
        env={"MODEL": str(model_file), "PORT": "0", "DEVICE": "cpu", "WORKERS": "2", "TMPDIR": str(folder)}
        | {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if " on http://" not in line:
            pytest.skip("no file system of its own can be had here: " + process.stderr.read())
        address = line.split(" on ")[1].split()[0]
        try:
            disk = Path(f"/proc/{process.pid}/root{folder}/rest")
            with pytest.raises(OSError, match="No space left"):
                disk.write_bytes(bytes(5_000_000))
            with ThreadPoolExecutor(8) as pool:
                paths = ["/predict", "/predict?top_k=0", "/embed", "/explain", "/v2/models/tiny/infer"] * 8
                found = list(
                    pool.map(lambda path: httpx.post(address + path, content=IMAGE, timeout=20), paths)
                )
            assert [answer.status_code for answer in found] == [200, 422, 200, 200, 400] * 8
            told = httpx.get(address + "/metrics", timeout=20).text
            assert 'alexnet_requests_total{route="/predict",status="200"} 8.0' in told
            assert "alexnet_workers 2.0" in told
        finally:
            process.terminate()
        assert process.wait(20) == 0
        assert process.stderr.read() == "", "nobody has ended"


def test_a_clock_that_jumps(model_file: Path, tmp_path: Path) -> None:
    """By days, to and fro, at each look at it: no duration is taken from it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import random, time\n"
        "real = time.time\n"
        "time.time = lambda: real() + random.choice((-1, 1)) * 86400 * random.random()\n"
        "open(__file__ + '.done', 'w').close()\n"
    )
    path = f"{tmp_path}:{ROOT}"
    with serving(tmp_path / "log", model_file, pythonpath=path, max_queue=12) as server:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda _n: server.client.post("/predict", content=IMAGE), range(64)))
        assert {answer.status_code for answer in found} <= {200, 429}
        for answer in found:
            if answer.status_code == 200:
                assert 0 <= answer.json()["timing_ms"]["total"] < 20_000
            else:
                assert 1 <= int(answer.headers["retry-after"]) <= 60
        late = server.client.post("/predict?crops=10", content=IMAGE, headers={"X-Request-Timeout-MS": "1"})
        check(late, 504, "deadline")
        assert 0 < metrics(server)["alexnet_request_seconds_sum,route=/predict"] < 60 * 64
        server.process.terminate()
        assert server.process.wait(20) == 0
        assert (tmp_path / "sitecustomize.py.done").exists()


@pytest.mark.parametrize("begun", [0, 20], ids=["idle", "half a head"])
def test_what_came_while_nothing_ran_came_in_time(model_file: Path, tmp_path: Path, begun: int) -> None:
    limits = {"keep_alive_timeout_s": 1, "header_timeout_s": 1}
    with serving(tmp_path / "log", model_file, **limits) as server, connect(server) as connection:
        asked = request("GET", "/health/live", close=False)
        send(connection, asked)
        assert answer_on(connection).status_code == 200
        send(connection, asked[:begun])
        time.sleep(0.2)  # until that is read
        os.kill(server.process.pid, signal.SIGSTOP)
        send(connection, asked[begun:])
        time.sleep(1.2)
        os.kill(server.process.pid, signal.SIGCONT)
        assert answer_on(connection).status_code == 200
        assert rest_of(connection) == b""  # it is closed a second later
