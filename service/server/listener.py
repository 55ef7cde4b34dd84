"""The socket that HOST and PORT ask for, and sentences that name the one that cannot be used."""

import errno
import ipaddress
import socket
from contextlib import ExitStack, suppress
from typing import Final

BAD_ADDRESS: Final = {
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EINVAL,
}  # that is HOST's fault, not PORT's
MAPPED: Final = "::ffff:"  # what an IPv4 address begins with where a socket of IPv6 takes both


class ListenError(Exception):
    """An address that cannot be listened on; the message names the variable and what to do."""


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind `host`, where connections are refused until `listen` is called. Raises ListenError.

    A name that has several addresses stands for an IPv4 one. `::` takes IPv4 too.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: nothing that a name server could be asked
        reason = getattr(error, "strerror", None) or "this is no host name"
        raise ListenError(f"HOST is {host!r}: {reason}; unset it or use 127.0.0.1") from None
    family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    with ExitStack() as undo:
        try:
            listener = undo.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with suppress(OSError):  # OpenBSD has one family for each socket
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_unspecified(host))
            listener.bind(address)
        except OSError as error:
            raise _explained(error, host, port) from None
        undo.pop_all()
    return listener


def listen(listener: socket.socket, backlog: int) -> None:
    """Take connections from now on. Raises ListenError where another process, which had the same address
    bound, was first.
    """
    # It is one open file for all workers, and what each makes of it is made for all: socket.dup sets the
    # copy to block unless this one does not, and a worker that blocks in accept() serves nobody.
    listener.setblocking(False)
    try:
        listener.listen(backlog)
    except OSError as error:
        raise _explained(error, *listener.getsockname()[:2]) from None


def address_of(listener: socket.socket) -> str:
    """Return the URL to paste; one that listens everywhere is reached on the loopback."""
    host, port = listener.getsockname()[:2]
    if is_unspecified(host):
        only_6 = listener.family == socket.AF_INET6 and listener.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )
        host = "::1" if only_6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_unspecified(host: str) -> bool:
    """Return whether `host` is 0.0.0.0 or ::, however it is written."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _explained(error: OSError, host: str, port: int) -> ListenError:
    reason = error.strerror or str(error)
    if error.errno in BAD_ADDRESS:
        missing = ", or has no IPv6" if ":" in host else ""
        advice = f"this machine has no such address{missing}; use 127.0.0.1, or 0.0.0.0 for all of IPv4"
        return ListenError(f"HOST is {host!r}: {reason}: {advice}")
    advice = {
        errno.EADDRINUSE: "; end the program that does, or set PORT to another, 0 for any that is free",
        errno.EACCES: "; set PORT to 1024 or more, or give the process CAP_NET_BIND_SERVICE",
    }.get(error.errno or 0, "")
    where = f"[{host}]" if ":" in host else host
    return ListenError(f"cannot listen on {where}:{port}: {reason}{advice}")
