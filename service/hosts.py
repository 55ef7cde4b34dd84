"""The names by which a server may be asked: a page from elsewhere whose name points here gets no answer."""

import ipaddress
import re
from functools import lru_cache
from typing import Final

from service.settings import Settings

ANY: Final = "*"
_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")  # with or without a port


class Hosts:
    """By ALLOWED_HOSTS, or else by what the server listens on. An address is always allowed: no name server
    can make it point elsewhere, and whoever probes by address needs no setting.
    """

    def __init__(self, settings: Settings) -> None:
        given = [name.strip().lower().rstrip(".") for name in settings.allowed_hosts.split(",")]
        self._names = {name for name in given if name}
        self._local = not self._names and is_loopback(settings.host)
        self._any = ANY in self._names or not (self._names or self._local)
        if self._local:
            self._names = {"localhost", settings.host.lower()}
        self._remembered = lru_cache(1000)(self._look_up)

    def allow(self, host: bytes) -> bool:
        """A header Host; empty if a request has none, as in HTTP/1.0."""
        return self._any or not host or self._remembered(host)

    def _look_up(self, host: bytes) -> bool:
        found = _HOST.fullmatch(host.decode("latin-1").lower())
        if found is None:
            return False
        name = found[1].rstrip(".")
        if name in self._names or is_address(name):
            return True
        # A name without a dot, such as that of a container, is known to the local network alone.
        return self._local and ("." not in name or name.endswith(".localhost"))


def is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    """IPv4, or IPv6 with or without its brackets."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
