"""Retries: bounded in attempts and seconds, patient when asked, and quick to say that it is hopeless."""

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth_ray.core.errors import EndpointUnavailable
from synth_ray.rollout.remote.retries import RetryBudget, TryAgain, Waiter, parse_retry_after, retried

NOW = 1_790_000_000.0


class FakeTime:
    """A clock that only sleep moves; ``uniform`` takes the upper bound."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def waiter(self) -> Waiter:
        return Waiter(lambda: self.now, self.sleep, lambda low, high: high)


def failing(*failures: TryAgain) -> Callable[[float], Awaitable[str]]:
    left = list(failures)

    async def attempt(left_s: float) -> str:
        if left:
            raise left.pop(0)
        return "done"

    return attempt


def run(time: FakeTime, budget: RetryBudget, *failures: TryAgain) -> str:
    return asyncio.run(retried(failing(*failures), budget, "https://h/v1", time.waiter()))


def test_waits_grow_exponentially_up_to_their_limit() -> None:
    time = FakeTime()
    budget = RetryBudget(attempts=6, seconds=100, first_wait_s=1, longest_wait_s=5)
    assert run(time, budget, *[TryAgain("failed")] * 5) == "done"
    assert time.slept == [1, 2, 4, 5, 5]


def test_it_gives_up_after_the_last_attempt_and_names_place_and_reason() -> None:
    time = FakeTime()
    with pytest.raises(EndpointUnavailable, match=r"https://h/v1 answered 500; gave up after 3 attempts") as caught:
        run(time, RetryBudget(attempts=3), *[TryAgain("answered 500", status=500)] * 3)
    assert caught.value.details["status"] == 500
    assert len(time.slept) == 2


def test_retry_after_is_honoured_on_top_of_the_jitter() -> None:
    time = FakeTime()
    assert run(time, RetryBudget(first_wait_s=0.5), TryAgain("answered 429", 7)) == "done"
    assert time.slept == [7.5]


def test_a_wait_that_is_longer_than_what_is_left_fails_at_once() -> None:
    time = FakeTime()
    with pytest.raises(EndpointUnavailable, match=r"asks to wait 1000000000 s, but only 30 s are left"):
        run(time, RetryBudget(seconds=30), TryAgain("answered 429", 1e9))
    assert time.slept == []


def test_each_attempt_is_told_what_is_left() -> None:
    time, seen = FakeTime(), list[float]()

    async def attempt(left_s: float) -> None:
        seen.append(left_s)
        time.now += 4
        raise TryAgain("failed")

    with pytest.raises(EndpointUnavailable):
        asyncio.run(retried(attempt, RetryBudget(seconds=10, first_wait_s=1), "p", time.waiter()))
    assert seen == [10, 5, 0]  # The last wait is cut to the second that is left.


@given(
    st.integers(1, 8),
    st.floats(0.1, 100),
    st.lists(st.one_of(st.none(), st.floats(0, 1e4)), max_size=12),
)
def test_no_budget_is_ever_exceeded(attempts: int, seconds: float, asked: list[float | None]) -> None:
    time = FakeTime()
    budget = RetryBudget(attempts, seconds)
    try:
        run(time, budget, *[TryAgain("failed", after_s) for after_s in asked])
    except EndpointUnavailable:
        assert asked
    assert len(time.slept) <= attempts - 1
    assert sum(time.slept) <= seconds * (1 + 1e-9)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1.5", 1.5),
        ("120", 120),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        ("Wed, 21 Oct 2099 07:28:00 -0000", 4096250880 - NOW),
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("Wed, 99 Foo 2099", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_seconds_or_nothing(text: str) -> None:
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or 0 <= seconds < float("inf")
