"""python -m service: loads the models, warms them up, and serves. Settings come from the environment. With
arguments it is a command, service/cli.py.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 if no model or the port cannot be used, the network hangs or the
GPU fails, 2 for a bad setting.
"""

import os
import signal
import sys
import time

from service import stdio


def main() -> int:
    if not sys.argv[1:]:
        # The imports below take a second, and reading the models more: nothing is under way until then.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: os._exit(0))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stdio.open_missing()
    from service.serve import exit_code

    return exit_code(command if sys.argv[1:] else start)


def command() -> int:
    from service import cli
    from service.memory import give_large_memory_back

    give_large_memory_back()
    return cli.main(sys.argv[1:])


def start() -> int:
    from service import logs
    from service.serve import serve
    from service.server import address_of, bound
    from service.settings import Settings
    from service.workers import supervise

    started = time.monotonic()
    settings = Settings.from_environ()
    if settings.workers == 1:
        stdio.log_what_libraries_write()
    logs.configure(settings.log_format)
    listener = bound(settings.host, settings.port)
    address = address_of(listener)

    def ready(names: str, provider: str) -> None:
        line = f"{names} on {address} ({provider}), ready in {time.monotonic() - started:.1f} s"
        if settings.log_format == "json":
            logs.log.info(line)
        else:
            stdio.say(f"{line}\ntry: curl -F file=@photo.jpg {address}/predict", sys.stdout)

    if settings.workers > 1:
        return supervise(settings, listener, ready)
    return serve(settings, listener, ready)


if __name__ == "__main__":
    sys.exit(main())
