"""Tests that GET requests without authentication cost next to nothing."""

import asyncio
from pathlib import Path

import pytest

from service.models.filters import conv1_weights, draw_kernels
from service.models.onnx_file import read
from service.observability.metrics import Metrics
from tests.support.checkout import ROOT
from tests.support.serving.server import serving

FLOWERS = ROOT / "models/flowers17.onnx"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_filters_are_drawn_once(tmp_path: Path) -> None:
    kernels = conv1_weights(read(FLOWERS.read_bytes()))
    assert kernels is not None
    expected = draw_kernels(kernels)
    with serving(tmp_path / "log", FLOWERS) as server:
        before = cpu_seconds(server.process.pid)
        for _request in range(300):
            assert server.client.get("/models/flowers17/filters.png").content == expected
        assert cpu_seconds(server.process.pid) - before < 1, "drawing takes 5 ms"


def test_concurrent_metrics_requests_share_one_text() -> None:
    async def request_metrics() -> None:
        metrics = Metrics()
        for count in range(1, 4):
            metrics.images.inc()
            texts = await asyncio.gather(*(metrics.text() for _client in range(50)))
            assert len(set(map(id, texts))) == 1
            assert f"\nalexnet_images_total {count}.0".encode() in texts[0]

    asyncio.run(request_metrics())


def test_cancelled_metrics_request_does_not_affect_others() -> None:
    async def request_metrics() -> None:
        metrics = Metrics()
        cancelled, waiting = (asyncio.create_task(metrics.text()) for _client in range(2))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert b"alexnet_images_total" in await waiting

    asyncio.run(request_metrics())
