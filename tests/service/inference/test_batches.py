"""Tests of which waiting crops become the next batch, and when."""

import asyncio
from typing import Any

from service.inference.batches import Batches, BatchResult, Request
from tests.support.models.scheduled import FOREVER, Network, pixels


class Waiting:
    """Batches for two threads, with a clock that the test moves."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        options: dict[str, Any] = {
            "threads": 2,
            "max_batch": 32,
            "fill_wait": 0.0,
            "max_batch_delay": 1.0,
        } | settings
        self.batches = Batches(**options, clock=lambda: self.now)
        self.network = Network()

    def add(self, crops: int, ready: bool = True) -> Request:
        """Add a request of so many crops; without `ready` they are not decoded yet."""
        model: Any = self.network
        request = Request(model, ("p",), crops, BatchResult(crops), asyncio.Future(loop=_loop), self.now)
        self.batches.in_flight += crops
        if ready:
            self.batches.add(request, pixels(*[0] * crops))
        return request

    def take(self, idle: bool = False) -> tuple[int, bool] | None:
        """Take a batch; return how many crops it has and whether it is exclusive."""
        batch = self.batches.take(idle)
        return batch and (sum(len(part.pixels) for part in batch.parts), batch.exclusive)


_loop = asyncio.new_event_loop()


def test_single_request_is_shared_among_threads() -> None:
    waiting = Waiting()
    waiting.add(10)
    assert [waiting.take(), waiting.take(), waiting.take()] == [(5, True), (5, False), None]


def test_crops_of_several_requests_are_one_batch() -> None:
    waiting = Waiting()
    for _request in range(3):
        waiting.add(4)
    assert [waiting.take(), waiting.take()] == [(12, False), None]


def test_exclusive_request_is_not_split_if_every_core_runs_it() -> None:
    waiting = Waiting()
    waiting.network.whole = True
    waiting.add(10)
    assert waiting.take() == (10, True)
    waiting.add(10)
    assert waiting.take() == (10, False), "the first has not been answered"


def test_busy_thread_waits_for_its_share_of_undecoded_crops() -> None:
    waiting = Waiting()
    waiting.add(1)
    for _request in range(3):
        waiting.add(1, ready=False)
    assert waiting.take() is None
    assert waiting.take(idle=True) == (1, False)


def test_batch_is_due_after_the_maximum_delay() -> None:
    waiting = Waiting()
    assert Waiting().batches.due_in is None
    waiting.add(1)
    waiting.add(9, ready=False)
    waiting.now = 0.75
    assert waiting.batches.due_in == 0.25
    assert waiting.take() is None
    waiting.now = 1.0
    assert waiting.take() == (1, False)


def test_batch_does_not_wait_for_requests_that_ended() -> None:
    waiting = Waiting()
    waiting.add(1)
    waiting.add(2, ready=False)
    assert waiting.take() is None
    waiting.batches.in_flight -= 2
    assert waiting.take() == (1, True)


def test_with_fill_wait_a_batch_waits_until_full_or_overdue() -> None:
    waiting = Waiting(fill_wait=FOREVER, max_batch=4)
    waiting.add(3)
    assert waiting.take(idle=True) is None
    waiting.add(3)
    assert waiting.take() == (4, False)
    waiting.now = FOREVER
    assert waiting.take() == (2, False)


def test_models_take_turns() -> None:
    waiting = Waiting(max_batch=4)
    first: Any = waiting.network
    for _request in range(3):
        waiting.add(4)
    waiting.network = Network()
    waiting.add(1)
    batches = [waiting.batches.take(idle=True) for _batch in range(4)]
    assert [batch and batch.model is first for batch in batches] == [True, False, True, True]


def test_crops_of_cancelled_requests_are_left_out() -> None:
    waiting = Waiting()
    cancelled = [waiting.add(2) for _request in range(2)]
    waiting.add(1)
    cancelled[0].future.cancel()
    assert waiting.take() == (3, False)
    waiting.add(1).future.cancel()
    assert waiting.take(idle=True) is None
    assert len(waiting.batches) == 0
