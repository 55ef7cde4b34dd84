"""What waits for others of its kind, so that something is done with all of them at once; for threads."""

import time
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
Item = TypeVar("Item")


class Together(Generic[Kind, Item]):
    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[Kind, list[Item]] = {}
        self._since: dict[Kind, float] = {}  # the first of a kind was added; the oldest kind comes first

    @property
    def waiting(self) -> int:
        with self._lock:
            return sum(map(len, self._kept.values()))

    def add(self, kind: Kind, item: Item, enough: int) -> list[Item]:
        """-> all of this kind where they are `enough` by now, else none."""
        with self._lock:
            kept = self._kept.setdefault(kind, [])
            self._since.setdefault(kind, time.perf_counter())
            kept.append(item)
            return self._pop(kind) if len(kept) >= enough else []

    def take(self, waited: float = 0.0) -> list[Item]:
        """-> all of the kind whose first has waited longest, if it has for so many s; else none."""
        with self._lock:
            for kind, since in self._since.items():
                if time.perf_counter() - since >= waited:
                    return self._pop(kind)
                break
            return []

    def _pop(self, kind: Kind) -> list[Item]:
        del self._since[kind]
        return self._kept.pop(kind)
