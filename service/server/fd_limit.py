"""Raise the limit of open files, and reduce MAX_CONNECTIONS to what the hard limit allows."""

import resource
from typing import Final

from service.observability.logs import log
from service.settings import Settings, SettingsError

# Besides connections: 45 that are always open, 32 of them listening; as many connections as are accepted in
# one turn of the event loop, and the idle ones that these replace; a model file, the log.
OTHER_FILES: Final = 128
FILES_PER_DECODER: Final = 4  # pipes to and from a decoding process, and the process itself
REMEDY: Final = "raise it: `ulimit -Hn`, systemd's LimitNOFILE=, a container's `ulimits`"


def raise_fd_limit(settings: Settings) -> Settings:
    """Raise the soft limit of open files, often 1024, as far as MAX_CONNECTIONS needs it.

    Returns the settings, with max_connections (of each worker) reduced to what the hard limit allows, which
    is logged as a warning. Raises SettingsError if it allows none: at the limit, connections would wait
    without an answer.
    """
    reserved = OTHER_FILES + FILES_PER_DECODER * settings.decode_processes
    required = settings.max_connections + reserved
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = required if hard == resource.RLIM_INFINITY else min(required, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == required:
        return settings
    if allowed <= reserved:
        raise SettingsError(
            f"MAX_CONNECTIONS is {settings.max_connections}: that needs {required} open files; the limit "
            f"of {allowed} has no room for a single connection; {REMEDY}"
        )
    log.warning(
        "MAX_CONNECTIONS is %s, reduced to %s: it needs %s open files, and the limit is %s; %s",
        settings.max_connections,
        allowed - reserved,
        required,
        allowed,
        REMEDY,
    )
    return settings.model_copy(update={"max_connections": allowed - reserved})
