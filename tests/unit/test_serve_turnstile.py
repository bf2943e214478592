"""The turnstile: one per round, in order, and nobody is forgotten."""

from __future__ import annotations

import asyncio

from serve.turnstile import Turnstile


async def rounds(count: int) -> list[int]:
    """The number of the loop's round in which each of ``count`` was let in."""
    turnstile, now, entered = Turnstile(), 0, []

    async def one() -> None:
        await turnstile.enter()
        entered.append(now)

    tasks = [asyncio.ensure_future(one()) for _ in range(count)]
    while not all(task.done() for task in tasks):
        now += 1
        assert now < 10 * count
        await asyncio.sleep(0)
    return entered


def test_a_crowd_enters_one_per_round() -> None:
    entered = asyncio.run(rounds(20))
    assert len(set(entered)) == 20
    assert entered == sorted(entered)


def test_who_gives_up_does_not_hold_up_the_others() -> None:
    async def crowd() -> list[int]:
        turnstile, entered = Turnstile(), []

        async def one(number: int) -> None:
            await turnstile.enter()
            entered.append(number)

        tasks = [asyncio.ensure_future(one(number)) for number in range(6)]
        await asyncio.sleep(0)
        for number in (0, 1, 4, 5):
            tasks[number].cancel()
        async with asyncio.timeout(2):
            await asyncio.wait(tasks)
            await one(6)
        return entered

    assert asyncio.run(crowd()) == [2, 3, 6]
