"""Write the tables of docs/http-api.md and docs/metrics.md from the code, for cog.

`scripts/check --fix` runs it. Endpoints and parameters come from the OpenAPI description, statuses and
codes from service/problems.py, metrics from service/observability/metrics.py. The causes of each error
are written here.
"""

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client.metrics import MetricWrapperBase

from contract.errors import InvalidImage, TooManyPixels, UnsupportedImage
from service import errors
from service.http.app import create_app
from service.http.error_responses import ROUTING_CODES
from service.models.repository import Repository
from service.observability.metrics import Metrics
from service.problems import STATUSES
from service.settings import Settings

WHEN: Final[dict[type[Exception], str]] = {
    errors.Unauthorized: "API keys are configured and the request has no valid one.",
    errors.Forbidden: "`/v2` only: loading and unloading models needs an admin key.",
    errors.UnknownModel: "There is no such model or version.",
    errors.BodyTimeout: "The body did not arrive in time.",
    errors.BodyTooLarge: "The body is larger than `MAX_BODY_BYTES`, also once decompressed.",
    TooManyPixels: "The image's header declares too many pixels.",
    UnsupportedImage: "The file has no signature of a supported format.",
    errors.UnsupportedCoding: "The `Content-Encoding` is not gzip or deflate, or there are two.",
    InvalidImage: "The format is known, but the file is corrupt or truncated.",
    errors.InvalidRequest: "There is no image, or a parameter is unknown or out of range.",
    errors.ModelError: "`/v2` only: the model to load cannot be served.",
    errors.Overloaded: "The queue is full. `Retry-After` says when to try again.",
    errors.NotReady: "The service is not ready, or the model cannot be used.",
    errors.SchedulerClosed: "The service is stopping.",
    errors.DeadlineExceeded: "There was no result in time.",
}
# Of routing (service/http/error_responses.py) and of the HTTP parser (service/server): no exceptions.
BEYOND: Final = (
    (
        400,
        "invalid_request",
        "The request is not valid HTTP, or its `Host` is missing, malformed or not accepted.",
    ),
    (404, ROUTING_CODES[404], "There is no such path."),
    (405, ROUTING_CODES[405], "The path does not support this method."),
    (408, "timeout", "The headers did not arrive in time."),
    (431, "too_large", "The headers exceed `MAX_HEADER_BYTES`, or there are more than 100."),
    (500, "internal", "A bug in the service. The log has the traceback."),
    (503, "not_ready", "Every connection is busy."),
)
IMAGE_ROUTES: Final = ("/predict", "/embed", "/explain")


def endpoints() -> str:
    """Write a table of the OpenAPI description's paths; those that do the same share a row."""
    paths = _described()["paths"]
    order = [*IMAGE_ROUTES, *sorted(paths.keys() - set(IMAGE_ROUTES))]
    rows: dict[tuple[str, bool, str], list[str]] = {}
    for path in order:
        for method, operation in paths[path].items():
            summary = " ".join(operation["description"].split("\n\n")[0].split())
            rows.setdefault((method.upper(), path.startswith("/v2"), summary), []).append(path)
    lines = ["", "| endpoint | description |", "|---|---|"]
    for (method, _v2, summary), same in rows.items():
        lines.append(
            f"| {'<br>'.join(f'`{method} {path}`' for path in sorted(same, key=len))} | {summary} |"
        )
    return "\n".join([*lines, ""])


def parameters() -> str:
    """Write a table of the parameters of the routes that take images."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for path in IMAGE_ROUTES:
        for parameter in _described()["paths"][path]["post"]["parameters"]:
            name = parameter["name"] if parameter["in"] == "query" else f"{parameter['name']} (header)"
            key = (name, _values(parameter["schema"]), parameter["description"])
            rows.setdefault(key, []).append(f"`{path}`")
    lines = ["", "| parameter | endpoints | values | meaning |", "|---|---|---|---|"]
    for (name, values, meaning), of_paths in rows.items():
        on = "all three" if len(of_paths) == len(IMAGE_ROUTES) else ", ".join(of_paths)
        lines.append(f"| `{name}` | {on} | {values} | {meaning} |")
    return "\n".join([*lines, ""])


def problems() -> str:
    """Write a table of every status and code with its causes."""
    causes: dict[tuple[int, str], list[str]] = {}
    for kind, status_and_code in STATUSES.items():
        causes.setdefault(status_and_code, []).append(WHEN[kind])
    for status, code, when in BEYOND:
        causes.setdefault((status, code), []).append(when)
    lines = ["", "| status | `code` | when |", "|---|---|---|"]
    lines += [
        f"| {status} | `{code}` | {' '.join(causes[status, code])} |" for status, code in sorted(causes)
    ]
    return "\n".join([*lines, ""])


def metrics() -> str:
    """Write a table of every metric of the service, as Prometheus shows it."""
    lines = ["", "| metric | type | labels | meaning |", "|---|---|---|---|"]
    for collector in _collectors(Metrics()):
        (family,) = collector.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)
        lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join([*lines, ""])


def _described() -> dict[str, Any]:
    """Return the OpenAPI description; no model is needed for it."""
    settings, measured = Settings(), Metrics()
    return create_app(
        settings, Repository(settings, [], _no_model, measured), measured, threads=1
    ).openapi()


def _no_model(_path: object) -> Any:
    raise AssertionError("the OpenAPI description loads no model")


def _values(schema: dict[str, Any]) -> str:
    """Write the type of a parameter, its bounds and its default."""
    kind = next((s for s in schema.get("anyOf", []) if s["type"] != "null"), schema)
    text = ", ".join(f"`{value}`" for value in kind["enum"]) if "enum" in kind else str(kind["type"])
    if "maximum" in kind:
        text += f", {kind['minimum']} to {kind['maximum']}"
    elif "minimum" in kind:
        text += f", at least {kind['minimum']}"
    default = schema.get("default")
    return text if default is None else f"{text}; default `{str(default).lower()}`"


def _collectors(measured: Metrics) -> Iterator[MetricWrapperBase]:
    """Yield the metrics that the service defines, in the order of their definition."""
    for collector in measured._registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            yield collector
