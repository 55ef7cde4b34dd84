"""Parse JSON from untrusted clients, within limits, and read its fields."""

import binascii
import json
import reprlib
from codecs import BOM_UTF8
from typing import Any, Final

from service.errors import InvalidRequest

# Each costs about 60 ns, during which no other thread runs, and up to 64 bytes. 6 images of pixels fit.
MAX_JSON_VALUES: Final = 1_000_000
# A string or an object costs up to 300 bytes, however short it is.
MAX_JSON_STRINGS: Final = 250_000


def read_json(text: bytes) -> dict[str, Any]:
    """Parse a JSON object of bounded size. Raises InvalidRequest."""
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise InvalidRequest(
            f"the JSON has more than {MAX_JSON_VALUES} values; send tensors as binary data, or fewer images"
        )
    # Counted before parsing: each string has two quotes, and each non-empty object has a string.
    if text.count(b'"') > 2 * MAX_JSON_STRINGS or text.count(b"{") > MAX_JSON_STRINGS:
        raise InvalidRequest(f"the JSON has more than {MAX_JSON_STRINGS} strings or objects; send fewer")
    try:
        record = json.loads(
            text.removeprefix(BOM_UTF8).decode(),
            parse_constant=_refuse_constant,
            object_pairs_hook=_without_duplicates,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON is invalid: {error}") from None
    if not isinstance(record, dict):
        raise InvalidRequest(f"the JSON is {abbreviate(record)}; it must be an object")
    return record


def list_of_objects(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the field `key`. Raises InvalidRequest unless it is a list of objects."""
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InvalidRequest(f"{key} is {abbreviate(value)}; it must be a list of objects")
    return value


def parameters_of(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the field `parameters`, or {} without one.

    Raises InvalidRequest, which calls the record `where`, unless it is an object.
    """
    value = record.get("parameters")
    if value is not None and not isinstance(value, dict):
        raise InvalidRequest(f"{where} has parameters {abbreviate(value)}; they must be an object")
    return value or {}


def flag(record: dict[str, Any], key: str, where: str, default: bool) -> bool:
    """Return the boolean field `key`, or `default` without one.

    Raises InvalidRequest, which calls the record `where`, for any other value.
    """
    value = record.get(key, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where}.{key} is {abbreviate(value)}; it must be true or false")
    return value


def from_base64(text: str) -> bytes:
    """Decode base64 in RFC 4648's alphabet or its variant for URLs, or in a URL `data:...;base64,...`.

    Blanks, line ends and missing padding are accepted. Raises ValueError with the reason.
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # the usual form, decoded without a copy
    except ValueError:
        return binascii.a2b_base64(_plain_base64(text), strict_mode=True)


_QUOTED: Final = (
    (b"%2B", b"+"),
    (b"%2F", b"/"),
    (b"%3D", b"="),
    (b"%0D", b""),
    (b"%0A", b""),
    (b"%20", b""),
)
_BLANKS: Final = b" \t\r\n"
_FOR_URLS: Final = bytes.maketrans(b"-_", b"+/")


def _plain_base64(text: str) -> bytes:
    plain = text.encode("ascii", "replace").translate(None, _BLANKS)
    if plain[:5].lower() == b"data:":
        head, comma, plain = plain.partition(b",")
        if not comma or not head.lower().endswith(b";base64"):
            raise ValueError("a URL `data:` must have `;base64,` before its data")
        for code, sign in _QUOTED:
            plain = plain.replace(code, sign).replace(code.lower(), sign)
    plain = plain.translate(_FOR_URLS, _BLANKS)
    return plain if plain.endswith(b"=") else plain + b"=" * (-len(plain) % 4)


def abbreviate(value: Any) -> str:
    """Return a short representation of a value, for one line of a message."""
    return "an object" if isinstance(value, dict) else _repr.repr(value)


_repr: Final = reprlib.Repr()
_repr.maxlevel = 2


def _refuse_constant(name: str) -> float:
    raise InvalidRequest(f"the JSON has {name}; its numbers must be finite")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise InvalidRequest(f"the JSON has {abbreviate(key)} twice in one object; send it once")
        record[key] = value
    return record
