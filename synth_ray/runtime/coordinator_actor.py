"""The coordinator as a Ray actor: ``Coordinator`` with a Serve handle and the adapter store plugged in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synth_ray.core.errors import SynthRayError
from synth_ray.core.sections import RLConfig
from synth_ray.core.types import EpisodeSpec, Rollout, Weights
from synth_ray.runtime.adapters import AdapterBlob, store_actor
from synth_ray.runtime.checkpoints import Checkpoint, load_latest
from synth_ray.runtime.coordinator import Coordinator, Progress, TrainedStep
from synth_ray.runtime.judging import JudgePlan, start_judge
from synth_ray.runtime.remote import answered


class CoordinatorActor:
    """Async actor; ``task_app`` is the Serve handle of the task app. It goes on after the folder's last checkpoint."""

    def __init__(
        self, run: str, run_dir: Path, config: RLConfig, base: Weights, task_app: Any, judge: JudgePlan | None = None
    ) -> None:
        async def play(spec: EpisodeSpec) -> Rollout:
            rollout: Rollout = await answered(task_app.play.remote(spec))
            return rollout

        review = start_judge(judge).review_all if judge else None
        self._inner = Coordinator(run, run_dir, config, base, play, _Store(), load_latest(run_dir), review)

    async def run(self) -> list[float]:
        """See ``Coordinator.run``."""
        return await self._inner.run()

    async def next_batch(self, step: int, wait_s: float) -> dict[str, Any] | None:
        """See ``Coordinator.next_batch``."""
        return await self._inner.next_batch(step, wait_s)

    async def resume_point(self) -> Checkpoint | None:
        """See ``Coordinator.resume_point``."""
        return await self._inner.resume_point()

    async def trained(self, result: TrainedStep) -> None:
        """See ``Coordinator.trained``."""
        await self._inner.trained(result)

    async def abort(self, error: SynthRayError) -> None:
        """See ``Coordinator.abort``."""
        await self._inner.abort(error)

    async def progress(self) -> Progress:
        """See ``Coordinator.progress``."""
        return await self._inner.progress()

    async def result(self) -> tuple[Weights, Checkpoint]:
        """See ``Coordinator.result``."""
        return await self._inner.result()


class _Store:
    def __init__(self) -> None:
        self._actor = store_actor()

    async def publish(self, blob: AdapterBlob) -> None:
        await answered(self._actor.publish.remote(blob))

    async def forget(self, run: str) -> None:
        await answered(self._actor.forget.remote(run))
