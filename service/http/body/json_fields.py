"""JSON that strangers send, and its fields."""

import binascii
import json
import reprlib
from codecs import BOM_UTF8
from typing import Any, Final

from service.errors import InvalidRequest

# Each costs about 60 ns on the one interpreter, and up to 64 bytes. 6 images of pixels fit, as JSON.
MAX_JSON_VALUES: Final = 1_000_000
# A string or an object costs up to 300 bytes, however short it is.
MAX_JSON_STRINGS: Final = 250_000


def read_json(text: bytes) -> dict[str, Any]:
    """A JSON object, of an amount that is quick to read. Raises InvalidRequest."""
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise InvalidRequest(
            f"the JSON has more than {MAX_JSON_VALUES} values; send tensors as binary data, or fewer images"
        )
    # Each string has two quotes, and each object that is not empty has a string.
    if text.count(b'"') > 2 * MAX_JSON_STRINGS or text.count(b"{") > MAX_JSON_STRINGS:
        raise InvalidRequest(f"the JSON has more than {MAX_JSON_STRINGS} strings or objects; send fewer")
    try:
        found = json.loads(
            text.removeprefix(BOM_UTF8).decode(),
            parse_constant=_refuse_constant,
            object_pairs_hook=_without_doubles,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body does not begin with JSON that can be read: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRequest(f"the JSON is {abbreviate(found)}; it must be an object")
    return found


def list_of_objects(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = record.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InvalidRequest(f"{key} is {abbreviate(found)}; it must be a list of objects")
    return found


def parameters_of(record: dict[str, Any], where: str) -> dict[str, Any]:
    found = record.get("parameters")
    if found is not None and not isinstance(found, dict):
        raise InvalidRequest(f"{where} has parameters {abbreviate(found)}; they must be an object")
    return found or {}


def flag(record: dict[str, Any], key: str, where: str, default: bool) -> bool:
    found = record.get(key, default)
    if not isinstance(found, bool):
        raise InvalidRequest(f"{where}.{key} is {abbreviate(found)}; it must be true or false")
    return found


def from_base64(text: str) -> bytes:
    """Of RFC 4648's alphabet, or of its own for URLs; with blanks and line ends in it or without, padded or
    not; or in a URL `data:...;base64,...`. Raises ValueError, which says why.
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # what most send takes no longer for the others
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
    """Show a value in an error message, cut to one line."""
    return "an object" if isinstance(value, dict) else _repr.repr(value)


_repr: Final = reprlib.Repr()
_repr.maxlevel = 2


def _refuse_constant(name: str) -> float:
    raise InvalidRequest(f"the JSON has {name}; its numbers must be finite")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidRequest(f"the JSON has {abbreviate(key)} twice in one object; say it once")
        found[key] = value
    return found
