"""python -m service: loads the models, warms them up, and serves. Settings come from the environment. With
arguments it is a command, service/cli.py.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 if no model or the port cannot be used, the network hangs or the
GPU fails, 2 for a bad setting.
"""

import sys
import time

from service import cli, logs
from service.memory import give_large_memory_back
from service.serve import exit_code, serve
from service.server import address_of, bound
from service.settings import Settings
from service.workers import supervise


def main() -> int:
    if sys.argv[1:]:
        give_large_memory_back()
        return cli.main(sys.argv[1:])
    started = time.monotonic()
    settings = Settings.from_environ()
    logs.configure(settings.log_format)
    try:
        listener = bound(settings.host, settings.port)
    except OSError as error:
        reason = error.strerror or error
        print(f"error: cannot listen on {settings.host}:{settings.port}: {reason}", file=sys.stderr)
        return 1
    address = address_of(listener)

    def ready(names: str, provider: str) -> None:
        line = f"{names} on {address} ({provider}), ready in {time.monotonic() - started:.1f} s"
        if settings.log_format == "json":
            logs.log.info(line)
        else:
            print(f"{line}\ntry: curl -F file=@photo.jpg {address}/predict", flush=True)

    if settings.workers > 1:
        return supervise(settings, listener, ready)
    return serve(settings, listener, ready)


if __name__ == "__main__":
    sys.exit(exit_code(main))
