"""python -m service: loads the model, warms it up, and serves. Settings come from the environment.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 if the model or the port cannot be used, 2 for a bad setting.
"""

import logging
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn

from service.app import create_app
from service.session import ModelError, load_model
from service.settings import Settings, SettingsError, usable_cores


def main() -> int:
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
    started = time.monotonic()
    try:
        settings = Settings.from_environ()
        model = load_model(settings.model, settings.device, settings.threads or usable_cores())
        app = create_app(settings, model)
        listener = socket.create_server((settings.host, settings.port), backlog=2048)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = error.strerror or error
        print(f"error: cannot listen on {settings.host}:{settings.port}: {reason}", file=sys.stderr)
        return 1

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    server = uvicorn.Server(config)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # Before anything is printed: whoever waits for the line may signal at once. Later uvicorn has handlers
    # of its own and, when done, raises what it caught once more: here, so a clean stop is exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104
    address = f"http://{host}:{listener.getsockname()[1]}"
    print(
        f"{model.manifest.name} version {model.manifest.version} on {address} "
        f"({model.provider}), ready in {time.monotonic() - started:.1f} s\n"
        f"try: curl -F file=@photo.jpg {address}/predict",
        flush=True,
    )
    server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
