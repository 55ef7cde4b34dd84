"""API keys, stored as their SHA-256 and compared in constant time."""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

from service.errors import Forbidden
from service.files import read_file
from service.observability.logs import log
from service.settings import Settings, SettingsError

MAX_BYTES: Final = 1_000_000  # of a file of keys, 15,000 of them
# What a script hashes when the variable that should hold the key is unset.
BLANK: Final = frozenset(hashlib.sha256(text).hexdigest() for text in (b"", b"\n", b"\r\n", b" ", b" \n"))


class Keys:
    """The keys of API_KEYS_FILE and of ADMIN_KEYS_FILE. An admin's key opens everything."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError."""
        self._files = {"API_KEYS_FILE": settings.api_keys_file, "ADMIN_KEYS_FILE": settings.admin_keys_file}
        self._digests: dict[str, tuple[str, ...]] = dict.fromkeys(self._files, ())
        for name, path in self._files.items():
            if path is not None:
                self._digests[name] = digests = read_digests(name, path)
                if not digests:
                    raise SettingsError(f"{name} has no key in it; unset it to serve without")

    def reload(self) -> None:
        """Replace each file's keys. A damaged file changes nothing; one without keys revokes them all."""
        for name, path in self._files.items():
            if path is None:
                continue
            try:
                self._digests[name] = digests = read_digests(name, path)
            except SettingsError as error:
                log.error("the keys stay as they were: %s", error)
                continue
            if not digests:
                log.error("%s has no key in it any more: all of its keys are revoked", name)

    @property
    def required(self) -> bool:
        return self._files["API_KEYS_FILE"] is not None

    def digest_of(self, authorization: bytes) -> str:
        """The SHA-256 of the key in an Authorization header `Bearer KEY`; "" if it is none of the keys."""
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return ""
        found = hashlib.sha256(key).hexdigest()
        return found if _is_among(found, self._digests["API_KEYS_FILE"] + self._admins) else ""

    def require_admin(self, digest: str) -> None:
        """`digest` is what `known` gave. Raises Forbidden."""
        if not self._admins:
            raise Forbidden("models are loaded and unloaded with an admin's key alone; set ADMIN_KEYS_FILE")
        if not _is_among(digest, self._admins):
            raise Forbidden("this needs an admin's key as the header `Authorization: Bearer KEY`")

    @property
    def _admins(self) -> tuple[str, ...]:
        return self._digests["ADMIN_KEYS_FILE"]


def read_digests(name: str, path: Path) -> tuple[str, ...]:
    """Read one SHA-256 in hexadecimal per line, without blank lines and those with #; () if there is none.

    Raises SettingsError, which calls the file `name` and never repeats a line: it may be a key itself.
    """
    try:
        text = read_file(path, MAX_BYTES).decode("utf-8-sig")  # some editors begin with a byte order mark
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name} is not text in UTF-8") from None
    lines = [line.strip().lower() for line in text.splitlines()]
    digests = tuple(line for line in lines if line and not line.startswith("#"))
    for number, digest in enumerate(digests, 1):
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise SettingsError(f"{name}: key {number} is no SHA-256 in hexadecimal")
        if digest in BLANK:
            raise SettingsError(
                f"{name}: key {number} is the SHA-256 of an empty key; make one that is not"
            )
    return digests


def _is_among(found: str, digests: tuple[str, ...]) -> bool:
    # All are compared, so that the time taken says nothing about which one came close.
    return sum(hmac.compare_digest(found, digest) for digest in digests) > 0
