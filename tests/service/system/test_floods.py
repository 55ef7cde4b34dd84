"""GETs that anybody may send as often as they like cost about nothing."""

import asyncio
from pathlib import Path

import pytest

from service.models.filters import conv1_weights, draw_kernels
from service.models.onnx_file import read
from service.observability.metrics import Metrics
from tests.support.checkout import ROOT
from tests.support.serving.server import serving

FLOWERS = ROOT / "models/flowers17.onnx"


def seconds(pid: int) -> float:
    """Of the processor, used until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells a process's time so")
def test_filters_are_drawn_once(tmp_path: Path) -> None:
    kernels = conv1_weights(read(FLOWERS.read_bytes()))
    assert kernels is not None
    wanted = draw_kernels(kernels)
    with serving(tmp_path / "log", FLOWERS) as server:
        before = seconds(server.process.pid)
        for _request in range(300):
            assert server.client.get("/models/flowers17/filters.png").content == wanted
        assert seconds(server.process.pid) - before < 1, "drawing takes 5 ms"


def test_whoever_asks_for_metrics_at_once_gets_the_same_and_later_ones_what_is_new() -> None:
    async def ask() -> None:
        metrics = Metrics()
        for count in range(1, 4):
            metrics.images.inc()
            texts = await asyncio.gather(*(metrics.text() for _client in range(50)))
            assert len(set(map(id, texts))) == 1
            assert f"\nalexnet_images_total {count}.0".encode() in texts[0]

    asyncio.run(ask())


def test_who_no_longer_waits_for_metrics_stops_nobody() -> None:
    async def ask() -> None:
        metrics = Metrics()
        gone, waiting = (asyncio.create_task(metrics.text()) for _client in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert b"alexnet_images_total" in await waiting

    asyncio.run(ask())
