"""A recorded Crafter rollout as the frames of a film."""

from __future__ import annotations

from collections.abc import Iterator

from envs.crafter.episode import CrafterEpisode
from envs.crafter.frame import UNIT, draw
from envs.crafter.replay import scenes
from envs.film import Frame
from synth_ray.core.types import Rollout

_READING_BEATS = 3
_END_BEATS = 8


def frames(rollout: Rollout, episode: CrafterEpisode, scale: int) -> Iterator[Frame]:
    """One frame before each turn, long enough to read, and one per action. Raises CorruptError as ``scenes`` does."""
    size = 9 * UNIT * scale
    last = len(rollout.turns) - 1
    for scene in scenes(rollout, episode, (size, size)):
        actions = len(rollout.turns[scene.turn].facts.actions)
        ends = scene.turn == last and scene.action == actions - 1
        beats = _END_BEATS if ends else _READING_BEATS if scene.action < 0 else 1
        yield Frame(draw(scene, rollout, scale), beats)
