"""What an eval config asks the task app to play."""

from types import SimpleNamespace
from typing import Any

from jobs.eval import _specs
from synth_ray.core.config import validate
from synth_ray.core.sections import EvalConfig
from synth_ray.core.types import RewardSpec


def specs(env_config: dict[str, Any]) -> Any:
    section = {"model": "expert", "provider": "expert", "seeds": "3", "env_config": env_config}
    job: Any = SimpleNamespace(
        config=validate(EvalConfig, {"eval": section}), job_id="job_1", name="job_1", resume=False
    )
    (spec,) = _specs(job, None)
    return spec


def test_step_rewards_reach_the_ledger_and_not_the_world() -> None:
    block = {"enabled": True, "mode": "decision_stepwise", "strategy": "complex", "indicator_lambda": 0.5}
    spec = specs({"renderer": "compact", "step_rewards": block})
    assert spec.rewards == RewardSpec("per_achievement", 0.5)
    assert spec.env_config == {"renderer": "compact"}
    assert specs({}).rewards == RewardSpec("outcome")
