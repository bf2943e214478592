"""Runs in the old client's own environment: its SDK, unmodified, against our task app. Prints one line per check.

Arguments: URL of the task app, URL of the model. The key is in ENVIRONMENT_API_KEY.
"""

import asyncio
import os
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from synth_ai.task.client import TaskAppClient
from synth_ai.task.contracts import (
    RolloutEnvSpec,
    RolloutMode,
    RolloutPolicySpec,
    RolloutRecordConfig,
    RolloutRequest,
    RolloutResponse,
)
from synth_ai.task.validators import validate_rollout_response_for_rl, validate_task_app_endpoint

URL, MODEL_URL = sys.argv[1:3]
KEY = os.environ["ENVIRONMENT_API_KEY"]
Check = Callable[[TaskAppClient], Awaitable[Any]]


def request(mode: RolloutMode, config: dict[str, Any], trace_format: str = "structured") -> RolloutRequest:
    return RolloutRequest(
        run_id=f"old-{uuid.uuid4()}",
        env=RolloutEnvSpec(env_name="crafter", seed=3),
        policy=RolloutPolicySpec(policy_name="crafter-react", config=config),
        ops=["agent", "env"] * 3,
        record=RolloutRecordConfig(return_trace=True, trace_format=trace_format),
        mode=mode,
    )


async def health(client: TaskAppClient) -> None:
    assert (await client.health())["healthy"]


async def info(client: TaskAppClient) -> None:
    data = await client.info()
    assert isinstance(data["dataset"], dict) and isinstance(data["limits"], dict)


async def task_info(client: TaskAppClient) -> None:
    one = await client.task_info([0])
    assert one.environment == "crafter"  # type: ignore[union-attr]
    several = await client.task_info([0, 1, 2])
    assert [each.dataset.seed for each in several] == [0, 1, 2]  # type: ignore[union-attr]


async def environment(client: TaskAppClient) -> None:
    env = await client.env.initialize("CrafterClassic", {"seed": 3, "config": {}})
    action = {"tool_calls": [{"tool": "interact", "args": {"action": "move_left"}}]}
    stepped = await client.env.step("CrafterClassic", {"env_id": env["env_id"], "action": action})
    assert stepped["done"] is False and stepped["step_idx"] == 1
    assert await client.env.terminate("CrafterClassic", {"env_id": env["env_id"]}) == {"ok": True}


async def expert_rollout(client: TaskAppClient) -> None:
    played = await client.rollout(request(RolloutMode.EVAL, {"provider": "expert"}))
    check_rl(played)


async def rl_rollout(client: TaskAppClient) -> None:
    config = {"inference_url": f"{MODEL_URL}?cid=trace_old_1", "model": "fake", "temperature": 0.6}
    played = await client.rollout(request(RolloutMode.RL, config))
    check_rl(played)
    assert played.trace_correlation_id == "trace_old_1"
    assert played.trajectories[0].steps[0].tool_calls[0]["arguments"] == {"actions": ["move_right", "do"]}
    assert played.trace and len(played.trace["session_time_steps"]) == 3


async def compact_trace(client: TaskAppClient) -> None:
    config = {"inference_url": MODEL_URL, "model": "fake"}
    played = await client.rollout(request(RolloutMode.EVAL, config, "compact"))
    assert played.trace and played.trace["lm_calls"][0]["total_tokens"] == 40


async def rotated_keys(client: TaskAppClient) -> None:
    """In the middle of a rotation, the client sends old and new keys together."""
    os.environ["ENVIRONMENT_API_KEY_ALIASES"] = "the-next-key,another-one"
    try:
        await client.health()
    finally:
        del os.environ["ENVIRONMENT_API_KEY_ALIASES"]


async def wrong_key(client: TaskAppClient) -> None:
    async with TaskAppClient(URL, "wrong") as stranger:
        try:
            await stranger.health()
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 401
            return
    raise AssertionError("a wrong key was accepted")


async def validator(client: TaskAppClient) -> None:
    passed, report = await validate_task_app_endpoint(URL, KEY)
    assert passed, report


def check_rl(played: RolloutResponse) -> None:
    assert validate_rollout_response_for_rl(played.model_dump()) == []
    assert played.metrics.num_steps == len(played.trajectories[0].steps) == 3


CHECKS: list[Check] = [
    health,
    info,
    task_info,
    environment,
    expert_rollout,
    rl_rollout,
    compact_trace,
    rotated_keys,
    wrong_key,
    validator,
]


async def main() -> int:
    failed = 0
    async with TaskAppClient(URL, KEY) as client:
        for check in CHECKS:
            try:
                await check(client)
                print(f"ok    {check.__name__}")
            except Exception as error:
                failed += 1
                print(f"FAIL  {check.__name__}: {type(error).__name__}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
