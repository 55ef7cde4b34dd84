"""Benchmarks: the speed of the service, compared with the limit of its machine."""
