"""The quickstart's sequence of stages; what can run side by side does."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_ray.cli import verbs
from synth_ray.cli.output import data, say, scores_table
from synth_ray.cli.progress import Stages
from synth_ray.cli.starts import Start
from synth_ray.cli.train_verbs import check_name_is_free
from synth_ray.core.config import set_text
from synth_ray.core.errors import ConflictError
from synth_ray.core.paths import Home, find_home
from synth_ray.records.runs import unique_name
from synth_ray.runtime import cluster as local
from synth_ray.runtime.job_client import JobClient, Submitted

_SEEDS_PER_RUN = 1000
_FIRST_TRAIN_SEED = 200_000
_MEMORY_EVERY_S = 5.0


@dataclass(frozen=True)
class Choices:
    """The options of the verb."""

    seed: int
    start: Start
    steps: int | None
    run_name: str
    keep: bool
    sets: tuple[str, ...]
    env_file: Path
    port: int
    as_json: bool


def run_quickstart(choices: Choices) -> None:
    """Runs every stage and prints what came out; stops the cluster that it started, whatever happens."""
    begun = time.monotonic()
    choices.start.check()
    home, stages = find_home(), Stages()
    if choices.run_name:
        _check_name(home, choices.run_name)
    with stages.stage("start", "a Ray head on 127.0.0.1, with token authentication"):
        cluster, new = verbs.ensure_cluster(home, choices.env_file, choices.port)
    memory = _PeakMemory(cluster)
    try:
        outcome = _Pipeline(choices, home, stages, verbs.client(home, choices.env_file)).run()
    finally:
        peak_bytes = memory.stop()
        if new and not choices.keep:
            with stages.stage("stop", "everything that was started"):
                local.stop(home)
    outcome |= {
        "stages": [{"name": name, "seconds": seconds} for name, seconds in stages.seconds.items()],
        "wall_s": round(time.monotonic() - begun, 1),
        "engine_first_call_s": stages.ended_s["engine"],
        "peak_memory_bytes": peak_bytes,
    }
    _print(outcome, choices)


def _check_name(home: Home, name: str) -> None:
    """Raises ConfigError or ConflictError if anything of the pipeline could not have that name."""
    check_name_is_free(home, name, False)
    for path in (_trace_db(home, name), _data(home, name)):
        if path.exists():
            raise ConflictError(f"the name {name!r} is in use: there is {path}", "choose another --run-name")


def _trace_db(home: Home, name: str) -> Path:
    return home.traces / f"{name}.db"


def _data(home: Home, name: str) -> Path:
    return home.data / f"{name}.jsonl"


class _Pipeline:
    """One pass through the stages."""

    def __init__(self, choices: Choices, home: Home, stages: Stages, jobs: JobClient) -> None:
        self._choices, self._home, self._stages, self._jobs = choices, home, stages, jobs
        self._config = choices.start.config
        self._run_name = choices.run_name or unique_name("quickstart")
        self._trace_db = _trace_db(home, self._run_name)
        self._data = _data(home, self._run_name)
        self._running: list[Submitted] = []

    def run(self) -> dict[str, Any]:
        """Engine start and data collection run side by side, and so do the first evaluation and the start of RL."""
        pool = ThreadPoolExecutor(4)
        try:
            return self._stages_in_order(pool)
        except BaseException:
            self._stop_jobs()
            raise
        finally:
            # Threads of stopped jobs end by themselves; waiting for them here would only delay the clean-up.
            pool.shutdown(wait=False, cancel_futures=True)

    def _stages_in_order(self, pool: ThreadPoolExecutor) -> dict[str, Any]:
        engine = pool.submit(self._deploy)
        self._first(engine, pool.submit(self._collect))
        with self._stages.stage("filter", "traces into a fine-tuning file"):
            filtered = verbs.run_filter(self._home, [self._config("filter")], self._filter_sets())
        self._stages.line("filter", f"{filtered['lines']} lines of {filtered['episodes_kept']} episodes")
        tuned = pool.submit(self._train_sft)
        sft_model = self._first(engine, tuned)["model"]
        engine.result()
        before = pool.submit(self._evaluate, "evaluate sft", sft_model)
        trained = pool.submit(self._train_rl, sft_model)
        self._first(before, trained)
        after = self._evaluate("evaluate rl", trained.result()["model"])
        return self._outcome(before.result(), trained.result(), after)

    def _deploy(self) -> dict[str, Any]:
        what = "vLLM and the task app on Ray Serve"
        return self._job("engine", what, "deploy", [self._config("deploy")])

    def _collect(self) -> dict[str, Any]:
        first = _FIRST_TRAIN_SEED + _SEEDS_PER_RUN * self._choices.seed
        seeds = f"{first}-{first + self._choices.start.episodes - 1}"
        sets = [set_text("eval.seeds", seeds), set_text("eval.trace_db", self._trace_db)]
        return self._job("collect", "teacher rollouts by the scripted expert", "eval", [self._config("collect")], sets)

    def _train_sft(self) -> dict[str, Any]:
        sets = [set_text("job.data", self._data), f"hyperparameters.seed={self._choices.seed}"]
        return self._job("fine-tune", "all weights (Ray Train)", "sft", [self._config("sft")], sets)

    def _evaluate(self, stage: str, model: str) -> dict[str, Any]:
        sets = [set_text("eval.model", model), set_text("eval.trace_db", self._trace_db)]
        return self._job(stage, f"{model} on held-out seeds", "eval", [self._config("eval")], sets)

    def _train_rl(self, model: str) -> dict[str, Any]:
        own = [set_text("model.source", model), f"training.seed={self._choices.seed}"]
        steps = [f"training.iterations={self._choices.steps}"] if self._choices.steps else []
        return self._job("rl", "steps with LoRA", "rl", [self._config("rl")], [*own, *steps, *self._choices.sets])

    def _job(
        self, stage: str, what: str, kind: str, configs: list[Path], sets: list[str] | None = None
    ) -> dict[str, Any]:
        with self._stages.stage(stage, what) as on_event:
            job = self._jobs.submit(kind, configs, sets or [], self._run_name if kind == "rl" else "")
            self._running.append(job)
            result = self._jobs.wait(job, on_event)
            self._running.remove(job)
            return {"job_id": job.job_id, **result}

    def _first(self, *futures: Future[dict[str, Any]]) -> dict[str, Any]:
        """The result of the last one, unless another one fails before."""
        wanted = futures[-1]
        while not wanted.done():
            for future in futures[:-1]:
                if future.done():
                    future.result()
            time.sleep(0.1)
        return wanted.result()

    def _stop_jobs(self) -> None:
        for job in list(self._running):
            self._jobs.stop(job)

    def _filter_sets(self) -> list[str]:
        return [
            set_text("filter.db", self._trace_db),
            set_text("filter.output", self._data),
            f"filter.shuffle_seed={self._choices.seed}",
        ]

    def _outcome(self, sft: Mapping[str, Any], rl: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "batch_rewards": rl["batch_rewards"],
            "eval": {"sft": dict(sft), "rl": dict(after)},
            "run_dir": rl["run_dir"],
            "adapter": rl["adapter"],
            "model": rl["model"],
            "start": self._choices.start.name,
            "trace_db": str(self._trace_db),
            "data": str(self._data),
        }


class _PeakMemory:
    """Samples the memory of everything that belongs to the cluster."""

    def __init__(self, cluster: local.LocalCluster) -> None:
        self._cluster = cluster
        self._peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak so far; stops sampling."""
        self._stopped.set()
        return self._peak_bytes

    def _sample(self) -> None:
        while not self._stopped.wait(_MEMORY_EVERY_S):
            self._peak_bytes = max(self._peak_bytes, local.memory_bytes(self._cluster.processes()))


