"""Other servers with the service's own file: `python -m benchmarks.peers` runs them all."""
