"""Test the polling that other tests rely on, and its error message."""

import asyncio

import pytest

from tests.support.eventually import eventually, eventually_async


def test_eventually_returns_the_first_truthy_value() -> None:
    values = iter([0, 0, 7])
    assert eventually(lambda: next(values)) == 7


def test_timeout_names_the_predicate_and_its_value() -> None:
    with pytest.raises(AssertionError, match=r"still 0 after 0\.05 s of waiting for: .*len\(\[\]\)"):
        eventually(lambda: len([]), within=0.05)


def test_exception_of_the_predicate_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)


def test_eventually_async_awaits_coroutines() -> None:
    values = iter([False, True])

    async def ready() -> bool:
        return next(values)

    asyncio.run(eventually_async(ready))
    with pytest.raises(AssertionError, match="still False after 0 s of waiting for"):
        asyncio.run(eventually_async(lambda: False, within=0))
