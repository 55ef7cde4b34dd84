"""Pictures whose decoding waits until a test allows it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from contract import picture


@contextmanager
def slow_decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Block pictures that contain the bytes `gate`, in this process, until the event is set."""
    gate, real = threading.Event(), picture.sniff

    def waiting(data: bytes) -> str | None:
        if b"gate" in data:
            gate.wait()
        return real(data)

    monkeypatch.setattr(picture, "sniff", waiting)
    try:
        yield gate
    finally:
        gate.set()
