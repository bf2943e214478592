"""Work that is done once per id: joined, kept, in conflict, tried again, abandoned, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve.once import Keeping, OncePerId
from synth_ray.core.errors import ConflictError


class Work:
    """Counts its executions; ``gate`` holds them up, ``results`` are handed out in turn."""

    def __init__(self, *results: Any) -> None:
        self.started, self.cancelled = 0, 0
        self.gate = asyncio.Event()
        self._results = list(results) or ["result"]

    async def __call__(self) -> Any:
        result = self._results[min(self.started, len(self._results) - 1)]
        self.started += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(result, Exception):
            raise result
        return result

    def open(self) -> Work:
        self.gate.set()
        return self


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_callers_of_one_id_share_one_execution() -> None:
    async def test() -> None:
        once, work = OncePerId[str, Any](lambda request, result: True), Work("first", "second")
        callers = [asyncio.ensure_future(once.run("a", "request", work)) for _ in range(50)]
        await settled()
        work.open()
        assert await asyncio.gather(*callers) == ["first"] * 50
        assert await once.run("a", "request", work) == "first"
        assert await once.run("b", "request", work) == "second"
        assert work.started == 2

    run(test)


def test_another_request_under_an_id_in_use_is_a_conflict() -> None:
    async def test() -> None:
        once, work = OncePerId[str, Any](lambda request, result: True), Work()
        running = asyncio.ensure_future(once.run("a", "request", work))
        await settled()
        with pytest.raises(ConflictError, match="'a'"):
            await once.run("a", "other", work)
        work.open()
        await running
        with pytest.raises(ConflictError, match="'a'"):
            await once.run("a", "other", work)

    run(test)


def test_what_failed_or_is_not_worth_keeping_is_done_again() -> None:
    async def test() -> None:
        once = OncePerId[str, Any](lambda request, result: result != "poor")
        work = Work(ValueError("broken"), "poor", "good", "never").open()
        together = [once.run("a", "request", work) for _ in range(3)]
        failures = await asyncio.gather(*together, return_exceptions=True)
        assert [type(failure) for failure in failures] == [ValueError] * 3
        assert [await once.run("a", "request", work) for _ in range(3)] == ["poor", "good", "good"]
        assert await once.run("b", "other", Work("poor").open()) == "poor"
        assert await once.run("b", "changed", Work("fine").open()) == "fine"

    run(test)


def test_results_are_kept_for_a_while_and_in_a_bounded_number() -> None:
    async def test() -> None:
        now = 0.0
        once = OncePerId[int, Any](lambda request, result: True, Keeping(results=3, result_s=60), lambda: now)
        work = Work().open()
        for number in range(5):
            await once.run(str(number), number, work)
        started = work.started
        for number in (4, 3, 2):
            await once.run(str(number), number, work)
        assert work.started == started
        await once.run("0", 0, work)
        assert work.started == started + 1
        now = 61.0
        await once.run("4", 4, work)
        assert work.started == started + 2

    run(test)


def test_a_caller_that_leaves_harms_nobody_and_its_work_is_there_for_the_next() -> None:
    async def test() -> None:
        once, work = OncePerId[str, Any](lambda request, result: True), Work()
        first, second = (asyncio.ensure_future(once.run("a", "request", work)) for _ in range(2))
        await settled()
        first.cancel()
        await settled()
        assert not second.done()
        second.cancel()
        await settled()
        third = asyncio.ensure_future(once.run("a", "request", work))
        await settled()
        work.open()
        assert await third == "result"
        assert (work.started, work.cancelled) == (1, 0)

    run(test)


def test_abandoned_work_is_cancelled_in_the_end_and_its_id_is_free() -> None:
    async def test() -> None:
        once, work = OncePerId[str, Any](lambda request, result: True, Keeping(abandoned_s=0.01)), Work()
        caller = asyncio.ensure_future(once.run("a", "request", work))
        await settled()
        caller.cancel()
        await asyncio.sleep(0.05)
        assert work.cancelled == 1
        assert await once.run("a", "other", Work("new").open()) == "new"

    run(test)


def test_who_leaves_a_second_time_leaves_as_much_time_again() -> None:
    async def test() -> None:
        once, loop = (
            OncePerId[str, Any](lambda request, result: True, Keeping(abandoned_s=0.3)),
            asyncio.get_running_loop(),
        )
        cancelled_at: asyncio.Future[float] = loop.create_future()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cancelled_at.set_result(loop.time())

        for stays_s in (0.01, 0.2):
            caller = asyncio.ensure_future(once.run("a", "request", work))
            await asyncio.sleep(stays_s)
            caller.cancel()
            left_at = loop.time()
            await settled()
        assert await cancelled_at - left_at > 0.29

    run(test)


def test_nobody_joins_what_is_being_cancelled() -> None:
    async def test() -> None:
        once, tidied = OncePerId[str, Any](lambda request, result: True, Keeping(abandoned_s=0.0)), asyncio.Event()

        async def slow_to_end() -> str:
            try:
                await asyncio.sleep(60)
            finally:
                await tidied.wait()
            return "never"

        caller = asyncio.ensure_future(once.run("a", "request", slow_to_end))
        await settled()
        caller.cancel()
        await asyncio.sleep(0.01)
        assert await once.run("a", "request", Work("new").open()) == "new"
        tidied.set()
        await settled()
        assert await once.run("a", "request", Work("newer").open()) == "new"

    run(test)


def test_the_number_of_abandoned_executions_is_bounded() -> None:
    async def test() -> None:
        once, work = OncePerId[str, Any](lambda request, result: True, Keeping(abandoned=2, abandoned_s=60)), Work()
        callers = [asyncio.ensure_future(once.run(str(number), "request", work)) for number in range(5)]
        await settled()
        for caller in callers:
            caller.cancel()
        await settled()
        assert work.cancelled == 3

    run(test)
