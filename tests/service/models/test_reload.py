"""Tests of reloading: new models lose no request, bad ones change nothing, a hang ends the process."""

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
def test_new_model_takes_over_without_a_failed_request(
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
        assert seen == sorted(seen)  # after a version, a client never gets an older one


def test_bad_file_is_reported_and_the_old_model_served(model_file: Path, tmp_path: Path) -> None:
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


def test_signal_before_the_decoders_start_is_not_lost(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    shutil.copy(model_file, file)
    # The decoders start after the line with the address.
    with serving(tmp_path / "log", file, decode_processes=1) as server:
        replace_with_version(model_file, file, 4)
        server.process.send_signal(signal.SIGHUP)
        wait_for(server, 4)


def test_replaced_model_is_freed(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    shutil.copy(model_file, file)
    with serving_in_process(file, partial(load_model, device="cpu", threads=1), 1) as running:
        first = weakref.ref(running.engine.repository.find().model.session)
        replace_with_version(model_file, file, 4)
        running.reload()
        eventually(lambda: first() is None)
        assert running.client.post("/predict", content=plain(7)).status_code == 200


def test_models_are_checked_again_after_a_failed_check(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def vanished(*_args: object) -> None:
        raise FileNotFoundError("it vanished while it was listed")

    file = tmp_path / "model.onnx"
    shutil.copy(model_file, file)
    with serving_in_process(file, partial(load_model, device="cpu", threads=1), 1) as running:
        with monkeypatch.context() as patch:
            patch.setattr("service.models.repository.scan", vanished)
            running.reload()
            eventually(lambda: "the model files could not be checked" in caplog.text)
        assert running.client.post("/predict", content=plain(7)).status_code == 200
        replace_with_version(model_file, file, 4)
        running.reload()
        eventually(lambda: running.client.get("/health").json()["model"]["version"] == 4)


def test_load_goes_on_after_its_client_disconnects(model_file: Path, tmp_path: Path) -> None:
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
    """PYTHONPATH of a server whose native code hangs on a bright picture, but not on a black one.

    No file that is allowed does that: what its network computes is bounded (test_onnx_cost.py).
    """
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(HANGING)
    return f"{tmp_path / 'path'}:{ROOT}"


def test_hanging_network_does_not_delay_a_stop(model_file: Path, hanging: str, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, pythonpath=hanging, drain_timeout_s=1) as server:
        with pytest.raises(httpx.TimeoutException):
            server.client.post("/predict", content=plain(200), timeout=0.5)
        server.process.terminate()
        assert server.process.wait(30) == 1
        assert "does not stop; the process is ended" in server.log


def test_hanging_network_ends_the_process(model_file: Path, hanging: str, tmp_path: Path) -> None:
    """The request gets its 504; then the process ends with 1, so that a supervisor starts another."""
    with serving(tmp_path / "log", model_file, pythonpath=hanging, request_timeout_s=1) as server:
        assert server.client.post("/predict", content=plain(0)).status_code == 200
        check(server.client.post("/predict", content=plain(200)), 504, "deadline")
        assert server.process.wait(10) == 1
        assert "inference or decoding hangs" in server.log


def test_slow_file_does_not_delay_other_models(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.models.loading.LOAD_TIMEOUT_S", 3)
    for name in ("slow", "other"):
        shutil.copy(model_file, tmp_path / f"{name}.onnx")
    released, begun, hangs = threading.Event(), threading.Semaphore(0), threading.Event()

    def load(path: Path) -> Model:
        if path.stem == "slow" and hangs.is_set():
            begun.release()
            assert released.wait(60)
        return load_model(path, "cpu", 1)

    settings = Settings(models=tmp_path)
    results = read_all(settings, load)
    hangs.set()

    async def try_out() -> None:
        repository = Repository(settings, results, load, Metrics())
        for attempt in (0, 1):
            with pytest.raises(ModelError, match=r"slow\.onnx takes more than 3 s to load"):
                await repository.load("slow")
            await repository.unload("other")
            await repository.load("other")
            assert repository.find("slow").name.version == 3, "the loaded model is still served"
            assert begun.acquire(blocking=False) == (attempt == 0), "one thread for one file"
        released.set()

        async def loaded() -> bool:
            with suppress(ModelError):
                await repository.load("slow")
            return not repository.registrations[1].error

        await eventually_async(loaded)

    asyncio.run(asyncio.wait_for(try_out(), 60))
