"""Receive, decompress and parse request bodies, within limits."""
