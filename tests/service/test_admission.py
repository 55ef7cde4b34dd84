"""When to come back is told by the rate of the present, with a clock that the test moves."""

from contextlib import ExitStack

import pytest

from service.admission import Admission
from service.errors import Overloaded


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
