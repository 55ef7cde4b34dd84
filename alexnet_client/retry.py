"""What a client makes of an answer, and when it asks again. Nothing here touches the network."""

import random
import time
from collections.abc import Generator
from typing import Final, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from alexnet_client.schemas import Problem

A = TypeVar("A", bound=BaseModel)

ATTEMPTS: Final = 5  # at most, and none that begins more than
PATIENCE: Final = 60  # s after the first
FIRST_PAUSE: Final = 0.2  # s, which doubles; Retry-After may ask for more
BROKEN: Final = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)


class ClientError(Exception):
    """The server's problem: `status`, `code` and `detail`. Without an answer they are 0, `no_answer` and
    the reason; `unexpected` is the code of an answer that is not the service's.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


def tries(shape: type[A]) -> Generator[float | A, httpx.Response | httpx.RequestError, None]:
    """Yields the seconds to wait before each try, is sent what came of it, and yields the answer at last.
    429, 503 and broken connections are tried again, not before Retry-After. Raises ClientError.
    """
    pause, began = 0.0, time.monotonic()
    for made in range(1, ATTEMPTS + 1):
        outcome = yield pause
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            yield _read(outcome, shape)
        # The jitter keeps those who were refused together from coming back together.
        wait = max(_retry_after(outcome), FIRST_PAUSE * 2 ** (made - 1)) * random.uniform(1, 1.25)
        late = time.monotonic() - began + wait > PATIENCE
        if late or made == ATTEMPTS or not _passing(outcome):
            raise _error(outcome)
        pause = wait


def _passing(outcome: httpx.Response | httpx.RequestError) -> bool:
    if isinstance(outcome, httpx.Response):
        return outcome.status_code in {429, 503}
    return isinstance(outcome, BROKEN)


def _retry_after(outcome: httpx.Response | httpx.RequestError) -> float:
    """In seconds; 0 where the header is missing or a date."""
    header = outcome.headers.get("Retry-After", "") if isinstance(outcome, httpx.Response) else ""
    return float(header) if header.isdecimal() else 0.0


def _error(outcome: httpx.Response | httpx.RequestError) -> ClientError:
    if isinstance(outcome, httpx.Response):
        problem = _read(outcome, Problem)
        return ClientError(problem.status, problem.code, problem.detail)
    reason = str(outcome) or type(outcome).__name__
    return ClientError(0, "no_answer", f"no answer from {outcome.request.url}: {reason}")


def _read(response: httpx.Response, shape: type[A]) -> A:
    try:
        return shape.model_validate_json(response.content)
    except ValidationError:
        said = f"{response.url} answered {response.status_code}, and not as the service does"
        raise ClientError(response.status_code, "unexpected", said) from None
