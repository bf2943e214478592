"""Supervised fine-tuning of a model on a filtered data set; registers the result.

python -m jobs.sft --config configs/quickstart/sft_weak.toml
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from jobs.runner import Job, run_job
from serve.models import resolve
from synth_ray.core.errors import NotFoundError, SynthRayError
from synth_ray.core.sections import SFTConfig
from synth_ray.learn.model_files import base_digest
from synth_ray.records.disk import temporary_name
from synth_ray.records.publish import publishing
from synth_ray.records.registry import Model
from synth_ray.runtime.devices import plan
from synth_ray.runtime.placement import check_gpus
from synth_ray.runtime.sft_trainer import SftTask, fine_tune
from synth_ray.runtime.trainer import fit

_POLL_S = 0.3


def work(job: Job[SFTConfig]) -> Mapping[str, Any]:
    """Trains, publishes the model folder, registers it."""
    config = job.config
    devices = plan(config.compute)
    check_gpus(devices, ray.cluster_resources())
    base = resolve(config.job.model, job.home, job.registry)
    data = find_data(config.job.data, job.resolved.base_dir, job.home.project)
    target = job.home.models / job.job_id
    with publishing(
        target, {"job_id": job.job_id, "base": base.ref, "base_digest": base.weights.base_digest}
    ) as folder:
        progress = job.files.folder / "training.jsonl"
        task = SftTask(config, base.weights.base_dir, str(data), str(folder), str(progress))
        job.report("wait", note="the trainer to start")
        storage = temporary_name(job.home.state / "train")
        try:
            metrics = _fit_watched(job, task, devices, storage, progress)
        finally:
            shutil.rmtree(storage, ignore_errors=True)
    model_id = f"{config.algorithm.variety}:{base.root}:{job.job_id}"
    digest = base_digest(target)
    job.registry.add_model(Model(model_id, base.ref, "full", str(target), digest, job.job_id, metrics=metrics))
    return {"model": model_id, "path": str(target), "digest": digest, "data": str(data), **metrics}


def find_data(text: str, config_dir: Path, project: Path) -> Path:
    """The data set: absolute, else relative to the config file, else to the project."""
    candidates = [Path(text)] if Path(text).is_absolute() else [config_dir / text, project / text]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    looked = ", ".join(str(path) for path in candidates)
    raise NotFoundError(f"no data set {text!r} (looked at {looked})", "make one with: synth-ray filter --config ...")


def _fit_watched(job: Job[SFTConfig], task: SftTask, devices: Any, storage: Path, progress: Path) -> dict[str, float]:
    outcome: dict[str, Any] = {}

    def train() -> None:
        try:
            outcome["metrics"] = fit(fine_tune, {"task": task}, devices, job.job_id, storage)
        except SynthRayError as error:
            outcome["error"] = error

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    while thread.is_alive():
        lines = progress.read_text().splitlines() if progress.exists() else []
        if lines:
            line = json.loads(lines[-1])
            job.report("train", line["step"], line["total"], f"loss {line['loss']:.3f}")
        time.sleep(_POLL_S)
    if "error" in outcome:
        raise outcome["error"]
    return dict(outcome["metrics"])


if __name__ == "__main__":
    run_job("sft", SFTConfig, work)
