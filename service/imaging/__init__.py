"""Decode image files to crops, in threads or in sandboxed processes."""
