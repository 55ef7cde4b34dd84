"""Run a server with a well-behaved client, to check that attacks on it do not affect others."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.eventually import eventually
from tests.support.serving.images import encoded, noise
from tests.support.serving.raw_http import exchange, request, resident
from tests.support.serving.server import Server, metrics, serving

IMAGE: Final = encoded(noise(3))
MAX_MEMORY: Final = 200_000_000  # bytes of growth that are allowed
ONE_SECOND_LIMITS = dict.fromkeys(
    ("header_timeout_s", "keep_alive_timeout_s", "body_timeout_s", "write_timeout_s"), 1
)
LIMITS = ONE_SECOND_LIMITS | {"max_body_bytes": 2_000_000, "max_header_bytes": 20_000}


class HonestClient:
    """Sends valid requests, each on a new connection, so that every limit applies to it too."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self.failures: list[object] = []
        self.requests = 0
        self.expected = self._label()
        self.thread = threading.Thread(target=self._send_requests)

    def _label(self) -> object:
        (response,) = exchange(self._server, request("POST", "/predict", IMAGE))
        assert response.status_code == 200, response.text
        best = response.json()["predictions"][0]
        return best["label"], round(best["probability"], 3)

    def _send_requests(self) -> None:
        while not self._ended.wait(0.2):
            try:
                (live,) = exchange(self._server, request("GET", "/health/live"))
                assert live.status_code == 200
                label = self._label()
                if label != self.expected:
                    self.failures.append(label)
            except Exception as error:
                self.failures.append(error)
            self.requests += 1

    def end(self) -> None:
        """Stop after the current request, and at least one."""
        eventually(lambda: self.requests)
        self._ended.set()
        self.thread.join()


@contextmanager
def serving_with_client(log: Path, model: Path, **settings: object) -> Iterator[Server]:
    """Run a server that an honest client calls all the time.

    At the end, every response to it was correct, no response was 5xx, nothing was logged as a crash, no
    image is in flight, and memory has not grown much.
    """
    with serving(log, model, **settings) as running:
        client = HonestClient(running)
        before = resident(running)
        client.thread.start()
        try:
            yield running
        finally:
            client.end()
        assert client.failures == []
        assert resident(running) - before < MAX_MEMORY
        assert "Traceback" not in running.log, running.log[-6000:]
        assert not [key for key in metrics(running) if ",status=5" in key]
        assert metrics(running)["alexnet_in_flight_images"] == 0
