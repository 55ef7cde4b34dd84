"""Serve models over HTTP: photographs in, predictions out. Never imports torch or training."""

import os

# From 1.29 on, ONNX Runtime wheels report to Microsoft and keep a device id in the home directory (its pull
# request 27379). This switches that off. The variable is read when onnxruntime is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
