"""One module for each image format: what Pillow lacks, garbles, or leaves without bounds."""
