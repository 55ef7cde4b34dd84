"""Define the service's expected errors. `service.problems` maps each to its status and code.

    ServiceError
    +-- Unauthorized         no API key, or an unknown one
    +-- Forbidden            the key does not permit this
    +-- InvalidRequest       the request is incomplete or contradictory
    +-- BodyTooLarge         more bytes than MAX_BODY_BYTES
    +-- BodyTimeout          the body did not arrive in time
    +-- UnsupportedCoding    a Content-Encoding other than gzip and deflate
    +-- UnknownModel         no model of that name and version
    +-- ModelError           a model file that cannot be served
    |   +-- UnreadableModel  temporary: the file may be readable later
    +-- Overloaded           MAX_QUEUE, MAX_QUEUE_BYTES, MAX_QUEUE_PER_KEY; too much slow decoding
    +-- NotReady             starting, draining, or no model is served
    +-- SchedulerClosed      the scheduler runs no more batches
    +-- WorkerLost           a run failed, and no further batch can run in this process
    +-- DeadlineExceeded     no answer within REQUEST_TIMEOUT_S or the client's own deadline

Unusable images raise `contract.errors.ImageError`. Any other exception is a bug and answered 500.
"""

import re
from typing import Final

_FAILURE: Final = re.compile(r"(?:CUDA|CUDNN\w*|CUBLAS\w*) failure \d+: [^;]*[^; ]")
_MAX_MESSAGE: Final = 300  # characters of an error that is not CUDA's


class ServiceError(Exception):
    """An error whose message is sent to the client."""


class Unauthorized(ServiceError):
    pass


class Forbidden(ServiceError):
    pass


class InvalidRequest(ServiceError):
    pass


class BodyTooLarge(ServiceError):
    pass


class BodyTimeout(ServiceError):
    pass


class UnsupportedCoding(ServiceError):
    pass


class UnknownModel(ServiceError):
    pass


class ModelError(ServiceError):
    pass


class UnreadableModel(ModelError):
    pass


class Overloaded(ServiceError):
    """Admission refused the request; `retry_after` is in whole seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(ServiceError):
    pass


class SchedulerClosed(ServiceError):
    pass


class WorkerLost(ServiceError):
    pass


class DeadlineExceeded(ServiceError):
    pass


def short_message(error: BaseException) -> str:
    """Return CUDA's message in an ORT exception, else the first line, without names of the machine."""
    if found := _FAILURE.search(str(error)):
        return found[0]
    return (str(error).splitlines() or [type(error).__name__])[0][:_MAX_MESSAGE]
