"""Folders of images in, one proven ONNX file out."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in service/__init__.py
