"""When to come back is told by the rate of the present, with a clock that the test moves."""

import threading
from contextlib import ExitStack

import pytest

from service.admission import Admission, PixelBudget
from service.errors import InvalidRequest, Overloaded


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(admission: Admission) -> int:
    with pytest.raises(Overloaded) as refused, admission.admit(1):
        pass
    return refused.value.retry_after


def test_it_is_the_time_that_the_images_inside_will_take() -> None:
    clock = Clock()
    admission = Admission(20, 10**6, 20, clock)
    with ExitStack() as house:
        inside = [house.enter_context(ExitStack()) for _place in range(20)]
        for place in inside:
            place.enter_context(admission.admit(1))
        assert refusal(admission) == 1, "nothing has been answered yet"
        for place in inside[:10]:
            clock.now += 0.5  # two a second
            place.close()
            place.enter_context(admission.admit(1))
        assert refusal(admission) == 10


def test_idle_time_does_not_count() -> None:
    clock = Clock()
    admission = Admission(4, 10**6, 4, clock)
    for _pass in range(2):
        with ExitStack() as house:
            inside = [house.enter_context(ExitStack()) for _place in range(4)]
            for place in inside:
                place.enter_context(admission.admit(1))
            for place in inside:
                clock.now += 0.01
                place.close()
                place.enter_context(admission.admit(1))
            assert refusal(admission) == 1
        clock.now += 3600


def test_what_failed_is_no_answer() -> None:
    clock = Clock()
    admission = Admission(2, 10**6, 2, clock)
    with admission.admit(1), ExitStack() as place:
        place.enter_context(admission.admit(1))
        clock.now += 4
        place.close()
        for _image in range(50):
            with pytest.raises(ValueError, match="bad"), admission.admit(1):
                raise ValueError("bad")
        with admission.admit(1):
            assert refusal(admission) == 8, "one answer in 4 s, two inside"


def test_the_bytes_of_those_inside_are_counted_up_to_the_limit_and_given_back() -> None:
    admission = Admission(10, 100, 10)
    for _pass in range(2):
        with admission.admit(60):
            with (
                pytest.raises(
                    Overloaded, match=r"^60 bytes of requests are in memory and 100 is the limit$"
                ) as refused,
                admission.admit(41),
            ):
                pass
            assert refused.value.retry_after == 1
            with admission.admit(40), pytest.raises(Overloaded, match=r"^100 bytes"), admission.admit(1):
                pass
        with admission.admit(100):
            pass


def test_the_refusal_says_how_many_are_inside() -> None:
    admission = Admission(1, 100, 1)
    with (
        admission.admit(1),
        pytest.raises(Overloaded, match=r"^1 images are being worked on and 1 is the limit$"),
        admission.admit(1),
    ):
        pass


def share_is_taken(admission: Admission, key: str) -> bool:
    try:
        with admission.admit(1, 1, key):
            return False
    except Overloaded as refused:
        return "of this API key" in str(refused)


def test_a_key_has_its_share_and_the_others_have_the_rest() -> None:
    admission = Admission(10, 100, 4)
    for _pass in range(2):
        with admission.admit(1, 3, "a"):
            with (
                pytest.raises(
                    Overloaded, match=r"^3 images of this API key are being worked on and 4 is the limit$"
                ) as refused,
                admission.admit(1, 2, "a"),
            ):
                pass
            assert refused.value.retry_after == 1
            with admission.admit(1, 1, "a"), admission.admit(1, 4, "b"), admission.admit(1, 2, "c"):
                assert admission.inside == 10
                with pytest.raises(Overloaded, match=r"^10 images"), admission.admit(1, 1, "c"):
                    pass
            with admission.admit(1, 1, "a"):
                assert share_is_taken(admission, "a")
            with pytest.raises(Overloaded, match=r"^3 images of this"), admission.admit(1, 2, "a"):
                pass
        assert admission.inside == 0


def test_what_could_never_be_taken_is_told_so_and_leaves_no_trace() -> None:
    admission = Admission(10, 100, 4)
    for most, house in ((4, admission), (10, Admission(10, 100, 20))):
        told = f"^the request is of {most + 1} images, crops and occlusions counted; {most} are taken at "
        with house.admit(1, 1) as visit:
            visit.take(most - 1)
            assert (visit.images, house.inside) == (most, most)
            with pytest.raises(InvalidRequest, match=told + "once, send it in parts$"):
                visit.take(1)
        assert house.inside == 0
        with house.admit(100, most):
            pass


def test_many_images_of_one_request_leave_together() -> None:
    clock = Clock()
    admission = Admission(20, 100, 20, clock)
    with admission.admit(1, 10):
        with admission.admit(1, 10):
            clock.now += 5  # two a second
        with admission.admit(1, 10):
            assert refusal(admission) == 10, "20 inside"


def test_the_rate_is_that_of_the_last_64_answers() -> None:
    clock = Clock()
    admission = Admission(67, 10**6, 67, clock)
    with ExitStack() as house:
        for _place in range(66):
            house.enter_context(admission.admit(1))
        for pause in [1000.0] + [0.5] * 64:
            with admission.admit(1):
                clock.now += pause
        with admission.admit(1):
            assert refusal(admission) == 34, "67 inside at two a second"


def test_nobody_is_sent_away_for_more_than_a_minute() -> None:
    clock = Clock()
    admission = Admission(2, 10**6, 2, clock)
    with admission.admit(1):
        with admission.admit(1):
            clock.now += 1000
        with admission.admit(1):
            assert refusal(admission) == 60


def test_a_picture_may_take_all_the_pixels_at_once_and_again() -> None:
    budget = PixelBudget(10)
    for _pass in range(2):
        with budget.reserve(10):
            pass
        with budget.reserve(4), budget.reserve(6):
            pass


def test_a_picture_waits_until_there_is_room_for_it() -> None:
    budget = PixelBudget(10)
    events: list[str] = []

    def large() -> None:
        with budget.reserve(5):
            events.append("large")

    thread = threading.Thread(target=large)
    with budget.reserve(6):
        thread.start()
        while not (budget._turn.locked() or events):  # until it waits, or wrongly does not
            pass
        events.append("room")
    thread.join()
    assert events == ["room", "large"]
    with budget.reserve(10):
        pass
