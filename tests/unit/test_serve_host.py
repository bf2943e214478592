"""The task host: one play per id, limits, episodes side by side, and nothing long on the event loop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from envs.crafter.task import CrafterTask
from envs.crafter.terrain import generate
from serve.call_batcher import Answer
from serve.task_host import TaskHost
from synth_ray.core.errors import ConfigError, ConflictError, PolicyError, PrerequisiteError
from synth_ray.core.types import EpisodeSpec, GenerateRequest, Message, Reply, Rollout, Sampling, StopReason, Weights
from synth_ray.rollout.policy import Policy
from synth_ray.rollout.task import Episode

Answers = Callable[[EpisodeSpec, int], Awaitable[str]]


class Scripted:
    def __init__(self, spec: EpisodeSpec, answers: Answers) -> None:
        self._spec, self._answers = spec, answers

    async def reply(self, messages: Sequence[Message], turn: int, episode: Episode) -> Reply:
        return Reply(await self._answers(self._spec, turn))


class Host(TaskHost):
    """Its policy is ``answers``; counts the episodes that it begins."""

    def __init__(self, answers: Answers) -> None:
        super().__init__("grpo-crafter", None)
        self.answers, self.begun = answers, 0

    def _policy(self, spec: EpisodeSpec) -> Policy:
        self.begun += 1
        return Scripted(spec, self.answers)


def spec(rollout_id: str = "a", **changes: Any) -> EpisodeSpec:
    plain = EpisodeSpec(rollout_id, rollout_id, "grpo-crafter", seed=1, model="m", provider="expert", max_turns=3)
    return replace(plain, **changes)


async def at_once(spec: EpisodeSpec, turn: int) -> str:
    return '["noop"]'


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))  # The first world may be compiled first.


def test_the_same_rollout_asked_for_many_times_is_played_once() -> None:
    async def test() -> None:
        async def short(spec: EpisodeSpec, turn: int) -> str:
            await asyncio.sleep(0.005)
            return '["noop"]'

        host = Host(short)
        rollouts = await asyncio.gather(*(host.play(spec()) for _ in range(20)))
        rollouts.append(await host.play(spec()))
        assert host.begun == 1
        assert all(rollout is rollouts[0] for rollout in rollouts)
        with pytest.raises(ConflictError):
            await host.play(spec(seed=2))
        assert (await host.play(spec("b", seed=2))).seed == 2

    run(test)


def test_rollouts_leave_nothing_to_the_garbage_collector() -> None:
    """The replica runs full passes rarely, so a world that only the collector can free would pile up."""

    async def test() -> None:
        host = TaskHost("grpo-crafter", None)

        async def rollouts(name: str) -> None:
            await asyncio.gather(*(host.play(spec(f"{name}-{index}", seed=index)) for index in range(8)))

        await rollouts("warm")
        gc.collect()
        gc.disable()
        try:
            await rollouts("counted")
            assert gc.collect() < 8
        finally:
            gc.enable()

    run(test)


def test_a_failed_rollout_is_played_again() -> None:
    async def test() -> None:
        async def fails_once(spec: EpisodeSpec, turn: int) -> str:
            if host.begun == 1:
                raise PolicyError("gone")
            return '["noop"]'

        host = Host(fails_once)
        assert (await host.play(spec())).stop_reason is StopReason.ERROR
        assert (await host.play(spec())).ok
        assert (await host.play(spec())).ok
        assert host.begun == 2

    run(test)


def test_a_slow_policy_does_not_hold_up_another() -> None:
    async def test() -> None:
        async def one_is_slow(spec: EpisodeSpec, turn: int) -> str:
            await asyncio.sleep(60 if spec.rollout_id == "slow" else 0)
            return '["noop"]'

        host = Host(one_is_slow)
        slow = asyncio.ensure_future(host.play(spec("slow")))
        await asyncio.sleep(0.05)
        rollouts = await asyncio.wait_for(asyncio.gather(*(host.play(spec(str(i))) for i in range(16))), 5)
        assert all(rollout.ok and len(rollout.turns) == 3 for rollout in rollouts)
        assert not slow.done()
        slow.cancel()

    run(test)


def test_policies_that_never_wait_take_turns_and_meet_their_deadline() -> None:
    async def test() -> None:
        order: list[str] = []
        both_there = asyncio.Barrier(2)

        async def busy(spec: EpisodeSpec, turn: int) -> str:
            if turn == 0 and spec.rollout_id in "ab":
                await both_there.wait()
            order.append(spec.rollout_id)
            time.sleep(0.002)
            return '["noop"]'

        host = Host(busy)
        await asyncio.gather(host.play(spec("a", max_turns=20)), host.play(spec("b", max_turns=20)))
        assert sum(one != other for one, other in itertools.pairwise(order)) > 5
        late = await host.play(spec("c", max_turns=1000, deadline_s=0.1))
        assert late.stop_reason is StopReason.DEADLINE
        assert 0 < len(late.turns) < 1000

    run(test)


def test_a_turn_has_a_deadline_of_its_own() -> None:
    async def test() -> None:
        async def hangs_at_turn_1(spec: EpisodeSpec, turn: int) -> str:
            await asyncio.sleep(60 if turn else 0)
            return '["noop"]'

        rollout = await Host(hangs_at_turn_1).play(spec(turn_timeout_s=0.5))
        assert (rollout.stop_reason, len(rollout.turns)) == (StopReason.DEADLINE, 1)
        assert rollout.error == "turn 1 did not end within 0.5 s"
        rollout = await Host(hangs_at_turn_1).play(spec(deadline_s=1.0))
        assert rollout.error == "turn 1 did not end within the episode's 1 s"

    run(test)


def test_worlds_are_made_beside_the_loop_and_one_world_serves_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, informed = CrafterTask.open, CrafterTask.info
    threads: dict[str, set[int]] = {"open": set(), "info": set()}

    def watched_open(task: CrafterTask, seed: int, config: Mapping[str, Any], max_turns: int) -> Any:
        threads["open"].add(threading.get_ident())
        return opened(task, seed, config, max_turns)

    def watched_info(task: CrafterTask, seeds: Sequence[int] = ()) -> dict[str, Any]:
        threads["info"].add(threading.get_ident())
        assert len(seeds) == 1
        return informed(task, seeds)

    monkeypatch.setattr(CrafterTask, "open", watched_open)
    monkeypatch.setattr(CrafterTask, "info", watched_info)

    async def test() -> None:
        host = Host(at_once)
        made_before = generate.cache_info().misses
        infos, *_ = await asyncio.gather(
            host.seed_infos([7001, 7002]), *(host.play(spec(str(i), seed=7003)) for i in range(8))
        )
        assert [info["seeds"][0]["seed"] for info in infos] == [7001, 7002]
        assert generate.cache_info().misses - made_before == 3
        assert len(threads["open"] | threads["info"]) == 1
        assert threading.get_ident() not in threads["open"]

    run(test)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_turns": 1001},
        {"max_turns": 0},
        {"sampling": Sampling(max_tokens=1_000_000)},
        {"deadline_s": 1e9},
        {"deadline_s": 0.0},
        {"deadline_s": float("nan")},
        {"turn_timeout_s": -1.0},
        {"env_config": {"max_actions_per_turn": 10_000}},
    ],
)
def test_limits_of_one_rollout(wrong: dict[str, Any]) -> None:
    async def test() -> None:
        name = next(iter(wrong))
        with pytest.raises(ConfigError, match="max_actions" if name == "env_config" else name):
            await TaskHost("grpo-crafter", None).play(spec(**wrong))

    run(test)


def test_without_an_engine_the_answer_says_so() -> None:
    async def test() -> None:
        asked = spec(provider="engine", weights=Weights("some/dir", "digest"))
        with pytest.raises(PrerequisiteError, match="no engine"):
            await TaskHost("grpo-crafter", None).play(asked)

    run(test)


def test_an_engine_rollout_reaches_the_engine_and_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from serve import task_host

    class Chat:
        def prompt_ids(self, messages: Sequence[Message], thinking: bool | None = None) -> tuple[int, ...]:
            return (1, 2) if thinking is None else (1, 2, int(thinking))

        def text(self, token_ids: Sequence[int]) -> str:
            return '["noop"]'

    monkeypatch.setattr(task_host, "_chat", lambda weights: Chat())

    async def test() -> None:
        from synth_ray.core.types import GenerateResult

        calls: list[GenerateRequest] = []

        async def generate(requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
            calls.extend(requests)
            return [GenerateResult((3,), (-1.0,), "stop", "base", "digest") for _ in requests]

        host = TaskHost("grpo-crafter", generate)
        asked = spec(provider="engine", weights=Weights("some/dir", "digest"))
        first: Rollout = await host.play(asked)
        second = await host.play(asked)
        assert first.ok and second.ok and first is not second
        assert [call.prompt_ids for call in calls] == [(1, 2)] * 6
        await host.play(replace(asked, thinking=False))
        assert calls[-1].prompt_ids == (1, 2, 0)

    run(test)
