"""Traces reach a collector, a real one in what it reads: OTLP over HTTP, in protobuf."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.service.images import plain
from tests.service.server import serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """-> its address, and the spans that it has got."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans
        finally:
            server.shutdown()
            thread.join()


def test_a_request_and_its_stages_are_one_trace(model_file: Path, tmp_path: Path) -> None:
    with collector() as (address, spans):
        limits = {"otel_exporter_otlp_endpoint": address, "otel_bsp_schedule_delay": 100}
        with serving(tmp_path / "log", model_file, **limits) as server:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert server.client.post("/predict", content=plain(5), headers=headers).status_code == 200
            assert server.client.get("/health").status_code == 200
        # The service has ended, and sent what it had.
        found = {span.name: span for span in spans}
        assert found.keys() == {"POST /predict", "decode", "inference"}
        request = found["POST /predict"]
        assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
        for stage in ("decode", "inference"):
            assert found[stage].parent_span_id == request.span_id
            assert found[stage].start_time_unix_nano <= found[stage].end_time_unix_nano
        assert server.log == ""


def test_without_a_collector_nothing_is_loaded_or_sent(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file) as server:
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert server.client.post("/predict", content=plain(5)).status_code == 200
        assert "google/_upb" not in maps, "protobuf belongs to the exporter"
