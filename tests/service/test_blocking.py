"""No blocking call in async code: a server under watch, whatever the call is hidden in.

ruff's ASYNC rules see `open()` in an `async def`, and not what a function that is called there does. Here
Python itself tells of such calls (see watch/sitecustomize.py) while a server does all that it can do.
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.service.images import encoded, noise
from tests.service.server import ROOT, serving

WATCH = ROOT / "tests" / "service" / "watch"
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


def test_the_watch_sees_what_is_hidden_in_a_function(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    environ = {"PYTHONPATH": str(WATCH), "BLOCKED": str(blocked), "PATH": ""}
    subprocess.run([sys.executable, "-c", PLANTED], env=environ, check=True)
    lines = blocked.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["open", "time.sleep", "os.listdir"]
    assert "on the loop" in lines[0]
    assert "innocent_name" in lines[0]


def test_a_server_never_blocks_its_event_loop(model_file: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    keys = tmp_path / "keys"
    keys.write_text("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n")  # of `secret`
    photo, model = encoded(noise(1)), tmp_path / "model.onnx"
    shutil.copy(model_file, model)
    with serving(
        tmp_path / "stderr",
        model,
        pythonpath=f"{WATCH}:{ROOT}",
        blocked=blocked,
        api_keys_file=keys,
        watch_model=1,
    ) as server:
        server.client.headers["Authorization"] = "Bearer secret"
        assert server.client.get("/health/ready").status_code == 200
        blocked.write_text("")  # as it starts, nobody waits
        paths = server.client.get("/openapi.json").json()["paths"]
        for path in ["/", "/docs", *(p for p, methods in paths.items() if "get" in methods)]:
            assert server.client.get(path).status_code < 500, path
        assert server.client.post("/predict", files={"file": photo}).status_code == 200
        assert server.client.post("/predict", content=photo).status_code == 200
        large = encoded(noise(1, 3000, 2000), "PNG")
        assert server.client.post("/predict", files={"file": large}).status_code == 200
        assert server.client.post("/predict", content=b"no image").status_code == 415
        assert server.client.post("/predict", content=photo[:1000]).status_code == 422
        assert server.client.get("/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        model.write_bytes(b"no model")
        server.process.send_signal(signal.SIGHUP)
        while server.client.get("/health").json()["reload_error"] is None:
            pass
        shutil.copy(model_file, model)
        while server.client.get("/health").json()["reload_error"] is not None:
            pass
    assert server.process.returncode == 0
    assert blocked.read_text() == ""
