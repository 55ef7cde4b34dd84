"""Test the use of ONNX Runtime's CUDA provider, on stand-ins for CUDA's libraries."""
