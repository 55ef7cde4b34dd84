"""Tests of admission: limits of images and bytes, and Retry-After by a clock that the tests move."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from service.errors import InvalidRequest, Overloaded
from service.inference.admission import Admission, Permit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def request_of(admission: Admission, size: int, images: int = 1, key: str = "") -> Iterator[Permit]:
    """Admit a request and count its complete body and its images."""
    with admission.admit(size, images, key) as permit:
        permit.receive(size)
        permit.acquire(images)
        yield permit


def retry_after(admission: Admission) -> int:
    with pytest.raises(Overloaded) as refused, request_of(admission, 1):
        pass
    return refused.value.retry_after


def test_retry_after_is_the_time_that_images_in_flight_will_take() -> None:
    clock = Clock()
    admission = Admission(20, 10**6, 20, clock)
    with ExitStack() as stack:
        slots = [stack.enter_context(ExitStack()) for _slot in range(20)]
        for slot in slots:
            slot.enter_context(request_of(admission, 1))
        assert retry_after(admission) == 1, "nothing has been answered yet"
        for slot in slots[:10]:
            clock.now += 0.5  # two a second
            slot.close()
            slot.enter_context(request_of(admission, 1))
        assert retry_after(admission) == 10


def test_idle_time_does_not_change_retry_after() -> None:
    clock = Clock()
    admission = Admission(4, 10**6, 4, clock)
    for _pass in range(2):
        with ExitStack() as stack:
            slots = [stack.enter_context(ExitStack()) for _slot in range(4)]
            for slot in slots:
                slot.enter_context(request_of(admission, 1))
            for slot in slots:
                clock.now += 0.01
                slot.close()
                slot.enter_context(request_of(admission, 1))
            assert retry_after(admission) == 1
        clock.now += 3600


def test_failed_requests_do_not_count_as_answered() -> None:
    clock = Clock()
    admission = Admission(2, 10**6, 2, clock)
    with request_of(admission, 1), ExitStack() as slot:
        slot.enter_context(request_of(admission, 1))
        clock.now += 4
        slot.close()
        for _image in range(50):
            with pytest.raises(ValueError, match="bad"), request_of(admission, 1):
                raise ValueError("bad")
        with request_of(admission, 1):
            assert retry_after(admission) == 8, "one answer in 4 s, two in flight"


def test_body_bytes_are_limited_and_released() -> None:
    admission = Admission(10, 100, 10)
    for _pass in range(2):
        with request_of(admission, 60):
            with (
                pytest.raises(
                    Overloaded, match=r"^60 bytes of requests are in memory and 100 is the limit$"
                ) as refused,
                request_of(admission, 41),
            ):
                pass
            assert refused.value.retry_after == 1
            with (
                request_of(admission, 40),
                pytest.raises(Overloaded, match=r"^100 bytes"),
                request_of(admission, 1),
            ):
                pass
        with request_of(admission, 100):
            pass


def test_error_names_images_in_flight_and_the_limit() -> None:
    admission = Admission(1, 100, 1)
    with (
        request_of(admission, 1),
        pytest.raises(Overloaded, match=r"^1 images are in flight and 1 is the limit$"),
        request_of(admission, 1),
    ):
        pass


def key_is_at_its_limit(admission: Admission, key: str) -> bool:
    try:
        with request_of(admission, 1, 1, key):
            return False
    except Overloaded as refused:
        return "of this API key" in str(refused)


def test_one_api_key_cannot_exceed_its_share() -> None:
    admission = Admission(10, 100, 4)
    for _pass in range(2):
        with request_of(admission, 1, 3, "a"):
            with (
                pytest.raises(
                    Overloaded, match=r"^3 images of this API key are in flight and 4 is the limit$"
                ) as refused,
                request_of(admission, 1, 2, "a"),
            ):
                pass
            assert refused.value.retry_after == 1
            with (
                request_of(admission, 1, 1, "a"),
                request_of(admission, 1, 4, "b"),
                request_of(admission, 1, 2, "c"),
            ):
                assert admission.in_flight == 10
                with pytest.raises(Overloaded, match=r"^10 images"), request_of(admission, 1, 1, "c"):
                    pass
            with request_of(admission, 1, 1, "a"):
                assert key_is_at_its_limit(admission, "a")
            with pytest.raises(Overloaded, match=r"^3 images of this"), request_of(admission, 1, 2, "a"):
                pass
        assert admission.in_flight == 0


def test_impossible_requests_are_invalid_and_count_nothing() -> None:
    admission = Admission(10, 100, 4)
    for limit, tested in ((4, admission), (10, Admission(10, 100, 20))):
        message = (
            f"^the request is of {limit + 1} images, crops and occlusions counted; "
            f"at most {limit} are accepted at once, send it in parts$"
        )
        with request_of(tested, 1, 1) as permit:
            permit.acquire(limit - 1)
            assert (permit.images, tested.in_flight) == (limit, limit)
            with pytest.raises(InvalidRequest, match=message):
                permit.acquire(1)
        assert tested.in_flight == 0
        with request_of(tested, 100, limit):
            pass


def test_rate_counts_all_images_of_a_request() -> None:
    clock = Clock()
    admission = Admission(20, 100, 20, clock)
    with request_of(admission, 1, 10):
        with request_of(admission, 1, 10):
            clock.now += 5  # two a second
        with request_of(admission, 1, 10):
            assert retry_after(admission) == 10, "20 in flight"


def test_rate_is_that_of_the_last_64_answers() -> None:
    clock = Clock()
    admission = Admission(67, 10**6, 67, clock)
    with ExitStack() as stack:
        for _slot in range(66):
            stack.enter_context(request_of(admission, 1))
        for pause in [1000.0] + [0.5] * 64:
            with request_of(admission, 1):
                clock.now += pause
        with request_of(admission, 1):
            assert retry_after(admission) == 34, "67 in flight at two a second"


def test_retry_after_is_capped_at_60s() -> None:
    clock = Clock()
    admission = Admission(2, 10**6, 2, clock)
    with request_of(admission, 1):
        with request_of(admission, 1):
            clock.now += 1000
        with request_of(admission, 1):
            assert retry_after(admission) == 60


def test_announced_bodies_count_only_when_they_arrive() -> None:
    admission = Admission(10, 100, 10)
    with ExitStack() as stack:
        senders = [stack.enter_context(admission.admit(100, 10)) for _sender in range(50)]
        assert admission.in_flight == 0
        with request_of(admission, 100, 10):
            with pytest.raises(
                Overloaded, match=r"^100 bytes of requests are in memory and 100 is the limit$"
            ):
                senders[0].receive(1)
            with pytest.raises(Overloaded, match=r"^10 images"):
                senders[0].acquire(1)
        senders[0].receive(60)
        with pytest.raises(Overloaded, match=r"^60 bytes"), admission.admit(41):
            pass
        with pytest.raises(Overloaded, match=r"^60 bytes"):
            senders[1].receive(41)
        senders[0].receive(-60)
        senders[1].receive(100)
    with request_of(admission, 100, 10):
        pass


def test_large_request_leaves_room_for_others() -> None:
    admission = Admission(32, max_bytes=10, max_per_key=32)
    with admission.admit(0) as large, admission.admit(0) as other:
        semaphore = large.acquire_share(32)
        assert (admission.in_flight, semaphore._value) == (4, 4), "an eighth of the limit"
        other.acquire(28)
        with pytest.raises(Overloaded):
            other.acquire(1)
    with admission.admit(0) as small:
        assert small.acquire_share(3, cost=10)._value == 1, "at least one at a time"
        assert admission.in_flight == 10
        with pytest.raises(InvalidRequest, match="of 40 images"):
            small.acquire_share(3, cost=10)
