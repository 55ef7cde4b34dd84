"""A client that means well beside those who do not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.serving.images import encoded, noise
from tests.support.serving.raw_http import exchange, request, resident
from tests.support.serving.server import Server, metrics, serving

IMAGE: Final = encoded(noise(3))
MAX_MEMORY: Final = 200_000_000  # bytes beyond what it took before
SECOND = dict.fromkeys(("header_timeout_s", "keep_alive_timeout_s", "body_timeout_s", "write_timeout_s"), 1)
LIMITS = SECOND | {"max_body_bytes": 2_000_000, "max_header_bytes": 20_000}


class Witness:
    """A client that means well, with a new connection each time, so that it meets every limit too."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self.wrong: list[object] = []
        self.asked = 0
        self.right = self._label()
        self.thread = threading.Thread(target=self._ask)

    def _label(self) -> object:
        (found,) = exchange(self._server, request("POST", "/predict", IMAGE))
        assert found.status_code == 200, found.text
        best = found.json()["predictions"][0]
        return best["label"], round(best["probability"], 3)

    def _ask(self) -> None:
        while not self._ended.wait(0.2):
            try:
                (alive,) = exchange(self._server, request("GET", "/health/live"))
                assert alive.status_code == 200
                found = self._label()
                if found != self.right:
                    self.wrong.append(found)
            except Exception as error:
                self.wrong.append(error)
            self.asked += 1

    def end(self) -> None:
        self._ended.set()
        self.thread.join()


@contextmanager
def witnessed(log: Path, model: Path, **settings: object) -> Iterator[Server]:
    """A server that somebody asks all the time. In the end every answer was right, none was 5xx, nothing
    broke, nobody is inside, and the memory is about what it was.
    """
    with serving(log, model, **settings) as running:
        witness = Witness(running)
        before = resident(running)
        witness.thread.start()
        try:
            yield running
        finally:
            witness.end()
        assert witness.wrong == []
        assert witness.asked > 0
        assert resident(running) - before < MAX_MEMORY
        assert "Traceback" not in running.log, running.log[-6000:]
        assert not [key for key in metrics(running) if ",status=5" in key]
        assert metrics(running)["alexnet_in_flight_images"] == 0
