"""One module per image format: what Pillow does not read, reads wrongly, or reads without limits."""
