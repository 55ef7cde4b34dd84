"""Open files: the connections that the process's limit has room for."""

import resource
from typing import Final

from service.observability.logs import log
from service.settings import Settings, SettingsError

# Beside connections: 45 that are always open, 32 of which listen; as many connections again as are accepted
# at once, and those whose place they take; a model's file, the log.
OTHER_FILES: Final = 128
FILES_OF_PROCESS: Final = 4  # pipes to and from a process that decodes, and the process itself
REMEDY: Final = "raise it: `ulimit -Hn`, systemd's LimitNOFILE=, `ulimits` of a container"


def raise_fd_limit(settings: Settings) -> Settings:
    """Raise the soft limit of open files, 1024 in many places, as far as MAX_CONNECTIONS needs it.

    -> the settings with as many connections, in each worker, as the hard limit has room for. Raises
    SettingsError where that is none: at the limit, connections would wait and nobody would be answered.
    """
    others = OTHER_FILES + FILES_OF_PROCESS * settings.decode_processes
    wanted = settings.max_connections + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == wanted:
        return settings
    if allowed <= others:
        raise SettingsError(
            f"MAX_CONNECTIONS is {settings.max_connections}: that takes {wanted} open files, and with the "
            f"{allowed} that are allowed there could not be one connection; {REMEDY}"
        )
    log.warning(
        "MAX_CONNECTIONS is %s, and %s are taken: %s open files are needed and %s allowed; %s",
        settings.max_connections,
        allowed - others,
        wanted,
        allowed,
        REMEDY,
    )
    return settings.model_copy(update={"max_connections": allowed - others})
