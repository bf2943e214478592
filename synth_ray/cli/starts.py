"""What the quickstart can start from: a folder of configs for every stage, and what to say about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from synth_ray.core.errors import PrerequisiteError
from synth_ray.core.paths import app_root


@dataclass(frozen=True)
class Start:
    """One start. ``episodes`` are collected for the fine-tuning; ``model`` is a folder that must be there, if any."""

    name: str
    folder: str
    episodes: int
    text: str
    model: str = ""

    def config(self, stage: str) -> Path:
        """The TOML of a stage: the start's own, else the one that the starts of the folder share."""
        folder = app_root() / "configs" / self.folder
        own = folder / f"{stage}_{self.name}.toml"
        return own if own.exists() else folder / f"{stage}.toml"

    def check(self) -> None:
        """Raises PrerequisiteError if the model is not there."""
        if self.model and not (Path(self.model) / "config.json").is_file():
            raise PrerequisiteError(f"there is no model in {self.model}", f"run: make {self.name}")


STARTS = {
    start.name: start
    for start in (
        Start(
            "weak",
            "quickstart",
            600,
            "lazy demonstrations (84 % noop) that teach the reply format and little else; a full SFT start "
            "(--start strong) reaches about 2.4 achievements before RL",
        ),
        Start("strong", "quickstart", 350, "a full SFT start on the best episodes of the scripted expert"),
        Start(
            "smollm2",
            "smollm2",
            130,
            "SmolLM2-135M, fine-tuned on lazy demonstrations (60 % noop); a recorded run: docs/results/smollm2.md",
            model="models/smollm2-135m",
        ),
    )
}
