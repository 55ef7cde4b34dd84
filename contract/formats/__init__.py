"""Readers of each image format: what Pillow lacks, misreads or leaves unlimited."""
