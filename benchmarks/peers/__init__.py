"""Serve the same model file with other servers; `python -m benchmarks.peers` compares them."""
