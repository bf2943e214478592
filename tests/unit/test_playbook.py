"""docs/playbook.md says nothing that the command line does not understand; docs/cli.md leaves out no verb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from synth_ray.cli.groups import DefaultGroup
from synth_ray.cli.main import cli
from synth_ray.core.config import Section, config_path, load_config
from synth_ray.core.sections import VLLM, DeployConfig, EvalConfig, RLConfig
from synth_ray.core.sft_sections import SFTConfig
from synth_ray.records.filter_run import FilterFile
from tests.playbook_doc import commands, missing, steps

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = ROOT / "configs" / "playbook"
COMMANDS = list(commands())
MODELS: dict[str, type[Section]] = {
    "eval": EvalConfig,
    "filter": FilterFile,
    "deploy": DeployConfig,
    "train sft": SFTConfig,
    "train rl": RLConfig,
}
VERBS = (
    *("setup", "up", "deploy", "modal-serve", "eval", "filter", "train", "train wait", "train logs", "status jobs"),
    *("status models", "status runs", "status runs compare", "eval diff", "files upload", "replay", "down"),
)


def parsed(arguments: list[str]) -> click.Context:
    """What click makes of a command; raises UsageError for what it does not know."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        if isinstance(command, DefaultGroup) and (not arguments or arguments[0] not in command.commands):
            command = command.default
            break
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command.make_context(command.name, list(arguments))


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that can be called, as it is written."""
    for name, command in group.commands.items():
        if isinstance(command, DefaultGroup):
            yield " ".join([*path, name])
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        elif not (isinstance(group, DefaultGroup) and command is group.default):
            yield " ".join([*path, name])


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_parses_and_its_configs_load(arguments: list[str]) -> None:
    parameters = parsed(arguments).params
    if files := parameters.get("configs"):
        kind = parameters.get("type_") or parameters.get("kind")
        assert all(config_path(file).exists() for file in files)
        load_config(MODELS[" ".join(filter(None, [arguments[0], kind]))], files, parameters["sets"])


def test_no_verb_of_the_walkthrough_is_missing() -> None:
    said = {" ".join(arguments) + " " for arguments in COMMANDS}
    assert [verb for verb in VERBS if not any(line.startswith(f"{verb} ") for line in said)] == []
    assert len(steps()) >= 10
    assert sum(bool(expected) for _, expected in steps()) == len(steps())


def test_a_wrong_option_would_be_noticed() -> None:
    for wrong in (["deploy", "--runtime", "docker"], ["train", "--type", "rl", "--wait"], ["status", "runs", "diff"]):
        with pytest.raises((click.UsageError, KeyError)):
            parsed(wrong)


def test_runs_that_share_an_engine_ask_for_the_same_one() -> None:
    rl = [load_config(RLConfig, [path]).config for path in sorted(PLAYBOOK.glob("train_rl_*.toml"))]
    assert len(rl) == 4
    evaluated = load_config(EvalConfig, [PLAYBOOK / "eval_ft_tiny.toml"]).config
    assert {one.vllm for one in rl} == {evaluated.vllm} == {DeployConfig().vllm} == {VLLM()}
    small = [load_config(kind, sorted((ROOT / "configs" / "smollm2").glob(name))).config for kind, name in SMOLLM2]
    assert len({one.vllm for one in small}) == 1


SMOLLM2: list[tuple[type[RLConfig] | type[EvalConfig] | type[DeployConfig], str]] = [
    (RLConfig, "rl.toml"),
    (EvalConfig, "eval.toml"),
    (DeployConfig, "deploy.toml"),
]


def test_the_three_rewards_differ_in_their_reward_only() -> None:
    kept = []
    for name in ("outcome", "stepwise_simple", "stepwise_shaped"):
        config = load_config(RLConfig, [PLAYBOOK / f"train_rl_{name}.toml"]).config
        values = config.model_dump(exclude={"model": {"label"}})
        values["training"] = {
            key: value for key, value in values["training"].items() if not key.startswith("step_rewards")
        }
        kept.append(values)
    assert kept[0] == kept[1] == kept[2]


def test_expected_lines_must_come_in_their_order() -> None:
    assert missing("a ... c\nd\n", "x\na   b c\n\nd e\n") == ""
    assert missing("d\na ... c\n", "a b c\nd\n") == "a ... c"
    assert missing("[...]", "[]") == ""
    assert missing("a.c", "abc") == "a.c"


@pytest.mark.parametrize("verb", sorted(leaves(cli)))
def test_every_verb_is_documented(verb: str) -> None:
    assert f"synth-ray {verb}" in (ROOT / "docs" / "cli.md").read_text()
