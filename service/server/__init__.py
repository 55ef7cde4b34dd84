"""The serving process: sockets, signals, workers, and uvicorn's HTTP/1.1 protocol with limits."""
