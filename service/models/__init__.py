"""Finds, checks and loads model files, and serves them by name and version."""
