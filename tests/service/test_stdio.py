"""Test what C libraries write on stderr about broken images: limited, logged, and never blocking."""

import io
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.support.checkout import free_port, wait_until_healthy
from tests.support.eventually import eventually
from tests.support.serving.images import plain
from tests.support.serving.server import COMMAND, environ, serving


def broken_fax(rows: int) -> bytes:
    """Build a TIFF for which libtiff writes a line on stderr for each row."""
    file = io.BytesIO()
    Image.new("1", (8, rows)).save(file, "TIFF", compression="tiff_ccitt")
    with Image.open(file) as image:
        strips = zip(image.tag_v2[273], image.tag_v2[279], strict=True)  # type: ignore[attr-defined]
    data = bytearray(file.getvalue())
    for offset, size in strips:
        data[offset : offset + size] = (b"\x00\x21" * size)[:size]
    return bytes(data)


@pytest.mark.parametrize("processes", [0, 1])
def test_library_output_is_limited_and_logged(model_file: Path, tmp_path: Path, processes: int) -> None:
    with serving(tmp_path / "log", model_file, decode_processes=processes) as server:
        for _time in range(2):
            server.client.post("/predict", content=broken_fax(30_000))
        assert server.client.post("/predict", content=plain(9)).status_code == 200
        assert len(server.log) < 10_000
        if not processes:
            eventually(lambda: "is lost" in server.log)
            assert server.log.startswith("WARNING a library wrote on stderr: Fax3")
            assert server.log.count("\n") == 21


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("processes", [0, 1])
def test_an_unread_stderr_blocks_nothing(model_file: Path, processes: int, log_format: str) -> None:
    port = free_port()
    with subprocess.Popen(
        COMMAND,
        env=environ(model=model_file, port=port, decode_processes=processes, log_format=log_format),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        wait_until_healthy(process, port)
        for _time in range(3):
            httpx.post(f"http://127.0.0.1:{port}/predict", content=broken_fax(30_000), timeout=60)
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", content=plain(9), timeout=60)
        assert answer.status_code == 200
        process.terminate()
        assert process.wait(20) == 0


def test_a_crash_is_reported_on_stderr(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file) as server:
        server.process.send_signal(signal.SIGABRT)
        assert server.process.wait(20) == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in server.log
