"""Tests of failures around the service: the model's file, the log, the disk, the clock."""

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.models.discovery import ModelLocation
from service.models.loading import read
from service.models.session import Model, load_model
from service.observability import logs
from tests.support.checkout import ROOT, free_port, wait_until_healthy
from tests.support.eventually import eventually
from tests.support.models.small_models import replace_with_version
from tests.support.serving.images import encoded, noise
from tests.support.serving.responses import check
from tests.support.serving.server import COMMAND, Server, environ, metrics, serving

IMAGE = encoded(noise(3))


def other_weights(model: Path, target: Path) -> Path:
    """Write a model of the same size that gives other answers."""
    loaded = onnx.load(model)
    for tensor in loaded.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1000:
            tensor.raw_data = np.ascontiguousarray(values[::-1]).tobytes()
    onnx.save(loaded, target)
    return target


def test_half_written_missing_and_replaced_model_files(model_file: Path, tmp_path: Path) -> None:
    """During any reload, an answer comes from one complete file, whose hash it names."""
    (tmp_path / "both").mkdir()
    ours, theirs = (tmp_path / f"both/{name}.onnx" for name in ("ours", "theirs"))
    shutil.copy(model_file, ours)
    other_weights(model_file, theirs)
    file = tmp_path / "served.onnx"
    shutil.copy(ours, file)
    expected = {}
    with serving(tmp_path / "log", None, models=tmp_path / "both", threads=1) as server:
        for name in ("ours", "theirs"):
            answer = server.client.post(f"/predict?model={name}", content=IMAGE).json()
            expected[answer["model"]["sha256"]] = answer["predictions"]
    assert len({json.dumps(predictions) for predictions in expected.values()}) == 2

    ended = threading.Event()
    seen: list[str] = []
    with serving(tmp_path / "log", file, threads=1) as server:

        def ask() -> None:
            with httpx.Client(base_url=server.address, timeout=30) as client:
                while not ended.is_set():
                    answer = client.post("/predict", content=IMAGE)
                    assert answer.status_code == 200, answer.text
                    body = answer.json()
                    assert body["predictions"] == expected[body["model"]["sha256"]]
                    seen.append(body["model"]["sha256"])

        with ThreadPoolExecutor(2) as pool:
            clients = [pool.submit(ask) for _ in range(2)]
            try:
                for turn in range(2):
                    whole = (theirs if turn % 2 == 0 else ours).read_bytes()
                    for cut in (0, len(whole) // 2, len(whole) - 1):
                        file.write_bytes(whole[:cut])  # as cp does
                        server.process.send_signal(signal.SIGHUP)
                        wait(lambda: reload_error(server) is not None, clients)
                    file.unlink()
                    server.process.send_signal(signal.SIGHUP)
                    wait(lambda: "no model file" in str(reload_error(server)), clients)
                    shutil.copy(theirs if turn % 2 == 0 else ours, tmp_path / "new")
                    (tmp_path / "new").replace(file)
                    server.process.send_signal(signal.SIGHUP)
                    wait(lambda: reload_error(server) is None, clients)
            finally:
                ended.set()
            for client in clients:
                client.result()
        assert set(seen) == set(expected), "both were served, and nothing else"
        assert "Traceback" not in server.log


def reload_error(server: Server) -> object:
    answer = server.client.get("/health")
    assert answer.status_code == 200
    return answer.json()["reload_error"]


def wait(until: Callable[[], bool], clients: list[Any]) -> None:
    def holds() -> bool:
        for client in clients:
            if client.done():
                client.result()
        return until()

    eventually(holds)


def test_file_written_to_while_it_is_read_is_refused(model_file: Path, tmp_path: Path) -> None:
    """Otherwise parts of two models could load together and answer nonsense."""
    file = tmp_path / "model.onnx"
    shutil.copy(model_file, file)

    def load(path: Path) -> Model:
        model = load_model(path, device="cpu", threads=1)
        with path.open("r+b") as opened:
            opened.seek(1000)
            opened.write(b"x")
        return model

    result = read(ModelLocation(file), load)
    assert result.model is None
    assert "written to while it was read" in str(result.error)

    def replaced(path: Path) -> Model:
        model = load_model(path, device="cpu", threads=1)
        replace_with_version(model_file, path, 9)
        return model

    shutil.copy(model_file, file)
    assert read(ModelLocation(file), replaced).model is not None, "it is another file"


def test_full_log_disk_does_not_affect_requests(model_file: Path, tmp_path: Path) -> None:
    """The log's disk is full; requests are answered as before."""
    port = free_port()
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            COMMAND, env=environ(model=model_file, port=port, log_format="json"), stdout=full, stderr=full
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        try:
            wait_until_healthy(process, port)
            for _request in range(5):
                assert client.post("/predict", content=IMAGE).status_code == 200
            check(client.post("/predict", content=b"x"), 415, "unsupported_image")
        finally:
            process.terminate()
        assert process.wait(20) == 0


def test_log_without_a_reader_does_not_block(model_file: Path, tmp_path: Path) -> None:
    """If the reader of the log stops, the service goes on."""
    with serving(tmp_path / "log", model_file, log_format="json") as server:
        pipe = server.process.stdout
        assert pipe is not None
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        for _request in range(60):  # 150 bytes each
            assert server.client.get("/health/live").status_code == 200
        server.process.terminate()
        assert server.process.wait(20) == 0, "it still stops in time"


def written(handler: logs.Handler) -> None:
    def flushed() -> bool:
        handler.flush()
        return not handler._lines

    eventually(flushed)


def test_lines_that_are_lost_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING_LINES", 5)
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
    handler = logs.Handler(writes)
    monkeypatch.setattr(logs.log, "handlers", [handler])
    monkeypatch.setattr(logs.log, "propagate", False)
    for number in range(30):
        logs.log.warning("line %d %s", number, "x" * 5000)
    with os.fdopen(reads) as pipe, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(pipe.readlines)
        written(handler)
        logs.log.warning("heard again")
        written(handler)
        os.close(writes)
        *lines, last = reading.result()
    assert last == "heard again\n"
    lost = [int(line.split()[0]) for line in lines if line.endswith("is too slow\n")]
    assert sum(lost) > 0
    assert len(lines) - len(lost) + sum(lost) == 30


def test_log_record_with_wrong_arguments_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    handler = logs.Handler(sys.stdout.fileno())
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": (1,)}))
    out, errors = capfd.readouterr()
    assert out == "1\n"
    assert "Logging error" in errors


def test_workers_need_room_for_their_metrics(model_file: Path, tmp_path: Path) -> None:
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
        pytest.skip("cannot mount a file system here")
    assert done.returncode == 2
    assert done.stderr.startswith("error: WORKERS is 2; their metrics need 1000000 bytes each")
    assert done.stderr.count("\n") == 1


def test_full_metrics_disk_does_not_kill_workers(model_file: Path, tmp_path: Path) -> None:
    """Metrics files are mapped into memory: writing to a page without disk space kills a process."""
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
            pytest.skip("cannot mount a file system here: " + process.stderr.read())
        address = line.split(" on ")[1].split()[0]
        try:
            disk = Path(f"/proc/{process.pid}/root{folder}/rest")
            with pytest.raises(OSError, match="No space left"):
                disk.write_bytes(bytes(5_000_000))
            with ThreadPoolExecutor(4) as pool:  # so many explanations are fewer images than MAX_QUEUE
                paths = ["/predict", "/predict?top_k=0", "/embed", "/explain", "/v2/models/tiny/infer"] * 4
                found = list(
                    pool.map(lambda path: httpx.post(address + path, content=IMAGE, timeout=20), paths)
                )
            assert [answer.status_code for answer in found] == [200, 422, 200, 200, 400] * 4
            told = httpx.get(address + "/metrics", timeout=20).text
            assert 'alexnet_requests_total{route="/predict",status="200"} 4.0' in told
            assert "alexnet_workers 2.0" in told
        finally:
            process.terminate()
        assert process.wait(20) == 0
        assert process.stderr.read() == "", "no worker has ended"


def test_wall_clock_jumps_do_not_affect_durations(model_file: Path, tmp_path: Path) -> None:
    """Every reading of the wall clock jumps by up to a day; durations do not use it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import random, time\n"
        "real = time.time\n"
        "time.time = lambda: real() + random.choice((-1, 1)) * 86400 * random.random()\n"
        "open(__file__ + '.done', 'w').close()\n"
    )
    path = f"{tmp_path}:{ROOT}"
    with serving(tmp_path / "log", model_file, pythonpath=path, max_queue=12) as server:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _n: server.client.post("/predict", content=IMAGE), range(64)))
        assert {answer.status_code for answer in answers} <= {200, 429}
        for answer in answers:
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
