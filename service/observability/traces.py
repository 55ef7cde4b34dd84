"""OpenTelemetry: each request a span with its stages below it, sent to a collector where there is one.

The variables are OpenTelemetry's own (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER,
...); without the first of them nothing is recorded and nothing is sent. Needs the extra `otel`.
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

FLUSH_S: Final = 2.0  # within server.LAST_S
NOT_TRACED: Final = "/health,/metrics,/static"
TRACED: Final = any(os.environ.get(name) for name in OTLP_ENDPOINTS)
_tracer: Final = trace.get_tracer("alexnet")


def add_span(name: str, began: float, ended: float) -> None:
    """A stage of the current request, by `time.perf_counter`."""
    if TRACED:  # else even a span that is not kept has its cost
        to_epoch = time.time_ns() - time.perf_counter_ns()
        start = to_epoch + round(began * 1e9)
        _tracer.start_span(name, start_time=start).end(to_epoch + round(ended * 1e9))


def tracing_middleware() -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Return the ASGI middleware that makes a span of each request, and its arguments; None if not traced.

    It continues a request's `traceparent`. Raises SettingsError where the extra `otel` is not installed or
    a variable cannot be used.
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

        # OTEL_SERVICE_NAME, else that of OTEL_RESOURCE_ATTRIBUTES; `create` would let one given here win.
        name = OTELResourceDetector().detect().attributes.get("service.name") or "alexnet"
        resource = Resource.create({"service.name": name})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # `flush` does it, in time
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ImportError:
        raise SettingsError(f"{OTLP_ENDPOINTS[0]} is set, but the extra `otel` is not installed") from None
    except ValueError as error:
        raise SettingsError(f"a variable of OpenTelemetry, OTEL_..., cannot be used: {error}") from None
    trace.set_tracer_provider(provider)
    options = {
        "tracer_provider": provider,
        "excluded_urls": NOT_TRACED,
        "exclude_spans": ["receive", "send"],
    }
    return OpenTelemetryMiddleware, options


def flush() -> None:
    """Send the spans that are queued, for FLUSH_S at most: a collector that hangs holds up no stop.

    The exporter itself waits 10 s for each batch, and tries again.
    """
    if not TRACED:
        return
    provider: Any = trace.get_tracer_provider()
    sending = threading.Thread(target=provider.shutdown, daemon=True)
    sending.start()
    sending.join(FLUSH_S)
    if sending.is_alive():
        log.warning("the collector did not take every span within %g s; the rest is lost", FLUSH_S)
