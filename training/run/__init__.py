"""Manage a run: its checkpoints, log, lock, progress, signals, and held-out photographs."""
