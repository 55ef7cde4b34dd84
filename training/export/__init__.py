"""Export a checkpoint as one ONNX file: the graph, quantisation, parity checks, verification."""
