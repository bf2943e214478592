"""A recorded rollout is played again from seed, config and actions; whatever differs from the record is found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from envs.crafter.frame import HEIGHT, WIDTH, draw, said
from envs.crafter.replay import Scene, scenes
from envs.crafter.task import CrafterTask
from envs.film import Frame, thinned, write
from jobs import replay as job
from synth_ray.core.errors import CorruptError
from synth_ray.core.types import EpisodeSpec, Reply, Rollout, StepFacts
from synth_ray.records.rollouts import write_rollouts
from synth_ray.records.runs import RunDir
from synth_ray.records.traces import TraceDB
from synth_ray.rollout.episode import play
from synth_ray.rollout.policy import TeacherPolicy
from synth_ray.rollout.task import Replayable

CONFIG = {"max_actions_per_turn": 4, "length": 38}
HOSTILE = "a\x1b]0;owned\x07b\x1b[31mc\u202ed\x9be\r\nf"


def record(seed: int = 40, config: dict[str, Any] | None = None, **changes: Any) -> Rollout:
    task = CrafterTask()
    spec = EpisodeSpec(
        f"id{seed}", "run", "grpo-crafter", seed, "expert", provider="expert", env_config=config or CONFIG, max_turns=10
    )
    teacher = task.teacher("expert", {"random_rate": 0.2}, seed, 10)
    rollout = asyncio.run(play(spec, task.open(seed, spec.env_config, 10), TeacherPolicy(teacher)))
    return replace(rollout, **changes)


def replayed(rollout: Rollout, size: int) -> Iterator[Scene]:
    """Its scenes, in an episode opened as the record says."""
    episode = CrafterTask().open(rollout.seed, rollout.env_config, len(rollout.turns))
    return scenes(rollout, episode, (size, size))


@pytest.fixture(scope="module")
def recorded() -> Rollout:
    return record()


def test_a_replay_goes_as_recorded(recorded: Rollout) -> None:
    assert recorded.env_config == CONFIG
    assert recorded.outcome >= 3
    assert recorded.turns[-1].facts.done  # the world ended in the middle of a turn
    seen = list(replayed(recorded, 63))
    assert len(seen) == sum(1 + len(turn.facts.actions) for turn in recorded.turns)
    assert set(seen[-1].unlocked) == set(recorded.achievements)
    assert seen[0].picture.shape == (63, 63, 3)
    for index, turn in enumerate(recorded.turns):
        of_turn = [scene for scene in seen if scene.turn == index]
        assert [scene.action for scene in of_turn] == list(range(-1, len(turn.facts.actions)))
        assert of_turn[-1].new == set(turn.facts.unlocked)


def _facts(rollout: Rollout, at: int, change: Callable[[StepFacts], StepFacts]) -> Rollout:
    turns = list(rollout.turns)
    turns[at] = replace(turns[at], facts=change(turns[at].facts))
    return replace(rollout, turns=tuple(turns))


def _first(rollout: Rollout, wanted: Callable[[StepFacts], Any]) -> int:
    return next(at for at, turn in enumerate(rollout.turns) if wanted(turn.facts))


def test_the_first_differing_turn_is_named(recorded: Rollout) -> None:
    unlocking = _first(recorded, lambda facts: facts.unlocked)
    gathering = _first(recorded, lambda facts: facts.inventory_delta)
    for at, change, field in (
        (unlocking, lambda facts: replace(facts, unlocked=()), "unlocked"),
        (unlocking, lambda facts: replace(facts, unlocked=(*facts.unlocked, "collect_diamond")), "unlocked"),
        (gathering, lambda facts: replace(facts, inventory_delta={}), "inventory_delta"),
        (2, lambda facts: replace(facts, env_reward=facts.env_reward + 0.1), "env_reward"),
        (2, lambda facts: replace(facts, done=True), "done"),
    ):
        with pytest.raises(CorruptError, match=f"^turn {at} of rollout id40 .*{field}") as caught:
            list(replayed(_facts(recorded, at, change), 63))
        assert caught.value.exit_code == 7
        assert caught.value.details["turn"] == at


def test_another_seed_config_action_or_end_is_found(recorded: Rollout) -> None:
    flipped = _first(recorded, lambda facts: "do" in facts.actions and facts.unlocked)
    for changed in (
        replace(recorded, seed=41),
        replace(recorded, env_config={**CONFIG, "length": 12}),
        _facts(recorded, flipped, lambda facts: replace(facts, actions=("noop",) * len(facts.actions))),
        replace(recorded, achievements=recorded.achievements[1:]),
        replace(recorded, outcome=recorded.outcome + 1),
    ):
        with pytest.raises(CorruptError, match="otherwise when it was replayed"):
            list(replayed(changed, 63))


def test_what_the_model_said_is_shown_without_control_characters(recorded: Rollout) -> None:
    reply = Reply(HOSTILE, {"reasoning": "why\x1b[2J", "tool_calls": [{"id": "\x07"}]})
    text = said(replace(recorded.turns[0], reply=reply))
    assert text.startswith("why[2J\na]0;ownedb[31mcde\nf\n[")
    assert not any(ord(char) < 32 and char not in "\n\t" for char in text)


def test_a_frame_shows_action_text_and_achievements(recorded: Rollout) -> None:
    def frame(scene: Scene, text: str = "", scale: int = 1) -> Image.Image:
        turns = (replace(recorded.turns[0], reply=Reply(text)), *recorded.turns[1:])
        return draw(scene, replace(recorded, turns=turns), scale)

    picture = next(replayed(recorded, 288)).picture
    plain = Scene(0, 0, picture, (), frozenset())
    assert frame(plain).size == (WIDTH, HEIGHT)
    assert frame(plain, scale=2).size == (2 * WIDTH, 2 * HEIGHT)
    half = WIDTH // 2
    for other, left in ((frame(replace(plain, action=1)), True), (frame(plain, "hello"), False)):
        box = ImageChops.difference(frame(plain), other).getbbox()
        assert box is not None
        assert (box[2] <= half) if left else (box[0] >= half - 30)
    unlocked = frame(replace(plain, unlocked=("eat_cow",)))
    assert ImageChops.difference(frame(plain), unlocked).getbbox() is not None
    for text in ("x" * 20_000, "word " * 4000, "\n" * 3000, HOSTILE, "\U0001f600\u4e16"):
        assert frame(plain, text).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_the_film_has_all_frames_and_a_sensible_size(recorded: Rollout, tmp_path: Path, ending: str) -> None:
    rollout = record(40, {"max_actions_per_turn": 5})
    out = tmp_path / f"film{ending}"
    task = CrafterTask()
    assert isinstance(task, Replayable)
    total = sum(1 + len(turn.facts.actions) for turn in rollout.turns)
    assert write(out, task.replay(rollout, 1), 250) == total
    assert out.stat().st_size < 2_000_000
    with Image.open(out) as film:
        assert film.size == (WIDTH, HEIGHT)
        assert film.n_frames <= total  # equal neighbours are one longer frame
        first = film.convert("RGB")
        film.seek(film.n_frames - 1)
        assert ImageChops.difference(first, film.convert("RGB")).getbbox() is not None


def test_long_films_are_thinned_and_keep_their_end() -> None:
    picture = Image.new("RGB", (1, 1))
    kept = [frame.beats for frame in thinned((Frame(picture, at) for at in range(4001)), 4001)]
    assert len(kept) <= 1501
    assert kept[-1] == 4000


def run(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> dict[str, Any]:
    monkeypatch.setenv("SYNTH_RAY_HOME", str(home))
    monkeypatch.setattr("sys.argv", ["replay", *arguments])
    code = job.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == (0 if answer["ok"] else answer["exit_code"])
    return answer


def test_from_database_and_run_to_film(
    recorded: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = record(44)
    with TraceDB(tmp_path / "traces" / "a.db") as traces:
        traces.add([recorded, replace(other, task="os:system", rollout_id="evil")])
        traces.add([replace(other, turns=(), rollout_id="e0")])
        traces.add([replace(recorded, achievements=(), rollout_id="changed")])
    run_dir = RunDir.create(tmp_path / "runs", "mine", {})
    write_rollouts(run_dir.rollouts, 0, [replace(recorded, step=0, rollout_id="r0")])
    write_rollouts(run_dir.rollouts, 1, [replace(other, step=1, rollout_id="r1")])

    def film(name: str, *more: str) -> dict[str, Any]:
        return run(tmp_path, monkeypatch, capsys, name, "--out", str(tmp_path / "out" / "x.gif"), *more)

    result = film("id4")["result"]
    assert (result["rollout_id"], result["outcome"]) == ("id40", recorded.outcome)
    (tmp_path / "out" / "x.gif").unlink()
    assert film("r1", "--run", "mine")["result"]["achievements"] == list(other.achievements)
    assert film("best", "--run", "mine")["result"]["rollout_id"] in ("r0", "r1")
    (tmp_path / "out" / "x.gif").unlink()
    (tmp_path / "a_file").touch()
    for name, more, code, words in (
        ("changed", (), 7, "ended otherwise"),
        ("evil", (), 2, "os:system"),
        ("evil", ("--app", "os:system"), 2, "is no task"),
        ("e", (), 2, "begin with 'e'"),
        ("e0", (), 2, "no turns"),
        ("nothing", (), 4, "no rollout 'nothing'"),
        ("r1", ("--run", "yours"), 4, "no run 'yours'"),
        ("id40", ("--out", "x.mp4"), 2, ".gif"),
        ("id40", ("--trace-db", "missing.db"), 4, "missing.db"),
        ("id40", ("--out", str(tmp_path / "a_file" / "x.gif")), 74, "a_file"),
        ("id40", ("--out", "/proc/nosuch/x.gif"), 74, "/proc/nosuch"),
    ):
        answer = film(name, *more)
        assert (answer["ok"], answer.get("exit_code")) == (False, code), answer
        assert words in answer["error"]["message"]
    assert list((tmp_path / "out").iterdir()) == []
