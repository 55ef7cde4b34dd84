"""Remove environment variables that packages read on import and that are meant for other programs.

They are often set for a whole machine or cluster, and may make this program fail.
"""

import os
from typing import Final

OTLP_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
REMOVED: Final = (
    # prometheus_client would add the metrics in that folder to this process's; WORKERS use their own
    # folder.
    "PROMETHEUS_MULTIPROC_DIR",
    "prometheus_multiproc_dir",
    # Packages for spans, metrics, logs and context; service/observability/traces.py selects its own.
    *(
        f"OTEL_PYTHON_{component}"
        for component in ("TRACER_PROVIDER", "METER_PROVIDER", "LOGGER_PROVIDER", "CONTEXT")
    ),
)


def remove(serving: bool) -> None:
    """Remove the variables that this process does not use; OTEL_PROPAGATORS too without tracing."""
    traced = serving and any(os.environ.get(name) for name in OTLP_ENDPOINTS)
    for name in REMOVED if traced else (*REMOVED, "OTEL_PROPAGATORS"):
        os.environ.pop(name, None)
