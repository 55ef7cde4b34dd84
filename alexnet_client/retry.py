"""Retry policy of the clients and parsing of responses. Does no I/O itself."""

import random
import time
from collections.abc import Generator
from typing import Final, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from alexnet_client.schemas import Problem

T = TypeVar("T", bound=BaseModel)

MAX_ATTEMPTS: Final = 5
RETRY_DEADLINE_S: Final = 60  # no attempt starts later than this after the first
FIRST_DELAY_S: Final = 0.2  # doubles with each attempt; Retry-After may ask for more
TRANSIENT_ERRORS: Final = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)


class ClientError(Exception):
    """A problem that the server reported: its `status`, `code` and `detail`.

    Without a response they are 0, `no_answer` and the reason. The code of a response that does not come
    from the service is `unexpected`.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


def retry_flow(schema: type[T]) -> Generator[float | T, httpx.Response | httpx.RequestError, None]:
    """Drive the attempts of one request; the caller waits and sends.

    Yields the seconds to wait before each attempt, is sent its response or error, and finally yields the
    parsed response. Retries 429, 503 and connection failures, not before Retry-After. Raises ClientError.
    """
    delay, started = 0.0, time.monotonic()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        outcome = yield delay
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            yield _read(outcome, schema)
        # Jitter: clients that were refused together must not return together.
        delay = max(_retry_after(outcome), FIRST_DELAY_S * 2 ** (attempt - 1)) * random.uniform(1, 1.25)
        too_late = time.monotonic() - started + delay > RETRY_DEADLINE_S
        if too_late or attempt == MAX_ATTEMPTS or not _is_transient(outcome):
            raise _error(outcome)


def _is_transient(outcome: httpx.Response | httpx.RequestError) -> bool:
    if isinstance(outcome, httpx.Response):
        return outcome.status_code in {429, 503}
    return isinstance(outcome, TRANSIENT_ERRORS)


def _retry_after(outcome: httpx.Response | httpx.RequestError) -> float:
    """Return Retry-After in seconds; 0 if the header is missing or a date."""
    header = outcome.headers.get("Retry-After", "") if isinstance(outcome, httpx.Response) else ""
    return float(header) if header.isdecimal() else 0.0


def _error(outcome: httpx.Response | httpx.RequestError) -> ClientError:
    if isinstance(outcome, httpx.Response):
        problem = _read(outcome, Problem)
        return ClientError(problem.status, problem.code, problem.detail)
    reason = str(outcome) or type(outcome).__name__
    return ClientError(0, "no_answer", f"no answer from {outcome.request.url}: {reason}")


def _read(response: httpx.Response, schema: type[T]) -> T:
    try:
        return schema.model_validate_json(response.content)
    except ValidationError:
        detail = f"{response.url} answered {response.status_code}, but not in the format of this service"
        raise ClientError(response.status_code, "unexpected", detail) from None
