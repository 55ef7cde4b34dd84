"""Which of the crops that wait are the next batch."""

import asyncio
from typing import Any

from service.inference.batches import Batches, BatchResult, Request
from tests.support.models.scheduled import FOREVER, Network, pixels


class Waiting:
    """Batches for two threads, and a clock that a test moves."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        given: dict[str, Any] = {
            "threads": 2,
            "max_batch": 32,
            "fill_wait": 0.0,
            "max_batch_delay": 1.0,
        } | settings
        self.batches = Batches(**given, clock=lambda: self.now)
        self.network = Network()

    def ask(self, crops: int, ready: bool = True) -> Request:
        model: Any = self.network
        request = Request(
            model, ("p",), crops, BatchResult([{}] * crops), asyncio.Future(loop=_loop), self.now
        )
        self.batches.in_flight += crops
        if ready:
            self.batches.add(request, [pixels(0)] * crops)
        return request

    def take(self, idle: bool = False) -> tuple[int, bool] | None:
        """-> how many crops, and whether they are alone"""
        batch = self.batches.take(idle)
        return batch and (len(batch.crops), batch.exclusive)


_loop = asyncio.new_event_loop()


def test_of_one_request_each_thread_has_its_share() -> None:
    waiting = Waiting()
    waiting.ask(10)
    assert [waiting.take(), waiting.take(), waiting.take()] == [(5, True), (5, False), None]


def test_of_several_requests_one_thread_has_all_that_waits() -> None:
    waiting = Waiting()
    for _request in range(3):
        waiting.ask(4)
    assert [waiting.take(), waiting.take()] == [(12, False), None]


def test_all_of_one_that_is_alone_where_every_core_runs_it() -> None:
    waiting = Waiting()
    waiting.network.whole = True
    waiting.ask(10)
    assert waiting.take() == (10, True)
    waiting.ask(10)
    assert waiting.take() == (10, False), "the first has not been answered"


def test_a_busy_thread_waits_for_its_share_of_what_is_on_its_way() -> None:
    waiting = Waiting()
    waiting.ask(1)
    for _request in range(3):
        waiting.ask(1, ready=False)
    assert waiting.take() is None
    assert waiting.take(idle=True) == (1, False)


def test_no_longer_than_the_delay() -> None:
    waiting = Waiting()
    assert Waiting().batches.due_in is None
    waiting.ask(1)
    waiting.ask(9, ready=False)
    waiting.now = 0.75
    assert waiting.batches.due_in == 0.25
    assert waiting.take() is None
    waiting.now = 1.0
    assert waiting.take() == (1, False)


def test_what_turns_out_not_to_come_is_waited_for_no_longer() -> None:
    waiting = Waiting()
    waiting.ask(1)
    waiting.ask(2, ready=False)
    assert waiting.take() is None
    waiting.batches.in_flight -= 2
    assert waiting.take() == (1, True)


def test_with_a_maximal_delay_a_batch_waits_until_it_is_full_or_late() -> None:
    waiting = Waiting(fill_wait=FOREVER, max_batch=4)
    waiting.ask(3)
    assert waiting.take(idle=True) is None
    waiting.ask(3)
    assert waiting.take() == (4, False)
    waiting.now = FOREVER
    assert waiting.take() == (2, False)


def test_one_model_does_not_keep_another_from_its_turn() -> None:
    waiting = Waiting(max_batch=4)
    first: Any = waiting.network
    for _request in range(3):
        waiting.ask(4)
    waiting.network = Network()
    waiting.ask(1)
    batches = [waiting.batches.take(idle=True) for _batch in range(4)]
    assert [batch and batch.model is first for batch in batches] == [True, False, True, True]


def test_who_has_gone_is_left_out() -> None:
    waiting = Waiting()
    gone = [waiting.ask(2) for _request in range(2)]
    waiting.ask(1)
    gone[0].future.cancel()
    assert waiting.take() == (3, False)
    waiting.ask(1).future.cancel()
    assert waiting.take(idle=True) is None
    assert len(waiting.batches) == 0
