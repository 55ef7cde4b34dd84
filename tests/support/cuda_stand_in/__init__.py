"""Stand-ins for the libraries of CUDA, with which ONNX Runtime's CUDA provider runs without a GPU."""
