"""One ONNX file from a checkpoint: the graph, its proof of parity, quantisation, verification."""
