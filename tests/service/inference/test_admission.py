"""When to come back is told by the rate of the present, with a clock that the test moves."""

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
def inside(admission: Admission, size: int, images: int = 1, key: str = "") -> Iterator[Permit]:
    """A request whose body has come."""
    with admission.admit(size, images, key) as permit:
        permit.receive(size)
        permit.acquire(images)
        yield permit


def refusal(admission: Admission) -> int:
    with pytest.raises(Overloaded) as refused, inside(admission, 1):
        pass
    return refused.value.retry_after


def test_it_is_the_time_that_the_images_inside_will_take() -> None:
    clock = Clock()
    admission = Admission(20, 10**6, 20, clock)
    with ExitStack() as house:
        places = [house.enter_context(ExitStack()) for _place in range(20)]
        for place in places:
            place.enter_context(inside(admission, 1))
        assert refusal(admission) == 1, "nothing has been answered yet"
        for place in places[:10]:
            clock.now += 0.5  # two a second
            place.close()
            place.enter_context(inside(admission, 1))
        assert refusal(admission) == 10


def test_idle_time_does_not_count() -> None:
    clock = Clock()
    admission = Admission(4, 10**6, 4, clock)
    for _pass in range(2):
        with ExitStack() as house:
            places = [house.enter_context(ExitStack()) for _place in range(4)]
            for place in places:
                place.enter_context(inside(admission, 1))
            for place in places:
                clock.now += 0.01
                place.close()
                place.enter_context(inside(admission, 1))
            assert refusal(admission) == 1
        clock.now += 3600


def test_what_failed_is_no_answer() -> None:
    clock = Clock()
    admission = Admission(2, 10**6, 2, clock)
    with inside(admission, 1), ExitStack() as place:
        place.enter_context(inside(admission, 1))
        clock.now += 4
        place.close()
        for _image in range(50):
            with pytest.raises(ValueError, match="bad"), inside(admission, 1):
                raise ValueError("bad")
        with inside(admission, 1):
            assert refusal(admission) == 8, "one answer in 4 s, two inside"


def test_the_bytes_of_those_inside_are_counted_up_to_the_limit_and_given_back() -> None:
    admission = Admission(10, 100, 10)
    for _pass in range(2):
        with inside(admission, 60):
            with (
                pytest.raises(
                    Overloaded, match=r"^60 bytes of requests are in memory and 100 is the limit$"
                ) as refused,
                inside(admission, 41),
            ):
                pass
            assert refused.value.retry_after == 1
            with (
                inside(admission, 40),
                pytest.raises(Overloaded, match=r"^100 bytes"),
                inside(admission, 1),
            ):
                pass
        with inside(admission, 100):
            pass


def test_the_refusal_says_how_many_are_inside() -> None:
    admission = Admission(1, 100, 1)
    with (
        inside(admission, 1),
        pytest.raises(Overloaded, match=r"^1 images are being worked on and 1 is the limit$"),
        inside(admission, 1),
    ):
        pass


def share_is_taken(admission: Admission, key: str) -> bool:
    try:
        with inside(admission, 1, 1, key):
            return False
    except Overloaded as refused:
        return "of this API key" in str(refused)


def test_a_key_has_its_share_and_the_others_have_the_rest() -> None:
    admission = Admission(10, 100, 4)
    for _pass in range(2):
        with inside(admission, 1, 3, "a"):
            with (
                pytest.raises(
                    Overloaded, match=r"^3 images of this API key are being worked on and 4 is the limit$"
                ) as refused,
                inside(admission, 1, 2, "a"),
            ):
                pass
            assert refused.value.retry_after == 1
            with inside(admission, 1, 1, "a"), inside(admission, 1, 4, "b"), inside(admission, 1, 2, "c"):
                assert admission.in_flight == 10
                with pytest.raises(Overloaded, match=r"^10 images"), inside(admission, 1, 1, "c"):
                    pass
            with inside(admission, 1, 1, "a"):
                assert share_is_taken(admission, "a")
            with pytest.raises(Overloaded, match=r"^3 images of this"), inside(admission, 1, 2, "a"):
                pass
        assert admission.in_flight == 0


def test_what_could_never_be_taken_is_told_so_and_leaves_no_trace() -> None:
    admission = Admission(10, 100, 4)
    for most, house in ((4, admission), (10, Admission(10, 100, 20))):
        told = f"^the request is of {most + 1} images, crops and occlusions counted; {most} are taken at "
        with inside(house, 1, 1) as permit:
            permit.acquire(most - 1)
            assert (permit.images, house.in_flight) == (most, most)
            with pytest.raises(InvalidRequest, match=told + "once, send it in parts$"):
                permit.acquire(1)
        assert house.in_flight == 0
        with inside(house, 100, most):
            pass


def test_many_images_of_one_request_leave_together() -> None:
    clock = Clock()
    admission = Admission(20, 100, 20, clock)
    with inside(admission, 1, 10):
        with inside(admission, 1, 10):
            clock.now += 5  # two a second
        with inside(admission, 1, 10):
            assert refusal(admission) == 10, "20 inside"


def test_the_rate_is_that_of_the_last_64_answers() -> None:
    clock = Clock()
    admission = Admission(67, 10**6, 67, clock)
    with ExitStack() as house:
        for _place in range(66):
            house.enter_context(inside(admission, 1))
        for pause in [1000.0] + [0.5] * 64:
            with inside(admission, 1):
                clock.now += pause
        with inside(admission, 1):
            assert refusal(admission) == 34, "67 inside at two a second"


def test_nobody_is_sent_away_for_more_than_a_minute() -> None:
    clock = Clock()
    admission = Admission(2, 10**6, 2, clock)
    with inside(admission, 1):
        with inside(admission, 1):
            clock.now += 1000
        with inside(admission, 1):
            assert refusal(admission) == 60


def test_what_is_announced_takes_no_place_until_it_comes() -> None:
    admission = Admission(10, 100, 10)
    with ExitStack() as house:
        senders = [house.enter_context(admission.admit(100, 10)) for _sender in range(50)]
        assert admission.in_flight == 0
        with inside(admission, 100, 10):
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
    with inside(admission, 100, 10):
        pass


def test_a_request_of_many_images_leaves_room_for_others() -> None:
    admission = Admission(32, max_bytes=10, max_per_key=32)
    with admission.admit(0) as large, admission.admit(0) as other:
        turns = large.acquire_share(32)
        assert (admission.in_flight, turns._value) == (4, 4), "an eighth of the limit"
        other.acquire(28)
        with pytest.raises(Overloaded):
            other.acquire(1)
    with admission.admit(0) as small:
        assert small.acquire_share(3, cost=10)._value == 1, "at least one at a time"
        assert admission.in_flight == 10
        with pytest.raises(InvalidRequest, match="of 40 images"):
            small.acquire_share(3, cost=10)
