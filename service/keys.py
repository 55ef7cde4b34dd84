"""API keys, stored as their SHA-256 and compared in constant time."""

import hashlib
import hmac
import re
from pathlib import Path

from service.errors import Forbidden
from service.logs import log
from service.settings import Settings, SettingsError


class Keys:
    """The keys of API_KEYS_FILE and of ADMIN_KEYS_FILE; `read` takes them from there again. An admin's key
    opens everything.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError."""
        self._files = {"API_KEYS_FILE": settings.api_keys_file, "ADMIN_KEYS_FILE": settings.admin_keys_file}
        self._digests: dict[str, tuple[str, ...]] = {}
        self.read()

    def read(self) -> None:
        """Raises SettingsError, and then nothing has changed."""
        self._digests = {
            name: read_digests(name, path) if path else () for name, path in self._files.items()
        }

    def read_again(self) -> None:
        try:
            self.read()
        except SettingsError as error:
            log.error("the keys stay as they were: %s", error)

    @property
    def wanted(self) -> bool:
        return bool(self._digests["API_KEYS_FILE"])

    def known(self, authorization: bytes) -> str:
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
    """One SHA-256 in hexadecimal per line; blank lines and those with # are left out. Raises SettingsError,
    which calls the file `name`.
    """
    try:
        lines = [line.strip().lower() for line in path.read_text("utf-8").splitlines()]
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name} is not text") from None
    digests = tuple(line for line in lines if line and not line.startswith("#"))
    for number, digest in enumerate(digests, 1):
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise SettingsError(f"{name}: key {number} is no SHA-256 in hexadecimal")
    if not digests:
        raise SettingsError(f"{name} has no key in it; unset it to serve without")
    return digests


def _is_among(found: str, digests: tuple[str, ...]) -> bool:
    # All are compared, so that the time taken says nothing about which one came close.
    return sum(hmac.compare_digest(found, digest) for digest in digests) > 0
