"""Metrics, request logs, request ids and timings of a running server."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.observability import logs
from tests.support.serving.images import encoded, noise, plain
from tests.support.serving.responses import check
from tests.support.serving.server import CLASSES, Server, metrics, serving


def test_text_format_does_not_log_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for log_format, logs_requests in (("json", True), ("text", False)):
        logs.configure(log_format)
        assert logs.requests.isEnabledFor(logging.INFO) is logs_requests
        assert logs.log.isEnabledFor(logging.INFO)


def test_metrics_count_requests_images_and_batches(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file) as server:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: server.client.post("/predict", content=encoded(noise(n))), range(20)))
        server.client.post("/predict", content=b"no image")
        for path in ("/nothing", "/nothing/else"):
            server.client.get(path)
        values = metrics(server)
    assert values["alexnet_images_total"] == 20
    assert values["alexnet_requests_total,route=/predict,status=200"] == 20
    assert values["alexnet_requests_total,route=/predict,status=415"] == 1
    assert values["alexnet_requests_total,route=other,status=404"] == 2
    assert values["alexnet_request_seconds_count,route=/predict"] == 21
    for stage in ("decode", "queue", "inference"):
        assert values[f"alexnet_stage_seconds_count,stage={stage}"] == 20
    assert values["alexnet_batch_images_sum"] == 20
    assert 1 <= values["alexnet_batch_images_count"] <= 20
    assert values["alexnet_in_flight_images"] == values["alexnet_queue_images"] == 0
    assert values["alexnet_ready"] == 1
    assert values["alexnet_resident_memory_bytes"] > 1e6
    assert values["alexnet_workers"] == 1
    (model,) = (key for key in values if key.startswith("alexnet_model_info"))
    assert "name=tiny,provider=CPUExecutionProvider" in model


def test_server_timing_matches_timing_ms(server: Server) -> None:
    answer = server.client.post("/predict", content=plain(9))
    stages = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert {stage: float(ms) for stage, ms in stages.items()} == answer.json()["timing_ms"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-ID": "order-66.a"}, "order-66.a"),
        (
            {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            "0af7651916cd43dd8448eb211c80319c",
        ),
        (
            {"X-Request-ID": "a", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            "a",
        ),
        ({"X-Request-ID": 'no "quotes"'}, None),
        ({"X-Request-ID": "x" * 129}, None),
        ({"traceparent": "zz-1"}, None),
        ({}, None),
    ],
)
def test_request_id_is_kept_or_generated(
    server: Server, headers: dict[str, str], expected: str | None
) -> None:
    for path in ("/health", "/nothing"):
        request_id = server.client.get(path, headers=headers).headers["x-request-id"]
        generated = expected is None and len(request_id) == 32 and int(request_id, 16) >= 0
        assert request_id == expected or generated


def test_json_logs(fragile_model: Path, tmp_path: Path) -> None:
    """The start, each request and a traceback are one JSON object a line; stderr is empty."""
    with serving(tmp_path / "log", fragile_model, log_format="json") as server:
        assert server.client.post("/predict", content=plain(0)).status_code == 200
        failed = server.client.post("/predict", content=plain(255), headers={"X-Request-ID": "bright"})
        check(failed, 500, "internal")
        assert failed.headers["x-request-id"] == "bright"
        server.process.terminate()
        rest, _ = server.process.communicate()
    lines = [json.loads(line) for line in rest.splitlines()]
    done = [line for line in lines if line["message"] == "request"]
    assert [(line["path"], line["status"]) for line in done] == [("/predict", 200), ("/predict", 500)]
    assert done[1]["request_id"] == "bright"
    assert all(line["ms"] > 0 for line in done)
    (trace,) = (line for line in lines if line["level"] == "error")
    assert trace["request_id"] == "bright"
    assert "FloatingPointError" in trace["exception"]
    assert server.log == ""


def test_client_timeout_header(server: Server) -> None:
    """A client may shorten the server's deadline; a late request gets 504."""
    large = encoded(noise(1, 3000, 3000), "PNG")
    late = server.client.post("/predict", content=large, headers={"X-Request-Timeout-Ms": "1"})
    check(late, 504, "deadline", "0.001 s")
    early = server.client.post("/predict", content=plain(1), headers={"X-Request-Timeout-Ms": "1e9"})
    assert len(early.json()["predictions"]) == min(5, len(CLASSES))
    for invalid in ("0", "-5", "soon", "nan"):
        refused = server.client.post("/predict", content=large, headers={"X-Request-Timeout-Ms": invalid})
        check(refused, 422, "invalid_request", "x-request-timeout-ms")
