"""Pictures that are not decoded before a test says so."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from contract import picture


@contextmanager
def slow_decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """In this process a picture with the word `gate` in it is not decoded before the event is set."""
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
