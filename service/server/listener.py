"""Bind and listen on HOST and PORT; errors name the setting at fault and the remedy."""

import errno
import ipaddress
import socket
from contextlib import ExitStack, suppress
from typing import Final

# These errors are due to HOST, not to PORT.
BAD_ADDRESS: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL}


class ListenError(Exception):
    """The service cannot listen on its address; the message names the setting and the remedy."""


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind a TCP socket to `host` and `port`. Raises ListenError.

    Connections are refused until `listen` is called. Of a name with several addresses an IPv4 address is
    preferred. `::` accepts IPv4 too.
    """
    try:
        candidates = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: not a name that DNS allows
        reason = getattr(error, "strerror", None) or "this is not a host name"
        raise ListenError(f"HOST is {host!r}: {reason}; unset it or use 127.0.0.1") from None
    family, *_, address = min(candidates, key=lambda candidate: candidate[0] != socket.AF_INET)
    with ExitStack() as undo:
        try:
            listener = undo.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with suppress(OSError):  # OpenBSD allows one family per socket
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_unspecified(host))
            listener.bind(address)
        except OSError as error:
            raise _explained(error, host, port) from None
        undo.pop_all()
    return listener


def listen(listener: socket.socket, backlog: int) -> None:
    """Accept connections from now on.

    Raises ListenError if another process that had bound the same address listens already.
    """
    # All workers share this open file and its flags. socket.dup() makes the file blocking unless the socket
    # is non-blocking, and a worker that blocks in accept() answers no requests.
    listener.setblocking(False)
    try:
        listener.listen(backlog)
    except OSError as error:
        raise _explained(error, *listener.getsockname()[:2]) from None


def address_of(listener: socket.socket) -> str:
    """Return the URL of the service: the loopback's if it listens on all addresses."""
    host, port = listener.getsockname()[:2]
    if is_unspecified(host):
        ipv6_only = listener.family == socket.AF_INET6 and listener.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )
        host = "::1" if ipv6_only else "127.0.0.1"
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
        missing = ", or no IPv6" if ":" in host else ""
        advice = f"this machine has no such address{missing}; use 127.0.0.1, or 0.0.0.0 for all of IPv4"
        return ListenError(f"HOST is {host!r}: {reason}: {advice}")
    advice = {
        errno.EADDRINUSE: "; end the program that uses it, or set PORT to another, 0 for any free port",
        errno.EACCES: "; set PORT to 1024 or more, or give the process CAP_NET_BIND_SERVICE",
    }.get(error.errno or 0, "")
    where = f"[{host}]" if ":" in host else host
    return ListenError(f"cannot listen on {where}:{port}: {reason}{advice}")
