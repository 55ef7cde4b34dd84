"""From the bytes of an image file to crops, in threads or in sandboxed processes."""
