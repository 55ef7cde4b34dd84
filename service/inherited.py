"""Environment variables that packages read as they are imported.

They are often set for other programs of the machine or the cluster, and may end this one.
"""

import os
from typing import Final

OTLP_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NOT_OURS: Final = (
    # prometheus_client would count the files there with this process's; WORKERS make a folder of their own.
    "PROMETHEUS_MULTIPROC_DIR",
    "prometheus_multiproc_dir",
    # Packages that provide spans, metrics, logs and context; service/observability/traces.py names its own.
    *(
        f"OTEL_PYTHON_{what}"
        for what in ("TRACER_PROVIDER", "METER_PROVIDER", "LOGGER_PROVIDER", "CONTEXT")
    ),
)


def remove(serving: bool) -> None:
    """Remove what this process has no use for, OTEL_PROPAGATORS too where nothing is traced."""
    traced = serving and any(os.environ.get(name) for name in OTLP_ENDPOINTS)
    for name in NOT_OURS if traced else (*NOT_OURS, "OTEL_PROPAGATORS"):
        os.environ.pop(name, None)
