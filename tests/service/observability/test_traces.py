"""Traces are sent to a collector: OTLP over HTTP, in protobuf."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.serving.images import plain
from tests.support.serving.server import refused, serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector(wait_s: float = 0.0) -> Iterator[tuple[str, list[Any], dict[str, str]]]:
    """Run a collector. Yield its address, the spans received and the attributes of their resource."""
    spans: list[Any] = []
    attributes: dict[str, str] = {}
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            request = ExportTraceServiceRequest.FromString(body)
            stopping.wait(wait_s)
            for resource in request.resource_spans:
                attributes.update({a.key: a.value.string_value for a in resource.resource.attributes})
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
            yield f"http://127.0.0.1:{server.server_port}", spans, attributes
        finally:
            stopping.set()
            server.shutdown()
            thread.join()


def test_request_and_stages_are_one_trace(model_file: Path, tmp_path: Path) -> None:
    with collector() as (address, spans, _attributes):
        limits = {"otel_exporter_otlp_endpoint": address, "otel_bsp_schedule_delay": 100}
        with serving(tmp_path / "log", model_file, **limits) as server:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert server.client.post("/predict", content=plain(5), headers=headers).status_code == 200
            assert server.client.get("/health").status_code == 200
        # The service has stopped and flushed its spans.
        by_name = {span.name: span for span in spans}
        assert by_name.keys() == {"POST /predict", "decode", "inference"}
        request = by_name["POST /predict"]
        assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
        for stage in ("decode", "inference"):
            assert by_name[stage].parent_span_id == request.span_id
            assert by_name[stage].start_time_unix_nano <= by_name[stage].end_time_unix_nano
        assert server.log == ""


def test_exporter_is_not_loaded_without_a_collector(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file) as server:
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert server.client.post("/predict", content=plain(5)).status_code == 200
        assert "google/_upb" not in maps, "protobuf belongs to the exporter"


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("OTEL_PROPAGATORS", "b3", "Propagator b3 not found"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1", "less than or equal to max_queue_size"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "127.0.0.1:4318", "is '127.0.0.1:4318'; it must be a URL"),
    ],
)
def test_invalid_opentelemetry_variable_is_named(
    variable: str, value: str, reason: str, model_file: Path
) -> None:
    variables = {"otel_exporter_otlp_endpoint": "http://127.0.0.1:1", variable.lower(): value}
    code, error = refused(model=model_file, port=0, **variables)
    assert (code, reason in error, "OTEL_" in error) == (2, True, True), error


def test_opentelemetry_variables_are_ignored_without_a_collector(model_file: Path, tmp_path: Path) -> None:
    others = {"otel_propagators": "b3", "otel_python_tracer_provider": "x", "otel_python_context": "x"}
    with serving(tmp_path / "log", model_file, **others) as server:
        assert server.client.post("/predict", content=plain(5)).status_code == 200
    assert server.log == ""


@pytest.mark.parametrize(
    ("resource_attributes", "service", "name"),
    [
        ("service.name=roses,team=a%20b", "", "roses"),
        ("service.name=roses,team=a%20b", "bulbs", "bulbs"),
        ("team=a%20b", "", "alexnet"),
    ],
)
def test_service_name_comes_from_the_variables(
    resource_attributes: str, service: str, name: str, model_file: Path, tmp_path: Path
) -> None:
    variables = {"otel_resource_attributes": resource_attributes, "otel_service_name": service}
    with collector() as (address, _spans, attributes):
        with serving(
            tmp_path / "log", model_file, otel_exporter_otlp_endpoint=address, **variables
        ) as server:
            assert server.client.get("/models").status_code == 200
        assert (attributes["service.name"], attributes["team"]) == (name, "a b")


COLLECTORS = [("hangs", 1), ("hangs", 2), ("refuses", 1), ("has no address", 1), ("is slow", 1)]


def test_a_collector_that_takes_no_spans_does_not_hold_up_the_stop(
    model_file: Path, tmp_path: Path
) -> None:
    """Each span is a batch of its own, so that there are many to wait for. All at the same time, because
    what takes long is to wait.
    """

    def stop(kind: str, workers: int) -> tuple[int, bool]:
        limits = {"otel_exporter_otlp_endpoint": addresses[kind], "otel_bsp_max_export_batch_size": 1}
        settings = {"drain_timeout_s": 1, "workers": workers, "threads": 1, **limits}
        with serving(tmp_path / f"{kind} {workers}", model_file, **settings) as server:
            for _request in range(5):
                assert server.client.post("/predict", content=plain(5)).status_code == 200
            server.process.terminate()
            return server.process.wait(60), "hangs" in server.log

    with socket.create_server(("127.0.0.1", 0)) as hole, collector(wait_s=60) as (slow, *_):
        addresses = {
            "hangs": f"http://127.0.0.1:{hole.getsockname()[1]}",
            "refuses": "http://127.0.0.1:1",
            "has no address": "http://collector.invalid:4318",
            "is slow": slow,
        }
        with ThreadPoolExecutor(len(COLLECTORS)) as pool:
            found = {each: pool.submit(stop, *each) for each in COLLECTORS}
        assert {each: ended.result() for each, ended in found.items()} == dict.fromkeys(
            COLLECTORS, (0, False)
        )
