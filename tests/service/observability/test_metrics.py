"""Metrics, request logs, request ids and timings of a running server."""

import base64
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


def test_unfamiliarity_and_unknown_images_are_counted(trusted_models: Path, tmp_path: Path) -> None:
    """Of /predict by the request's limit, of /v2 by the file's and only if the output is requested."""

    def infer(model: str, *outputs: str) -> None:
        body = {"inputs": [crop], "outputs": [{"name": name} for name in outputs]}
        assert server.client.post(f"/v2/models/{model}/infer", json=body).status_code == 200

    image = base64.b64encode(plain(255)).decode()
    crop = {"name": "encoded", "shape": [2], "datatype": "BYTES", "data": [image, image]}
    with serving(tmp_path / "log", None, models=trusted_models, default_model="trusted") as server:
        for query in ("", "?unknown_above=0.95", "?model=calibrated", "?model=untested", "?crops=10"):
            for level in (20, 240):
                assert server.client.post(f"/predict{query}", content=plain(level)).status_code == 200
        server.client.post("/predict", content=b"no image")
        server.client.post("/explain?format=json", content=plain(240))
        before = metrics(server)
        infer("trusted", "unfamiliarity")
        infer("trusted", "probabilities")
        infer("untested", "probabilities")
        after = metrics(server)
    assert before["alexnet_unknown_images_total"] == 2
    assert before["alexnet_unfamiliarity_count"] == 6
    assert before["alexnet_unfamiliarity_bucket,le=0.1"] == 3
    assert before["alexnet_unfamiliarity_bucket,le=0.9"] == 3
    assert before["alexnet_unfamiliarity_bucket,le=0.95"] == 6
    assert after["alexnet_unknown_images_total"] == 4
    assert after["alexnet_unfamiliarity_count"] == after["alexnet_unfamiliarity_bucket,le=1.0"] == 8
    assert after["alexnet_images_total"] == before["alexnet_images_total"] + 6


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
