"""Model files: found, checked, loaded into ONNX Runtime, and served by name and version."""
