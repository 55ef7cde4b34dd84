"""Start the service: `python -m service` loads the models, warms them up, and serves.

Settings come from environment variables. `python -m service predict` runs the command of
service/cli/main.py; other arguments print the usage.

Exit codes: 0 after SIGTERM or Ctrl-C; 1 if there is no usable model, the port cannot be used, the network
hangs or the GPU fails; 2 for a bad setting.
"""

import os
import sys
import time
from shlex import quote

from service import inherited
from service.server import signals


def main() -> int:
    """Run the service or a command, by the arguments; return the exit code."""
    arguments = sys.argv[1:]
    serving = arguments[:1] in ([], ["serve"])
    if arguments[1:] if serving else arguments[0] != "predict":
        from service.cli.usage import explain

        return explain(arguments[serving:])
    inherited.remove(serving)
    signals.exit_on_signal(serving)
    if serving:
        from service import stdio

        stdio.open_missing()
    try:
        from service.server.run import exit_code
    except ModuleNotFoundError as error:
        script = "scripts/serve" if serving else "scripts/predict"
        print(f"error: {error.name} is not installed; {script} installs what is needed", file=sys.stderr)
        return 1
    except ValueError as error:
        if not (names := os.environ.get("OTEL_PROPAGATORS")):
            raise
        print(f"error: OTEL_PROPAGATORS is {names!r}: {error}", file=sys.stderr)
        return 2
    return exit_code(start if serving else command)


def command() -> int:
    """Run `predict`; return the exit code."""
    from service.cli.main import main
    from service.host import set_mmap_threshold

    set_mmap_threshold()
    return main(sys.argv[2:])


def start() -> int:
    """Serve with the settings of the environment, in one process or in WORKERS; return the exit code."""
    from service import stdio
    from service.models.default_model import require_file
    from service.observability import logs
    from service.server.fd_limit import raise_fd_limit
    from service.server.listener import address_of, bind_socket
    from service.server.run import serve
    from service.server.worker_count import choose_workers
    from service.server.workers import supervise
    from service.settings import Settings

    started = time.monotonic()
    settings = Settings.from_environ()
    require_file(settings)
    settings, workers = choose_workers(settings)
    if settings.workers == 1:
        stdio.log_library_stderr()
    logs.configure(settings.log_format)
    settings = raise_fd_limit(settings)
    listener = bind_socket(settings.host, settings.port)
    address = address_of(listener)

    def ready(names: str, provider: str, path: str) -> None:
        details = ", ".join(filter(None, (provider, workers)))
        line = f"{names} on {address} ({details}), ready in {time.monotonic() - started:.1f} s"
        if settings.log_format == "json":
            logs.log.info(line)
        else:
            key = '-H "Authorization: Bearer KEY" ' if settings.api_keys_file else ""
            stdio.write_line(
                f"{line}\ntry: curl {key}-F file=@photo.jpg {quote(address + path)}", sys.stdout
            )

    if settings.workers > 1:
        return supervise(settings, listener, ready)
    return serve(settings, listener, ready)


if __name__ == "__main__":
    sys.exit(main())
