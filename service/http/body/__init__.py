"""Request bodies: received, decompressed and parsed, within limits."""
