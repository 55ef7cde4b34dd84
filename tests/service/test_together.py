"""What waits for others, and threads that decode and do more with what they have made."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from contract.picture import ImageError
from contract.recipe import DEFAULT_RECIPE
from service import decode_threads
from service.crops import BYTES_PER_PIXEL, Cropped
from service.decode_threads import LARGE, Threads
from service.together import Together
from tests.service.gate import until
from tests.service.images import encoded, noise
from tests.service.slow import slow_decoding

PIXELS = 4_000_000


def test_enough_of_a_kind_are_taken_at_once() -> None:
    waiting: Together[str, int] = Together()
    assert [waiting.add("a", 1, 3), waiting.add("b", 9, 3), waiting.add("a", 2, 3)] == [[], [], []]
    assert waiting.waiting == 3
    assert waiting.add("a", 3, 3) == [1, 2, 3]
    assert waiting.add("a", 4, 3) == []
    assert [waiting.take(), waiting.take(), waiting.take()] == [[9], [4], []]
    assert waiting.waiting == 0


def test_those_that_have_waited_longest_come_first_if_they_have_waited_long_enough() -> None:
    waiting: Together[str, int] = Together()
    waiting.add("a", 1, 9)
    time.sleep(0.05)
    waiting.add("b", 2, 9)
    waiting.add("a", 3, 9)
    assert waiting.take(waited=10) == []
    assert waiting.take(waited=0.05) == [1, 3]
    assert waiting.take(waited=0.05) == []
    assert waiting.take() == [2]


def test_nothing_is_lost_or_taken_twice_by_threads() -> None:
    waiting: Together[int, int] = Together()
    taken: list[int] = []

    def work(start: int) -> None:
        for item in range(start, 40_000, 4):
            taken.extend(waiting.add(item % 3, item, 5))
            if not item % 7:
                taken.extend(waiting.take())

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while left := waiting.take():
        taken.extend(left)
    assert sorted(taken) == list(range(40_000))


@dataclass(eq=False)
class Widths:
    """A `then` whose answers are the pictures' widths, once it may go on."""

    worth: int = 8
    calls: list[list[int]] = field(default_factory=list)
    go_on: threading.Event | None = None

    def __call__(self, made: list[Cropped]) -> list[int]:
        self.calls.append([each.width for each in made])
        if self.go_on is not None:
            assert self.go_on.wait(20)
        return self.calls[-1]


@dataclass
class Decoding:
    """One thread, which stands still in the `then` of a first picture, until it may go on; and then at the
    first picture with the word `gate` in it.
    """

    decoder: Threads
    go_on: threading.Event
    gate: threading.Event

    def ask(
        self, width: int, then: Widths, height: int = 50, gate: bool = False
    ) -> "asyncio.Task[Cropped]":
        data = encoded(noise(1, width, height), "PNG") + b"gate" * gate
        return asyncio.create_task(self.decoder.decode(data, DEFAULT_RECIPE, 1, then))

    async def stands_behind(self, *tasks: "asyncio.Task[Cropped]") -> None:
        """The thread goes on, keeps what these have asked for, and stands at the gate with the next."""
        await until(lambda: self.decoder._jobs.qsize() == len(tasks) + 1)
        self.go_on.set()
        await until(lambda: self.decoder.waiting == len(tasks) and not self.decoder._jobs.qsize())


Test = Callable[[Decoding], Coroutine[Any, Any, None]]


@pytest.fixture
def with_one_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(decode_threads, "PATIENCE", 1000)  # a busy machine takes long to make a few

    async def decoding(test: Test, timeout: float) -> None:
        with slow_decoding(monkeypatch) as gate:
            one = Decoding(Threads(1, PIXELS, timeout), threading.Event(), gate)
            await one.decoder.start()
            stands = Widths(go_on=one.go_on)
            first = one.ask(50, stands)
            await until(lambda: bool(stands.calls))
            await test(one)
            assert (await first).answer == 50
            await one.decoder.close()

    def run(test: Test, timeout: float = 30.0) -> None:
        asyncio.run(asyncio.wait_for(decoding(test, timeout), 30))

    return run


WithOneThread = Callable[..., None]


