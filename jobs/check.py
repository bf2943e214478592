"""Whether task, rewards and rubrics are what a config takes them for.

Needs neither keys nor a cluster; the CLI starts it for `--dry-run`.

    python -m jobs.check eval --config configs/quickstart/eval.toml

The last line on stdout is one JSON object: {"ok": true, "result": {...}} or {"ok": false, "error": {...}, "exit_code"}.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.answer import answered
from synth_ray.core.config import load_config
from synth_ray.core.paths import find_home, import_also_from, numba_cache
from synth_ray.core.sections import Eval, EvalConfig, RLConfig
from synth_ray.rollout.judge.rubric_file import judged_rubrics
from synth_ray.rollout.prices import price_list
from synth_ray.rollout.step_rewards import find_step_rewards, reward_spec_from_block, without_step_rewards
from synth_ray.rollout.task import Task
from synth_ray.runtime.batching import reward_spec
from synth_ray.runtime.judging import rl_rubrics


def check_eval(config: Eval) -> None:
    """Raises the task's own error for an env config or a teacher that it does not know; looks at rubrics too."""
    teacher = config.model if config.provider == "expert" else ""
    _check(config.app_id, config.env_config, config.max_turns, teacher, config.policy_config.teacher)
    for judge in config.judges:
        judged_rubrics(judge)


def check_rl(config: RLConfig) -> None:
    """Raises the task's own error for an env config that it does not know, and what rewards and rubrics lack."""
    task = _check(config.rollout.env_name, config.rollout.env_config, config.rollout.max_turns)
    price_list(reward_spec(config), task.prices)
    rl_rubrics(config)


def _check(
    app_id: str,
    env_config: Mapping[str, Any],
    max_turns: int,
    teacher: str = "",
    dials: Mapping[str, Any] | None = None,
) -> Task:
    """A task checks its settings wherever they enter, so that no world must be made for it."""
    from envs.registry import get_task

    task = get_task(app_id)
    reward_spec_from_block(find_step_rewards(env_config))
    task.tools(without_step_rewards(env_config))
    if teacher:
        task.teacher(teacher, dials or {}, 0, max_turns)
    return task


def main() -> int:
    """Checks as the arguments say and prints the answer."""
    parser = argparse.ArgumentParser(prog="python -m jobs.check")
    parser.add_argument("kind", choices=["eval", "rl"])
    parser.add_argument("--config", type=Path, action="append", default=[], help="TOML; later files win")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--project", type=Path, default=None, help="where a task of one's own is")
    arguments = parser.parse_args()
    os.environ.setdefault("NUMBA_CACHE_DIR", str(numba_cache()))  # read when the world is imported
    import_also_from(find_home(arguments.project).project)

    def work() -> dict[str, Any]:
        if arguments.kind == "eval":
            check_eval(load_config(EvalConfig, arguments.config, arguments.set).config.eval)
        else:
            check_rl(load_config(RLConfig, arguments.config, arguments.set).config)
        return {}

    return answered(work)


if __name__ == "__main__":
    sys.exit(main())
