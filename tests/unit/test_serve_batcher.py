"""Calls that travel together: nobody gets another's answer, nobody waits for ever."""

import asyncio
from collections.abc import Sequence

import pytest

from serve.call_batcher import Answer, CallBatcher
from synth_ray.core.errors import AdapterMissing, PolicyError
from synth_ray.core.types import GenerateRequest, GenerateResult, Sampling, Weights


def request(name: str) -> GenerateRequest:
    return GenerateRequest(name, (1,), Weights("dir", "digest"), Sampling())


def result(name: str) -> GenerateResult:
    return GenerateResult((1,), (-1.0,), "stop", name, "digest")


def test_requests_of_one_moment_share_calls_of_at_most_the_limit() -> None:
    calls: list[int] = []

    async def send_many(requests: Sequence[GenerateRequest]) -> list[Answer]:
        calls.append(len(requests))
        await asyncio.sleep(0)
        return [result(one.request_id) for one in requests]

    async def main() -> None:
        batcher = CallBatcher(send_many, 4)
        answers = await asyncio.gather(*(batcher(request(str(index))) for index in range(10)))
        assert [answer.weights_name for answer in answers] == [str(index) for index in range(10)]

    asyncio.run(main())
    assert calls == [4, 4, 2]


def test_an_error_reaches_its_own_request_only() -> None:
    async def send_many(requests: Sequence[GenerateRequest]) -> list[Answer]:
        return [AdapterMissing("gone") if one.request_id == "bad" else result(one.request_id) for one in requests]

    async def main() -> None:
        batcher = CallBatcher(send_many, 8)
        good, bad = await asyncio.gather(batcher(request("good")), batcher(request("bad")), return_exceptions=True)
        assert isinstance(good, GenerateResult)
        assert isinstance(bad, AdapterMissing)

    asyncio.run(main())


def test_a_lost_call_is_told_to_all_and_a_cancelled_caller_harms_nobody() -> None:
    async def send_many(requests: Sequence[GenerateRequest]) -> list[Answer]:
        await asyncio.sleep(0.01)
        raise RuntimeError("no such application")

    async def main() -> None:
        batcher = CallBatcher(send_many, 8)
        cancelled = asyncio.ensure_future(batcher(request("a")))
        waiting = asyncio.ensure_future(batcher(request("b")))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(PolicyError, match="no such application"):
            await asyncio.wait_for(waiting, 5)

    asyncio.run(main())
