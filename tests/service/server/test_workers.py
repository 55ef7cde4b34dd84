"""Test several worker processes on one port: shared requests, added metrics, and restarts."""

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.observability.metrics import METRICS_FOLDER
from service.server.listener import bind_socket, listen
from service.server.workers import MAX_DEATHS, gpu_for
from tests.support.eventually import eventually
from tests.support.models.small_models import replace_with_version
from tests.support.serving.images import plain
from tests.support.serving.server import COMMAND, Server, environ, metrics, refused, serving


@pytest.fixture(scope="module")
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For tests after which it goes on as before."""
    folder = tmp_path_factory.mktemp("workers")
    with serving(folder / "log", served(model_file, folder), workers=2, threads=1) as running:
        yield running


@pytest.fixture
def own(model_file: Path, tmp_path: Path) -> Iterator[Server]:
    """For one that ends."""
    with serving(tmp_path / "log", served(model_file, tmp_path), workers=2, threads=1) as running:
        yield running


def served(model_file: Path, folder: Path) -> Path:
    return replace_with_version(model_file, folder / "model.onnx", 3)


def children(server: Server) -> list[int]:
    """Return the pids of the workers."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in listed.stdout.split()]


def wait_for_workers(server: Server) -> None:
    eventually(lambda: metrics(server)["alexnet_workers"] == 2)


def wait_for_replacement(server: Server, old_pid: int) -> None:
    eventually(lambda: len(pids := children(server)) == 2 and old_pid not in pids)


def predict(server: Server) -> int:
    """Predict on a new connection, so that any worker may accept it; return the model's version."""
    answer = httpx.post(server.address + "/predict", content=plain(9), timeout=30)
    return int(answer.json()["model"]["version"])


def test_metrics_are_those_of_all_workers(server: Server) -> None:
    counted = ("alexnet_images_total", "alexnet_requests_total,route=/predict,status=200")
    before = metrics(server)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _n: predict(server), range(40))) == {3}
    # Each worker writes its metrics twice a second.
    eventually(lambda: metrics(server)["alexnet_in_flight_images"] == 0)
    found = metrics(server)
    assert [found[name] - before.get(name, 0) for name in counted] == [40, 40]
    assert found["alexnet_workers"] == 2
    assert found["alexnet_in_flight_images_limit"] == 512
    assert found["alexnet_ready"] == 1
    assert sum(1 for key in found if key.startswith("alexnet_model_info")) == 1


def metrics_folder(server: Server) -> Path:
    variables = Path(f"/proc/{children(server)[0]}/environ").read_bytes().decode().split("\0")
    return Path(dict(line.split("=", 1) for line in variables if line)[METRICS_FOLDER])


def test_an_empty_metrics_file_is_ignored(server: Server) -> None:
    (metrics_folder(server) / "counter_1.db").touch()
    assert metrics(server)["alexnet_workers"] == 2


def test_a_metrics_folder_of_another_run_is_not_used(
    server: Server, model_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(metrics_folder(server), tmp_path / "left")
    for folder in (tmp_path / "left", tmp_path / "none"):
        with serving(tmp_path / "log", model_file, **{METRICS_FOLDER: folder}) as single:
            assert metrics(single)["alexnet_workers"] == 1


def test_copies_of_a_listener_do_not_make_it_block() -> None:
    with bind_socket("127.0.0.1", 0) as listener:
        listen(listener, 5)
        listener.dup().close()
        assert not os.get_blocking(listener.fileno())


def listener_blocks(server: Server) -> bool:
    """Return whether the listening socket, which all workers share, is blocking."""
    inodes = [line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    for opened in Path(f"/proc/{server.process.pid}/fd").iterdir():
        if str(opened.readlink()).removeprefix("socket:[").removesuffix("]") in inodes:
            info = Path(f"/proc/{server.process.pid}/fdinfo/{opened.name}").read_text()
            return not int(info.split("flags:")[1].split()[0], 8) & os.O_NONBLOCK
    return False


def test_a_worker_that_dies_is_replaced_while_the_other_serves(server: Server) -> None:
    dead, healthy = children(server)
    os.kill(dead, signal.SIGKILL)
    wait_for_replacement(server, dead)
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(wait_for_workers, server)
        while not started.done():
            assert not listener_blocks(server)
            time.sleep(0.005)
        started.result()
    assert [predict(server) for _request in range(20)] == [3] * 20
    assert healthy in children(server)
    assert "ended with -9" in server.log


def test_a_suspended_worker_is_restarted(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, workers=2, threads=1, request_timeout_s=1) as server:
        stopped, healthy = children(server)
        os.kill(stopped, signal.SIGSTOP)
        wait_for_replacement(server, stopped)
        assert healthy in children(server)
        assert "worker 0 has not responded for 5 s and is killed" in server.log
        assert predict(server) == 3


def test_a_suspended_worker_does_not_delay_the_stop(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, workers=2, threads=1, drain_timeout_s=1) as server:
        pids = children(server)
        os.kill(pids[1], signal.SIGSTOP)
        server.process.terminate()
        assert server.process.wait(30) == 1
        assert "worker 1 does not stop and is killed" in server.log
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_reload_reaches_all_and_a_stop_ends_all(own: Server, model_file: Path, tmp_path: Path) -> None:
    server = own
    replace_with_version(model_file, tmp_path / "model.onnx", 4)
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: [predict(server) for _request in range(20)] == [4] * 20)
    pids = children(server)
    server.process.terminate()
    assert server.process.wait(20) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_load_and_unload_are_refused_with_several_workers(model_file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "admins"
    keys.write_text(hashlib.sha256(b"root").hexdigest())
    with serving(tmp_path / "log", model_file, workers=2, threads=1, admin_keys_file=keys) as server:
        for command in ("load", "unload"):
            answer = server.client.post(
                f"/v2/repository/models/tiny/{command}", headers={"Authorization": "Bearer root"}
            )
            assert answer.status_code == 400
            assert "SIGHUP" in answer.json()["error"]


def test_workers_do_not_outlive_their_parent(own: Server) -> None:
    server = own
    pids = children(server)
    server.process.kill()
    server.process.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_workers_that_keep_dying_end_the_service(own: Server) -> None:
    """As after a GPU error under CUDA MPS, which ends them all."""

    def removed(pid: int) -> bool:
        return own.process.poll() is not None or pid not in children(own)

    for _death in range(MAX_DEATHS):
        dead = children(own)[0]
        os.kill(dead, signal.SIGKILL)
        eventually(partial(removed, dead))
    assert own.process.wait(30) == 1
    assert own.log.count("ended with -9") == MAX_DEATHS


def test_an_unusable_model_exits_with_1(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"no model")
    done = subprocess.run(
        COMMAND,
        env=environ(model=file, workers=2),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("error: model.onnx")


def test_workers_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [gpu_for(n)["CUDA_VISIBLE_DEVICES"] for n in range(4)] == ["3", "5", "3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_for(0) == {}


def test_zero_workers_are_refused(model_file: Path) -> None:
    message = "error: WORKERS is '0'; it must be auto or a whole number, 1 or more\n"
    assert refused(model=model_file, workers=0) == (2, message)
