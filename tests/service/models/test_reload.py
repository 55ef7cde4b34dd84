"""A new model takes over without a request lost, a bad one changes nothing, a hanging one ends it all."""

import asyncio
import hashlib
import shutil
import signal
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.errors import ModelError
from service.models.loading import read_all
from service.models.repository import Repository
from service.models.session import Model, load_model
from service.observability.metrics import Metrics
from service.settings import Settings
from tests.support.checkout import ROOT
from tests.support.eventually import eventually, eventually_async
from tests.support.models.small_models import replace_with_version
from tests.support.serving.images import encoded, noise, plain
from tests.support.serving.in_process import serving_in_process
from tests.support.serving.responses import check
from tests.support.serving.server import Server, serving


def wait_for(server: Server, version: int) -> None:
    eventually(lambda: server.client.get("/health").json()["model"]["version"] == version)


@pytest.mark.parametrize("watch", [0, 1])
def test_a_new_model_takes_over_and_no_request_is_lost(
    model_file: Path, tmp_path: Path, watch: int
) -> None:
    file, data = tmp_path / "model.onnx", encoded(noise(3))
    shutil.copy(model_file, file)
    answered: list[list[int]] = [[] for _ in range(4)]  # the versions that each client saw, in its order
    with serving(tmp_path / "log", file, watch_model=watch) as server:

        def ask(seen: list[int]) -> None:
            with httpx.Client(base_url=server.address, timeout=30) as client:
                while 5 not in seen:
                    answer = client.post("/predict", content=data)
                    assert answer.status_code == 200, answer.text
                    seen.append(answer.json()["model"]["version"])

        with ThreadPoolExecutor(4) as threads:
            clients = [threads.submit(ask, seen) for seen in answered]
            eventually(lambda: all(answered) or any(client.done() for client in clients))
            for version in (4, 5):
                replace_with_version(model_file, file, version)
                if not watch:
                    server.process.send_signal(signal.SIGHUP)
                wait_for(server, version)
            for client in clients:
                client.result()
    for seen in answered:
        assert seen[0] == 3
        assert seen == sorted(seen)  # whoever has met a version never meets an older one


