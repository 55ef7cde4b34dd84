"""Read the calls that a stand-in for CUDA's runtime library has logged."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Call:
    """A call: its name, such as graphLaunch, the rest of its line, and the thread that made it."""

    name: str
    details: str
    thread: int


class Calls:
    """The calls since this was made, read anew each time, from the file that FAKE_LOG names."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._start = log.stat().st_size if log.exists() else 0

    def __iter__(self) -> Iterator[Call]:
        with self._log.open() as file:
            file.seek(self._start)
            for line in file.read().splitlines():
                _time, thread, name, *details = line.split(" ", 3)
                yield Call(name, "".join(details), int(thread))

    def counts(self) -> Counter[str]:
        return Counter(call.name for call in self)

    def named(self, name: str, details: str = "") -> list[Call]:
        return [call for call in self if call.name == name and details in call.details]


@contextmanager
def setting(name: str, value: object) -> Iterator[None]:
    """Set a FAKE_ variable, which the stand-in reads at each call."""
    os.environ[name] = str(value)
    try:
        yield
    finally:
        del os.environ[name]
