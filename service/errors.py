"""Errors that the service raises on purpose. `service.problems` has the status and the code of each.

    ServiceError
    +-- Unauthorized         no API key, or an unknown one
    +-- Forbidden            the key does not permit this
    +-- InvalidRequest       the request lacks something or contradicts itself
    +-- BodyTooLarge         more bytes than MAX_BODY_BYTES
    +-- BodyTimeout          the body did not arrive in time
    +-- UnsupportedCoding    a Content-Encoding other than gzip and deflate
    +-- UnknownModel         no model of that name and version
    +-- ModelError           a model file that cannot be served
    |   +-- UnreadableModel  for now: the file may be readable later
    +-- Overloaded           MAX_QUEUE, MAX_QUEUE_BYTES or MAX_QUEUE_PER_KEY is reached
    +-- NotReady             starting, draining, or no model answers
    +-- SchedulerClosed      no batch is run any more
    +-- WorkerLost           a run failed such that no batch can be run again in this process
    +-- DeadlineExceeded     no answer within REQUEST_TIMEOUT_S or the client's own, shorter limit

Images that cannot be used are `contract.errors.ImageError`s. Anything else is a bug: 500.
"""


class ServiceError(Exception):
    """Its message is for clients."""


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
    """`retry_after` in whole seconds."""

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
