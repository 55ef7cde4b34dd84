"""Measure model files on a GPU; `python -m benchmarks.gpu` compares them with the GPU's limits."""
