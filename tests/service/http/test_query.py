"""Query parameters: a misspelt one is refused by name, not silently ignored."""

from base64 import b64encode

import pytest

from tests.support.serving.images import plain
from tests.support.serving.responses import check
from tests.support.serving.server import Server

PICTURE = plain(1)
MISSPELT = {
    "/predict?topk=3": ("'topk'", "model, version, top_k, crops"),
    "/predict?top_k=3&Crops=10": ("'Crops'", "crops"),
    "/predict?a=1&b=2": ("'a', 'b'", "top_k"),
    "/predict?timeout_ms=9": ("'timeout_ms'", "x-request-timeout-ms is a header"),
    "/predict?x-request-timeout-ms=9": ("has no parameter 'x-request-timeout-ms'", "is a header"),
    "/predict?top_k=x&topk=3": ("'topk'", "top_k"),
    "/predict?utm_source=x": ("'utm_source'", "top_k"),
    "/predict?topk": ("'topk'", "top_k"),
    "/predict?%ff=1": ("has no parameter", "top_k"),
    "/embed?normalise=true": ("'normalise'", "normalize, format"),
    "/embed/?top_k=3": ("'top_k'", "/embed has no parameter"),
    "/explain?lable=daisy": ("'lable'", "label, format"),
    "/predict?" + "&".join(f"p{n}={'x' * 50}" for n in range(100)): ("'p0', 'p1'", "top_k"),
    "/predict?" + "x" * 5000 + "=1": ("'" + "x" * 40 + "'", "top_k"),
}


@pytest.mark.parametrize(("path", "messages"), MISSPELT.items(), ids=lambda value: str(value)[:40])
def test_unknown_parameter_is_refused_by_name(server: Server, path: str, messages: tuple[str, str]) -> None:
    answer = server.client.post(path, content=PICTURE)
    check(answer, 422, "invalid_request", *messages)
    assert len(answer.content) < 1000


def test_filters_png_takes_only_version(server: Server) -> None:
    get = server.client.get
    check(get("/models/tiny/filters.png?versoin=3"), 422, "invalid_request", "'versoin'", "it has version")
    assert get("/models/tiny/filters.png?version=3").status_code == 200


def test_known_parameters_are_accepted(server: Server) -> None:
    for path in ("/predict?model=tiny&version=3&top_k=2&crops=10", "/predict?"):
        assert server.client.post(path, content=PICTURE).status_code == 200


@pytest.mark.parametrize("path", ["/v2/models/tiny/infer", "/v2/models/tiny/versions/3/infer"])
def test_infer_takes_only_version(server: Server, path: str) -> None:
    entry = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [b64encode(PICTURE).decode()]}
    refused = server.client.post(f"{path}?vresion=2", json={"inputs": [entry]})
    assert refused.status_code == 400
    assert refused.json() == {"error": f"{path} has no parameter 'vresion'; it has version"}
    assert server.client.post(f"{path}?version=3", json={"inputs": [entry]}).status_code == 200
