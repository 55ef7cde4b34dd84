"""Names and accessors of the entries that middleware and routes share in the ASGI scope."""

from typing import Final

from starlette.types import Scope

from service.inference.engine import Engine

KEY: Final = "alexnet.key"  # the SHA-256 of the request's API key, "" without one
TASK: Final = "alexnet.task"  # the task that handles the request


def engine_of(scope: Scope) -> Engine:
    """Return the inference engine of the request's application, which must have started."""
    engine: Engine = scope["app"].state.engine
    return engine


def cancel_on_disconnect(scope: Scope) -> None:
    """Cancel the task of a request whose client has disconnected."""
    task = scope.get(TASK)
    if task is not None:
        scope[TASK] = None
        task.cancel()
