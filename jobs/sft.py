"""Supervised fine-tuning of a model on a data set; registers the result.

python -m jobs.sft --config configs/quickstart/sft_weak.toml

A run that was stopped goes on from its last checkpoint when it is submitted again under the same name.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from jobs.runner import Job, run_job
from serve.models import Resolved, as_base, resolve
from synth_ray.core.errors import ConflictError, NotFoundError, SynthRayError
from synth_ray.core.hashing import sha256_file
from synth_ray.core.paths import Home
from synth_ray.core.sft_sections import SFTConfig
from synth_ray.learn.adapter_files import adapter_weights_file
from synth_ray.learn.model_files import base_digest
from synth_ray.records.disk import temporary_name
from synth_ray.records.metrics import last_row
from synth_ray.records.publish import publishing
from synth_ray.records.registry import Model
from synth_ray.records.runs import RunDir, run_names
from synth_ray.records.uploads import is_file_id, stored
from synth_ray.runtime.devices import Plan, check_four_bit, plan
from synth_ray.runtime.job_client import rebuild
from synth_ray.runtime.placement import check_gpus
from synth_ray.runtime.sft_trainer import SftTask, fine_tune
from synth_ray.runtime.trainer import fit

_POLL_S = 0.3
_PREFIX = {"fft": "fft", "lora": "peft", "qlora": "peft"}


def work(job: Job[SFTConfig]) -> Mapping[str, Any]:
    """Trains, publishes the model or adapter folder, registers it."""
    config = located(job.config, job.resolved.base_dir, job.home)
    devices = plan(config.compute)
    if config.algorithm.variety == "qlora":
        check_four_bit(devices.trainer)
    check_gpus(devices, ray.cluster_resources())
    base = as_base(resolve(config.job.model, job.home, job.registry), job.home)
    run = open_run(job, config, base)
    with run.attempt(job.job_id):
        result = _train(job, config, run, base, devices)
    # The model is safe; what only a resumption would have needed is as large as the model, or three times so.
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    return result


def located(config: SFTConfig, config_dir: Path, home: Home) -> SFTConfig:
    """The configuration with absolute paths of its data files; an upload's id stands for its copy."""

    def path_of(text: str) -> str:
        return str(stored(home, text)[1] if is_file_id(text) else find_data(text, config_dir, home.project))

    data = {"data": path_of(config.job.data)}
    changes: dict[str, Any] = {"job": config.job.model_copy(update=data)}
    if config.data.validation_path:
        validation = {"validation_path": path_of(config.data.validation_path)}
        changes["data"] = config.data.model_copy(update=validation)
    return config.model_copy(update=changes)


def find_data(text: str, config_dir: Path, project: Path) -> Path:
    """The data set: absolute, else relative to the config file, to the working directory, or to the project."""
    folders = dict.fromkeys((config_dir.resolve(), Path.cwd(), project.resolve()))
    candidates = [Path(text)] if Path(text).is_absolute() else [folder / text for folder in folders]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    looked = ", ".join(str(path) for path in candidates)
    raise NotFoundError(f"no data set {text!r} (looked at {looked})", "make one with: synth-ray filter --config ...")


def open_run(job: Job[SFTConfig], config: SFTConfig, base: Resolved) -> RunDir:
    """The run's folder: new, or that of a run of the same name, configuration, data and base that did not succeed."""
    values = config.model_dump(mode="json")
    paths = filter(None, (config.job.data, config.data.validation_path))
    about = {"base_digest": base.weights.base_digest, "data_sha256": [sha256_file(Path(path)) for path in paths]}
    if job.name not in run_names(job.home.runs):
        return RunDir.create(job.home.runs, job.name, values, dict(job.resolved.sources), about)
    run = RunDir.resume(job.home.runs, job.name, values)
    changed = sorted(key for key, value in about.items() if run.record().about.get(key) != value)
    if changed:
        raise ConflictError(
            f"the files behind run {job.name!r} have changed since it began: {', '.join(changed)}",
            "put them back, or choose another --run-name",
        )
    return run


def _train(job: Job[SFTConfig], config: SFTConfig, run: RunDir, base: Resolved, devices: Plan) -> Mapping[str, Any]:
    target = job.home.models / job.job_id
    about = {"job_id": job.job_id, "base": base.ref, "base_digest": base.weights.base_digest}
    with publishing(target, about) as folder:
        failure = job.files.folder / "failure.json"
        task = SftTask(config, base.weights.base_dir, str(run.path), str(folder), str(failure))
        job.report("wait", note="the trainer to start")
        storage = temporary_name(job.home.state / "train")
        try:
            metrics = _fit_watched(job, task, devices, storage)
        finally:
            shutil.rmtree(storage, ignore_errors=True)
    model = _model(job, config, base, target, metrics)
    job.registry.add_model(model)
    found = {"model": model.model_id, "path": str(target), "digest": model.digest, "run_dir": str(run.path)}
    return {**found, "data": config.job.data, **metrics}


def _model(job: Job[SFTConfig], config: SFTConfig, base: Resolved, target: Path, metrics: Mapping[str, float]) -> Model:
    variety = config.algorithm.variety
    model_id = f"{_PREFIX[variety]}:{base.root}:{job.job_id}"
    if variety == "fft":
        return Model(model_id, base.ref, "full", str(target), base_digest(target), job.job_id, metrics=metrics)
    return Model(
        model_id,
        base.ref,
        "adapter",
        str(target),
        sha256_file(adapter_weights_file(target)),
        job.job_id,
        base_path=base.weights.base_dir,
        metrics={**metrics, "base_digest": base.weights.base_digest},
    )


def _fit_watched(job: Job[SFTConfig], task: SftTask, devices: Plan, storage: Path) -> dict[str, float]:
    outcome: dict[str, Any] = {}

    def train() -> None:
        try:
            outcome["metrics"] = fit(fine_tune, {"task": task}, devices, job.job_id, storage)
        except SynthRayError as error:
            outcome["error"] = error

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    while thread.is_alive():
        _raise_failure(Path(task.failure_file))
        _report(job, last_row(Path(task.run_dir) / "metrics.jsonl"))
        time.sleep(_POLL_S)
    _raise_failure(Path(task.failure_file))
    if "error" in outcome:
        raise outcome["error"]
    return dict(outcome["metrics"])


def _raise_failure(file: Path) -> None:
    """The error of a worker, whether or not the others still wait for it: the job's end is theirs too."""
    if file.exists():
        said = json.loads(file.read_text(encoding="utf-8"))
        raise rebuild(said["error"], int(said["exit_code"]))


def _report(job: Job[SFTConfig], row: Mapping[str, Any] | None) -> None:
    if row:
        loss = math.nan if row["loss"] is None else row["loss"]
        note = f"loss {loss:.3f}, lr {row['lr']:.2e}, {row['tokens_per_s']:.0f} tokens/s"
        job.report("train", row["step"], row["total"], note)


if __name__ == "__main__":
    run_job("sft", SFTConfig, work)
