"""Read typed fields of the manifest's JSON."""

from typing import Any, Final, TypeVar

MAX_INTEGER: Final = 2**53 - 1  # JSON readers that hold numbers as doubles round larger ones
T = TypeVar("T")


class ManifestError(ValueError):
    """The manifest is missing or has an invalid value; the message names the field."""


def get(record: Any, key: str, kind: type[T]) -> T:
    """Return the value of `key`, which must be a `kind`. Raises ManifestError."""
    value = record.get(key) if isinstance(record, dict) else None
    if kind is float and type(value) is int and abs(value) <= MAX_INTEGER:  # JSON has one kind of number
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ManifestError(f"{key} must be of type {kind.__name__}, not {ascii(value)[:100]}")
    return value


def list_of(record: Any, key: str, kind: type[T]) -> list[T]:
    """Return the list at `key`, whose items must be of `kind`. Raises ManifestError."""
    return [get({key: value}, key, kind) for value in get(record, key, list)]
