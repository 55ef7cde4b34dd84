"""A run on disk and while it trains: checkpoints, logs, the lock, progress, signals."""
