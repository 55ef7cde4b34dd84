"""Check API keys and admin keys, stored as SHA-256 digests, in constant time."""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

from service.errors import Forbidden
from service.files import read_file
from service.observability.logs import log
from service.settings import Settings, SettingsError

MAX_BYTES: Final = 1_000_000  # of a key file: 15,000 keys
# Digests that a script writes if its variable for the key is unset.
BLANK: Final = frozenset(hashlib.sha256(text).hexdigest() for text in (b"", b"\n", b"\r\n", b" ", b" \n"))


class Keys:
    """Hold the keys of API_KEYS_FILE and of ADMIN_KEYS_FILE. An admin key is valid on every route."""

    def __init__(self, settings: Settings) -> None:
        """Read both files. Raises SettingsError for one that is unusable or has no keys."""
        self._files = {"API_KEYS_FILE": settings.api_keys_file, "ADMIN_KEYS_FILE": settings.admin_keys_file}
        self._digests: dict[str, tuple[str, ...]] = dict.fromkeys(self._files, ())
        for name, path in self._files.items():
            if path is not None:
                self._digests[name] = digests = read_digests(name, path)
                if not digests:
                    raise SettingsError(
                        f"{name} has no key in it; add one, or unset {name} to serve without keys"
                    )

    def reload(self) -> None:
        """Read the files again. A damaged file changes nothing; one without keys revokes all its keys."""
        for name, path in self._files.items():
            if path is None:
                continue
            try:
                self._digests[name] = digests = read_digests(name, path)
            except SettingsError as error:
                log.error("the keys are not changed: %s", error)
                continue
            if not digests:
                log.error("%s no longer has a key in it: all of its keys are revoked", name)

    @property
    def required(self) -> bool:
        """Return whether requests need an API key."""
        return self._files["API_KEYS_FILE"] is not None

    def digest_of(self, authorization: bytes) -> str:
        """Return the SHA-256 of the key in an Authorization header `Bearer KEY`, "" for an unknown key."""
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return ""
        digest = hashlib.sha256(key).hexdigest()
        return digest if _is_among(digest, self._digests["API_KEYS_FILE"] + self._admins) else ""

    def require_admin(self, digest: str) -> None:
        """Raise Forbidden unless `digest`, from `digest_of`, is an admin key's."""
        if not self._admins:
            raise Forbidden("loading and unloading models needs an admin's key; set ADMIN_KEYS_FILE")
        if not _is_among(digest, self._admins):
            raise Forbidden("this needs an admin's key as the header `Authorization: Bearer KEY`")

    @property
    def _admins(self) -> tuple[str, ...]:
        return self._digests["ADMIN_KEYS_FILE"]


def read_digests(name: str, path: Path) -> tuple[str, ...]:
    """Read SHA-256 digests in hexadecimal, one per line; return () for a file without any.

    Blank lines and lines that begin with # are ignored. Raises SettingsError, which calls the file `name`
    and never quotes a line: it may be the key itself.
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
            raise SettingsError(f"{name}: key {number} is not a SHA-256 in hexadecimal")
        if digest in BLANK:
            raise SettingsError(f"{name}: key {number} is the SHA-256 of an empty key; use another key")
    return digests


def _is_among(digest: str, digests: tuple[str, ...]) -> bool:
    # All are compared, so that the time does not reveal which one is similar.
    return sum(hmac.compare_digest(digest, known) for known in digests) > 0