def test_what_is_made_while_there_is_more_is_called_with_together(with_one_thread: WithOneThread) -> None:
    async def test(one: Decoding) -> None:
        some, others = Widths(worth=3), Widths()
        asked = [one.ask(width, then) for width in (60, 61, 62, 63) for then in (some, others)]
        await until(lambda: one.decoder._jobs.qsize() == len(asked))
        one.go_on.set()
        assert [(await each).answer for each in asked] == [60, 60, 61, 61, 62, 62, 63, 63]
        assert some.calls == [[60, 61, 62], [63]]
        assert others.calls == [[60, 61, 62, 63]]

    with_one_thread(test)


@pytest.mark.parametrize(("patience", "calls"), [(1000, [[60, 61, 62]]), (0, [[60], [61], [62]])])
def test_none_waits_for_ever_while_there_is_more(
    with_one_thread: WithOneThread, monkeypatch: pytest.MonkeyPatch, patience: float, calls: list[list[int]]
) -> None:
    monkeypatch.setattr(decode_threads, "PATIENCE", patience)

    async def test(one: Decoding) -> None:
        then = Widths()
        asked = [one.ask(width, then) for width in (60, 61, 62)]
        await until(lambda: one.decoder._jobs.qsize() == 3)
        one.go_on.set()
        await asyncio.wait(asked)
        assert then.calls == calls

    with_one_thread(test)


def test_before_a_large_picture_those_that_wait_have_their_turn(with_one_thread: WithOneThread) -> None:
    async def test(one: Decoding) -> None:
        then, height = Widths(), LARGE // BYTES_PER_PIXEL // 1000 + 1
        asked = [one.ask(60, then), one.ask(61, then), one.ask(1000, then, height)]
        await until(lambda: one.decoder._jobs.qsize() == 3)
        one.go_on.set()
        await asyncio.wait(asked)
        assert then.calls == [[60, 61], [1000]]

    with_one_thread(test)


def test_who_has_gone_is_left_out(with_one_thread: WithOneThread) -> None:
    async def test(one: Decoding) -> None:
        then = Widths()
        gone, stays, last = one.ask(60, then), one.ask(61, then), one.ask(62, then, gate=True)
        await one.stands_behind(gone, stays)
        gone.cancel()
        await asyncio.wait([gone])
        one.gate.set()
        assert [(await stays).answer, (await last).answer] == [61, 62]
        assert then.calls == [[61, 62]]

    with_one_thread(test)


def test_what_waits_is_answered_without_where_no_thread_comes_back(with_one_thread: WithOneThread) -> None:
    async def test(one: Decoding) -> None:
        then = Widths()
        waits, hangs = one.ask(60, then), one.ask(61, then, gate=True)
        await one.stands_behind(waits)
        made = await waits
        assert (made.width, made.answer) == (60, None)
        assert not one.decoder.alive
        with pytest.raises(ImageError, match="longer than 200 ms"):
            await hangs
        one.gate.set()
        await until(lambda: one.decoder.alive)
        assert not then.calls

    with_one_thread(test, timeout=0.2)


@pytest.mark.parametrize("answers", [None, [], [1, 2, 3]], ids=["it fails", "too few", "too many"])
def test_what_fails_has_no_answer_and_the_thread_goes_on(
    with_one_thread: WithOneThread, answers: list[int] | None
) -> None:
    class Broken(Widths):
        def __call__(self, made: list[Cropped]) -> list[int]:
            super().__call__(made)
            if answers is None:
                raise SystemExit
            return answers

    async def test(one: Decoding) -> None:
        broken, then = Broken(), Widths()
        asked = [one.ask(60, broken), one.ask(61, broken), one.ask(62, then)]
        one.go_on.set()
        assert [(await each).answer for each in asked] == [None, None, 62]

    with_one_thread(test)


def test_waiting_and_what_follows_is_no_decoding(with_one_thread: WithOneThread) -> None:
    """Which has a timeout of its own, and holds the thread for good where it is exceeded."""

    async def test(one: Decoding) -> None:
        then = Widths()
        waits = one.ask(60, then)
        await asyncio.sleep(0.5)
        assert one.decoder.alive
        one.go_on.set()
        assert (await waits).answer == 60

    with_one_thread(test, timeout=0.2)
