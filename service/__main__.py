"""python -m service: loads the model, warms it up, and serves. Settings come from the environment.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 if the model or the port cannot be used or the network
hangs, 2 for a bad setting.
"""

import ctypes
import signal
import sys
import time
from functools import partial
from types import FrameType
from typing import Final

import uvicorn

from service import logs
from service.app import create_app
from service.repository import read_all
from service.server import Protocol, Server, address_of, listen
from service.session import ModelError, load_model
from service.settings import Settings, SettingsError, usable_cores

M_MMAP_THRESHOLD: Final = -3  # of glibc's malloc.h


def main() -> int:
    give_large_memory_back()
    started = time.monotonic()
    try:
        settings = Settings.from_environ()
        logs.configure(settings.log_format)
        load = partial(load_model, device=settings.device, threads=settings.threads or usable_cores())
        found = read_all(settings, load)
        app = create_app(settings, found, load)
        listener = listen(settings.host, settings.port)
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
        log_config=None,  # its loggers hand over to ours
        log_level="warning",
        access_log=False,
        server_header=False,
        http=Protocol,
        ws="none",
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )

    def not_ready() -> None:
        app.state.engine.draining = True

    server = Server(config, not_ready, lambda: app.state.engine.failed, settings.drain_delay_s)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    def reload(_number: int, _frame: FrameType | None) -> None:
        if hasattr(app.state, "engine"):
            app.state.engine.reload_wanted = True

    signal.signal(signal.SIGHUP, reload)
    # Before anything is printed: whoever waits for the line may signal at once. Later uvicorn has handlers
    # of its own and, when done, raises what it caught once more: here, so a clean stop is exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    address = address_of(listener)
    names = ", ".join(f"{one.name} version {one.version}" for one in found if one.model)
    provider = next(one.model.provider for one in found if one.model)
    ready = f"{names} on {address} ({provider}), ready in {time.monotonic() - started:.1f} s"
    if settings.log_format == "json":
        logs.log.info(ready)
    else:
        print(f"{ready}\ntry: curl -F file=@photo.jpg {address}/predict", flush=True)
    server.run(sockets=[listener])
    return 1 if app.state.engine.failed else 0


def give_large_memory_back() -> None:
    """glibc learns to keep freed blocks of up to 32 MB, in every thread; pictures are made of 16 MB ones.
    With a fixed threshold they go back to the system: 18 bytes a pixel held by four threads, not 60.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 8_000_000)


if __name__ == "__main__":
    sys.exit(main())
