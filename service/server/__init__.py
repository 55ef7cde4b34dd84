"""Serving process: listening socket, signals, worker processes, uvicorn's HTTP/1.1 with limits."""
