"""Content negotiation by the headers Accept and Accept-Encoding."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from service.http.accept import accepts_gzip
from tests.support.serving.images import plain
from tests.support.serving.server import Server, serving

GZIP = ["gzip", "GZIP", "x-gzip", "*", "gzip, deflate, br", "br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip;q=0.001"]
GZIP += ["identity;q=0, gzip", "identity, gzip", "*;q=0, gzip", "identity;q=0.5,gzip;q=0.5", "gzip ; q=1"]
PLAIN = [
    "",
    "gzip;q=0",
    "gzip;q=0.0",
    "gzip; Q=0.000",
    "*;q=0",
    "identity",
    "br",
    "x-gzip;q=0",
    "gzip;q=0, *",
]
PLAIN += ["gzip;q=0.5, identity", "not-gzip", "gzip;q=x", "gzip;q=2", "identity;q=0", ",", "*, gzip;q=0"]


@pytest.mark.parametrize("header", GZIP)
def test_gzip_is_sent_where_accepted(server: Server, header: str) -> None:
    assert accepts_gzip(header)
    answer = server.client.get("/", headers={"Accept-Encoding": header})
    assert (answer.headers["content-encoding"], "<html" in answer.text) == ("gzip", True)


@pytest.mark.parametrize("header", PLAIN)
def test_gzip_is_not_sent_where_not_accepted(server: Server, header: str) -> None:
    assert not accepts_gzip(header)
    for path in ("/", "/docs", "/static/app.js"):
        answer = server.client.get(path, headers={"Accept-Encoding": header})
        assert (answer.status_code, "content-encoding" in answer.headers) == (200, False)
        assert answer.headers["vary"] == "Accept-Encoding"


OLD, NEW = "text/plain; version=0.0.4; charset=utf-8", "text/plain; version=1.0.0; charset=utf-8"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
FORMATS = {
    "": OLD,
    "*/*": OLD,
    "text/plain": OLD,
    "text/plain;version=0.0.4": OLD,
    "text/plain; version=1.0.0": NEW,
    'TEXT/PLAIN; VERSION="1.0.0"; escaping=allow-utf-8': NEW,
    "application/openmetrics-text": OPEN,
    "application/openmetrics-text; version=1.0.0": OPEN,
    PROMETHEUS: OPEN,
    "application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5": OLD,
    "application/openmetrics-text;q=0, text/plain;version=1.0.0": NEW,
    "text/plain;version=0.0.4;q=0.1, text/plain;version=1.0.0;q=0.2": NEW,
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily": OLD,
    "text/html,application/xhtml+xml,*/*;q=0.8": OLD,
    "text/plain;version=9": OLD,
    "text/plain;version=x, ;;=, ,": OLD,
}


@pytest.mark.parametrize(("accept", "kind"), FORMATS.items())
def test_metrics_format_follows_accept(server: Server, accept: str, kind: str) -> None:
    assert server.client.post("/predict", content=plain(1)).status_code == 200
    answer = server.client.get("/metrics", headers={"Accept": accept})
    assert (answer.headers["content-type"], answer.headers["vary"]) == (kind, "Accept")
    assert images_in(answer.text, kind) >= 1


def images_in(text: str, kind: str) -> float:
    """Read alexnet_images_total with Prometheus' parsers; the OpenMetrics parser is strict."""
    families: Iterable[Metric] = read_openmetrics(text) if kind == OPEN else read_text(text)  # type: ignore[no-untyped-call]
    samples = [sample for family in families for sample in family.samples]
    (total,) = (float(sample.value) for sample in samples if sample.name == "alexnet_images_total")
    return total


def test_metrics_format_follows_accept_with_several_workers(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, workers=2) as server:
        assert server.client.post("/predict", content=plain(1)).status_code == 200
        for accept, kind in (("", OLD), (PROMETHEUS, OPEN)):
            answer = server.client.get("/metrics", headers={"Accept": accept})
            assert (answer.headers["content-type"], images_in(answer.text, kind)) == (kind, 1)