def _print(outcome: Mapping[str, Any], choices: Choices) -> None:
    scores = outcome["eval"]
    say("")
    say(scores_table([scores["sft"], scores["rl"]]))
    say("")
    say(f"The start was {choices.start.text}.")
    say("")
    for name, path in (
        ("run", outcome["run_dir"]),
        ("adapter", outcome["adapter"]),
        ("traces", outcome["trace_db"]),
        ("fine-tuning data", outcome["data"]),
    ):
        say(f"{name:<17} {path}")
    say(f"{'wall time':<17} {outcome['wall_s']:.0f} s")
    say(f"{'first engine call':<17} {outcome['engine_first_call_s']:.0f} s after the start")
    say(f"{'peak memory':<17} {outcome['peak_memory_bytes'] / 2**30:.2f} GiB (PSS of all processes together)")
    say("")
    say("Try next:")
    # Called through `make`, the program is not on the PATH.
    program = "synth-ray" if shutil.which("synth-ray") else sys.argv[0]
    folder = f"configs/{choices.start.folder}"
    for arguments in (
        "status models",
        "replay best --out best.gif",
        f"deploy grpo-crafter -c {folder}/deploy.toml --model {scores['sft']['model']}",
        f"eval grpo-crafter -c {folder}/eval.toml --model {outcome['model']}",
        "quickstart --start strong",
    ):
        say(f"  {program} {arguments}")
    say("")
    say(f"All batch rewards: {outcome['batch_rewards']}")
    if choices.as_json:
        data(json.dumps(outcome))
