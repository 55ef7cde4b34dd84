"""Train AlexNet on folders of images, and export it as one ONNX file, verified against PyTorch."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in service/__init__.py
