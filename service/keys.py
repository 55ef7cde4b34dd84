"""API keys, stored as their SHA-256 and compared in constant time."""

import hashlib
import hmac
import re
from pathlib import Path

from service.settings import SettingsError


def read_digests(path: Path) -> tuple[str, ...]:
    """One SHA-256 in hexadecimal per line; blank lines and those with # are left out. SettingsError."""
    try:
        lines = [line.strip().lower() for line in path.read_text("utf-8").splitlines()]
    except OSError as error:
        raise SettingsError(f"API_KEYS_FILE cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError("API_KEYS_FILE is not text") from None
    digests = tuple(line for line in lines if line and not line.startswith("#"))
    for number, digest in enumerate(digests, 1):
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise SettingsError(f"API_KEYS_FILE: key {number} is no SHA-256 in hexadecimal")
    if not digests:
        raise SettingsError("API_KEYS_FILE has no key in it; unset it to serve without keys")
    return digests


def is_known(authorization: bytes, digests: tuple[str, ...]) -> bool:
    """Whether the value of an Authorization header is `Bearer KEY` with one of the keys."""
    scheme, _, key = authorization.partition(b" ")
    found = hashlib.sha256(key).hexdigest()
    # All are compared, so that the time taken says nothing about which one came close.
    known = [hmac.compare_digest(found, digest) for digest in digests]
    return scheme.lower() == b"bearer" and any(known)
