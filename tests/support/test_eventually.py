"""The wait that other tests rely on ends, and says what it was for."""

import asyncio

import pytest

from tests.support.eventually import eventually, eventually_async


def test_the_first_truthy_value_is_returned() -> None:
    values = iter([0, 0, 7])
    assert eventually(lambda: next(values)) == 7


def test_a_wait_that_fails_names_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"still 0 after 0\.05 s of waiting for: .*len\(\[\]\)"):
        eventually(lambda: len([]), within=0.05)


def test_what_the_predicate_raises_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)


def test_coroutines_are_awaited() -> None:
    values = iter([False, True])

    async def ready() -> bool:
        return next(values)

    asyncio.run(eventually_async(ready))
    with pytest.raises(AssertionError, match="still False after 0 s of waiting for"):
        asyncio.run(eventually_async(lambda: False, within=0))
