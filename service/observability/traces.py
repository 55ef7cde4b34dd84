"""OpenTelemetry tracing: a span per request with its stages as children, sent to a collector.

Configured by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME,
OTEL_TRACES_SAMPLER, ...). Without the first of them nothing is recorded. Needs the extra `otel`.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import trace

from service.inherited import OTLP_ENDPOINTS
from service.observability.logs import log
from service.settings import SettingsError

FLUSH_S: Final = 2.0  # within server.uvicorn_server.FORCED_EXIT_S
NOT_TRACED: Final = "/health,/metrics,/static"
TRACED: Final = any(os.environ.get(name) for name in OTLP_ENDPOINTS)
_tracer: Final = trace.get_tracer("alexnet")


def add_span(name: str, began: float, ended: float) -> None:
    """Record a stage of the current request; times are those of `time.perf_counter`."""
    if TRACED:  # even a span that is not recorded costs time
        to_epoch = time.time_ns() - time.perf_counter_ns()
        start = to_epoch + round(began * 1e9)
        _tracer.start_span(name, start_time=start).end(to_epoch + round(ended * 1e9))


def tracing_middleware() -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Return the ASGI middleware that records a span per request, and its arguments; None without tracing.

    It continues the trace of the header `traceparent`. Raises SettingsError if the extra `otel` is not
    installed or a variable is invalid.
    """
    if not TRACED:
        return None
    for variable in OTLP_ENDPOINTS:
        url = os.environ.get(variable)
        if url and not url.lower().startswith(("http://", "https://")):
            raise SettingsError(f"{variable} is {url!r}; it must be a URL such as http://127.0.0.1:4318")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # OTEL_SERVICE_NAME, else service.name of OTEL_RESOURCE_ATTRIBUTES. Looked up first, because a name
        # passed to `create` would override both.
        name = OTELResourceDetector().detect().attributes.get("service.name") or "alexnet"
        resource = Resource.create({"service.name": name})
        provider = TracerProvider(
            resource=resource, shutdown_on_exit=False
        )  # `flush` shuts it down within a time limit
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ImportError:
        raise SettingsError(f"{OTLP_ENDPOINTS[0]} is set, but the extra `otel` is not installed") from None
    except ValueError as error:
        raise SettingsError(f"an OpenTelemetry variable (OTEL_...) is invalid: {error}") from None
    trace.set_tracer_provider(provider)
    options = {
        "tracer_provider": provider,
        "excluded_urls": NOT_TRACED,
        "exclude_spans": ["receive", "send"],
    }
    return OpenTelemetryMiddleware, options


def flush() -> None:
    """Send the queued spans, for at most FLUSH_S, so that a hanging collector does not delay the stop.

    The exporter itself would wait 10 s per batch, and retry.
    """
    if not TRACED:
        return
    provider: Any = trace.get_tracer_provider()
    sending = threading.Thread(target=provider.shutdown, daemon=True)
    sending.start()
    sending.join(FLUSH_S)
    if sending.is_alive():
        log.warning("the trace collector did not accept all spans within %g s; the rest is lost", FLUSH_S)
