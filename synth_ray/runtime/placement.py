"""Preflight: does the cluster have what the plan needs? Ray itself would wait for ever."""

from __future__ import annotations

from collections.abc import Mapping

from synth_ray.core.errors import PrerequisiteError
from synth_ray.runtime.devices import Plan


def check_gpus(plan: Plan, resources: Mapping[str, float]) -> None:
    """PrerequisiteError if the cluster's total GPUs are fewer than the plan's."""
    available = int(resources.get("GPU", 0))
    if plan.gpus > available:
        roles = f"{plan.engine_gpus} for vLLM + {plan.gpus - plan.engine_gpus} for training"
        raise PrerequisiteError(
            f"this config needs {plan.gpus} GPU ({roles}); the cluster has {available}",
            "set compute.topology.gpus_for_vllm and gpus_for_training to 0 to run on CPU, "
            "or start a GPU cluster with: ray up cluster.yaml",
            needed=plan.gpus,
            available=available,
        )
