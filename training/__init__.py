"""Folders of images in, one proven ONNX file out."""