def test_a_bad_file_leaves_the_old_model_serving_and_is_named(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    shutil.copy(model_file, file)
    with serving(tmp_path / "log", file, watch_model=1) as server:
        file.write_bytes(model_file.read_bytes()[:10_000])
        eventually(lambda: server.client.get("/health").json()["reload_error"])
        health = server.client.get("/health").json()
        assert "model.onnx" in health["reload_error"]
        assert str(tmp_path) not in health["reload_error"]
        assert health["model"]["version"] == 3
        assert server.client.post("/predict", content=plain(7)).status_code == 200
        assert "the model file is not served" in server.log
        replace_with_version(model_file, file, 4)
        wait_for(server, 4)
        assert server.client.get("/health").json()["reload_error"] is None


def test_a_signal_before_the_decoders_have_started_is_not_lost(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    shutil.copy(model_file, file)
    with serving(tmp_path / "log", file, decode_processes=1) as server:  # it starts after the line
        replace_with_version(model_file, file, 4)
        server.process.send_signal(signal.SIGHUP)
        wait_for(server, 4)


def test_the_first_model_is_freed_after_a_reload(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    shutil.copy(model_file, file)
    with serving_in_process(file, partial(load_model, device="cpu", threads=1), 1) as running:
        first = weakref.ref(running.engine.repository.find().model.session)
        replace_with_version(model_file, file, 4)
        running.reload()
        eventually(lambda: first() is None)
        assert running.client.post("/predict", content=plain(7)).status_code == 200


def test_a_look_at_the_models_that_fails_is_not_the_last(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def vanished(*_given: object) -> None:
        raise FileNotFoundError("it vanished while it was listed")

    file = tmp_path / "model.onnx"
    shutil.copy(model_file, file)
    with serving_in_process(file, partial(load_model, device="cpu", threads=1), 1) as running:
        with monkeypatch.context() as patch:
            patch.setattr("service.models.repository.look", vanished)
            running.reload()
            eventually(lambda: "the models could not be looked at" in caplog.text)
        assert running.client.post("/predict", content=plain(7)).status_code == 200
        replace_with_version(model_file, file, 4)
        running.reload()
        eventually(lambda: running.client.get("/health").json()["model"]["version"] == 4)


def test_a_load_goes_on_when_whoever_asked_for_it_has_gone(model_file: Path, tmp_path: Path) -> None:
    models, keys = tmp_path / "models", tmp_path / "keys"
    keys.write_text(hashlib.sha256(b"root").hexdigest())
    for version in range(1, 5):
        (models / f"tiny/{version}").mkdir(parents=True)
        shutil.copy(model_file, models / f"tiny/{version}/model.onnx")
    settings = {"models": models, "admin_keys_file": keys, "log_format": "json"}
    with serving(tmp_path / "log", None, **settings) as server:
        command = "/v2/repository/models/tiny"
        key = {"Authorization": "Bearer root"}
        assert server.client.post(f"{command}/unload", headers=key).status_code == 200
        split = urlsplit(server.address)
        with socket.create_connection((split.hostname, split.port)) as connection:
            head = f"POST {command}/load HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
            connection.sendall(f"{head}Authorization: Bearer root\r\n\r\n".encode())
            assert server.process.stdout is not None
            assert any("loading and warming" in line for line in server.process.stdout)
        ready = [f"/v2/models/tiny/versions/{version}/ready" for version in range(1, 5)]
        eventually(lambda: all(server.client.get(path).status_code == 200 for path in ready))


HANGING = """
import ctypes, onnxruntime
real = onnxruntime.InferenceSession.run
def run(self, outputs, feed, *rest):
    if feed["images"].mean() > 150:
        ctypes.CDLL(None).sleep(600)
    return real(self, outputs, feed, *rest)
onnxruntime.InferenceSession.run = run
"""


@pytest.fixture
def hanging(tmp_path: Path) -> str:
    """PYTHONPATH of a server whose native code hangs over a bright picture, but not over a black one.

    No file that is let in does that: what its network computes is bounded (see test_onnxcost.py).
    """
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(HANGING)
    return f"{tmp_path / 'path'}:{ROOT}"


def test_a_network_that_hangs_does_not_hold_up_a_stop(
    model_file: Path, hanging: str, tmp_path: Path
) -> None:
    with serving(tmp_path / "log", model_file, pythonpath=hanging, drain_timeout_s=1) as server:
        with pytest.raises(httpx.TimeoutException):
            server.client.post("/predict", content=plain(200), timeout=0.5)
        server.process.terminate()
        assert server.process.wait(30) == 1
        assert "the process ends without it" in server.log


def test_a_network_that_hangs_ends_the_process(model_file: Path, hanging: str, tmp_path: Path) -> None:
    """The request gets its 504; then the process ends with 1, so that a supervisor starts another."""
    with serving(tmp_path / "log", model_file, pythonpath=hanging, request_timeout_s=1) as server:
        assert server.client.post("/predict", content=plain(0)).status_code == 200
        check(server.client.post("/predict", content=plain(200)), 504, "deadline")
        assert server.process.wait(10) == 1
        assert "does not answer any more" in server.log


def test_a_file_that_takes_too_long_to_load_holds_up_no_other(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.models.loading.LOAD_TIMEOUT_S", 3)
    for name in ("slow", "other"):
        shutil.copy(model_file, tmp_path / f"{name}.onnx")
    going_on, begun, hangs = threading.Event(), threading.Semaphore(0), threading.Event()

    def load(path: Path) -> Model:
        if path.stem == "slow" and hangs.is_set():
            begun.release()
            assert going_on.wait(60)
        return load_model(path, "cpu", 1)

    settings = Settings(models=tmp_path)
    found = read_all(settings, load)
    hangs.set()

    async def try_out() -> None:
        repository = Repository(settings, found, load, Metrics())
        for attempt in (0, 1):
            with pytest.raises(ModelError, match=r"slow\.onnx takes more than 3 s to load"):
                await repository.load("slow")
            await repository.unload("other")
            await repository.load("other")
            assert repository.find("slow").name.version == 3, "what was there is served"
            assert begun.acquire(blocking=False) == (attempt == 0), "one thread for one file"
        going_on.set()

        async def loaded() -> bool:
            with suppress(ModelError):
                await repository.load("slow")
            return not repository.registrations[1].error

        await eventually_async(loaded)

    asyncio.run(asyncio.wait_for(try_out(), 60))
