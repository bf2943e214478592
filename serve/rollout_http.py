"""`POST /rollout`: one episode per request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from serve.connection import ClientGone, while_connected
from serve.http_errors import responses
from serve.http_json import AsciiJson
from serve.http_keys import keyed
from serve.rollout_store import RolloutStore
from serve.task_host import TaskHost
from serve.turnstile import Turnstile
from synth_ray.core.errors import DeadlineError, PolicyError
from synth_ray.core.types import Rollout, StopReason
from synth_ray.rollout.contract import RolloutPlan, RolloutRequest, rollout_plan
from synth_ray.rollout.contract_response import RolloutResponse, StepwiseReport, rollout_response
from synth_ray.rollout.remote.request import offered_tools
from synth_ray.rollout.stepwise import decision_rewards, decision_samples, rollout_stepwise, stepwise_details

_DECLARED: dict[str, Any] = {
    "response_model": RolloutResponse,
    "response_class": AsciiJson,
    "dependencies": [Depends(keyed)],
    "responses": responses(404, 409, 502, 503, 504, body=True),
}

_NOBODY_READS_IT = 499


def rollout_router(host: TaskHost, turnstile: Turnstile, store: RolloutStore | None = None) -> APIRouter:
    """The route that plays; what ran to a regular end is in ``store`` before it is answered."""
    router = APIRouter()

    @router.post("/rollout", **_DECLARED)
    async def rollout(body: RolloutRequest, request: Request) -> Response:
        """Plays one episode and answers when it has ended.

        Who plays is a teacher of the task (`policy.config.provider`) or an OpenAI-compatible model
        (`policy.config.inference_url` and `model`). An episode that ended early is in the answer, with `aborted` set;
        one that could not even begin is a 502 or 504.
        """
        plan = rollout_plan(body, host.task.name, host.task.teachers)
        spec = host.accepted(plan.spec)
        if store:
            await run_in_threadpool(store.check, spec)
        try:
            played = await while_connected(host.play(spec), request.receive)
        except ClientGone:
            return Response(status_code=_NOBODY_READS_IT)
        _check_played(played)
        if store and played.ok:  # Another one may be played again under its id, and an id is kept once.
            await run_in_threadpool(store.add, spec, played, offered_tools(spec, host.task))
        await turnstile.enter()
        return AsciiJson(rollout_response(played, body, plan, _stepwise(played, plan)).model_dump())

    return router


def _stepwise(rollout: Rollout, plan: RolloutPlan) -> StepwiseReport | None:
    """What the step rewards were made of, if the plan has any."""
    if not plan.spec.rewards.stepwise:
        return None
    rewards = plan.spec.rewards
    return StepwiseReport(
        rollout_stepwise(rollout, rewards),
        decision_samples(rollout, rewards),
        decision_rewards(rollout),
        stepwise_details(rollout, rewards),
    )


def _check_played(rollout: Rollout) -> None:
    if rollout.turns:
        return
    if rollout.stop_reason is StopReason.DEADLINE:
        raise DeadlineError(rollout.error or "no turn ended in time", "raise safety.max_time_s")
    if rollout.stop_reason is StopReason.ERROR:
        raise PolicyError(rollout.error or "the policy gave no answer", "see policy.config.inference_url and model")
