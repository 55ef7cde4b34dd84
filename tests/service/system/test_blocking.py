"""Tests that a server never makes a blocking call on its event loop.

ruff's ASYNC rules see `open()` in an `async def`, but not in a function that it calls. Here Python itself
records such calls (see watch/sitecustomize.py) while a server is used in every way.
"""

import base64
import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.support.checkout import ROOT
from tests.support.eventually import eventually
from tests.support.serving.images import encoded, noise
from tests.support.serving.server import serving

WATCH = ROOT / "tests" / "support" / "watch"
PLANTED = """
import asyncio, pathlib, tempfile, time

folder = pathlib.Path(tempfile.mkdtemp())
(folder / "before").write_text("outside of any loop")

def innocent_name(path):
    return path.write_text("x")

async def main():
    await asyncio.to_thread(innocent_name, folder / "in a thread")
    innocent_name(folder / "on the loop")
    time.sleep(0)
    list(folder.iterdir())

asyncio.run(main())
"""


def test_recorder_sees_calls_in_nested_functions(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    environ = {"PYTHONPATH": str(WATCH), "BLOCKED": str(blocked), "PATH": ""}
    subprocess.run([sys.executable, "-c", PLANTED], env=environ, check=True)
    lines = blocked.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["open", "time.sleep", "os.listdir"]
    assert "on the loop" in lines[0]
    assert "innocent_name" in lines[0]


def test_server_never_blocks_its_event_loop(model_file: Path, tmp_path: Path) -> None:
    blocked, keys, models = tmp_path / "blocked", tmp_path / "keys", tmp_path / "models"
    keys.write_text(hashlib.sha256(b"secret").hexdigest())
    models.mkdir()
    shutil.copy(model_file, models / "tiny.onnx")
    settings = {"models": models, "admin_keys_file": keys, "api_keys_file": keys, "watch_model": 1}
    watched = {"pythonpath": f"{WATCH}:{ROOT}", "blocked": blocked}
    with serving(tmp_path / "stderr", None, **settings, **watched) as server:
        server.client.headers["Authorization"] = "Bearer secret"
        assert server.client.get("/health/ready").status_code == 200
        blocked.write_text("")  # blocking calls at the start do not matter
        do_everything(server.client, server.client.get("/openapi.json").json()["paths"])

        # Reload by WATCH_MODEL, then by a signal as well.
        (models / "tiny.onnx").write_bytes(b"no model")
        eventually(lambda: server.client.get("/health").json()["reload_error"])
        shutil.copy(model_file, models / "tiny.onnx")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: not server.client.get("/health").json()["reload_error"])
    assert server.process.returncode == 0
    assert blocked.read_text() == ""


def do_everything(client: httpx.Client, paths: dict[str, Any]) -> None:
    photo, large = encoded(noise(1)), encoded(noise(1, 3000, 2000), "PNG")
    for path in ["/", "/docs", "/static/app.js", "/no/such/path", *paths]:
        assert client.get(path.format(name="tiny", version="3")).status_code < 500, path
    for path in ("/predict", "/predict?crops=10", "/embed", "/embed?format=raw", "/explain"):
        assert client.post(path, content=photo).status_code == 200, path
    several = [("file", photo), ("file", large), ("file", b"no image")]
    assert client.post("/predict", files=several).status_code == 200
    assert client.post("/predict", json={"image": base64.b64encode(large).decode()}).status_code == 200
    assert client.post("/predict", content=b"no image").status_code == 415
    assert client.post("/predict", content=photo[:1000]).status_code == 422
    assert client.get("/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
    pixels = {"name": "images", "shape": [1, 224, 224, 3], "datatype": "UINT8", "data": [7] * 224 * 224 * 3}
    assert client.post("/v2/models/tiny/infer", json={"inputs": [pixels]}).status_code == 200
    for command in ("index", "models/tiny/unload", "models/tiny/load"):
        assert client.post(f"/v2/repository/{command}", json={}).status_code == 200, command
