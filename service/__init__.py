"""Photographs in, predictions out, over HTTP. Never imports torch or training."""
