"""The environment of docs/new-environment.md: the document shows its files, the tiny model has its words and learns."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from serve.models import built_in
from synth_ray.core.config import load_config
from synth_ray.core.errors import ConfigError
from synth_ray.core.paths import Home
from synth_ray.core.sections import EvalConfig, RLConfig
from synth_ray.core.sft_sections import SFTConfig
from synth_ray.core.types import EpisodeSpec, GenerateRequest, GenerateResult, Rollout, Weights
from synth_ray.learn.lora import attach
from synth_ray.learn.optimizer import build_optimizer
from synth_ray.learn.sft import reply_example, train
from synth_ray.learn.step import update
from synth_ray.records.filter_run import FilterFile
from synth_ray.rollout.chat import Chat, load_chat
from synth_ray.rollout.episode import play
from synth_ray.rollout.policy import EnginePolicy, TeacherPolicy
from synth_ray.rollout.task import Task
from synth_ray.runtime.batching import build_batch, group_specs, reward_spec
from synth_ray.runtime.sft_trainer import loop_config
from synth_ray.runtime.trainer import _update_config, lora_spec

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "new-environment"


@pytest.fixture(scope="module")
def task() -> Iterator[Task]:
    sys.path.append(str(EXAMPLE))
    import fetch_env

    yield fetch_env.FetchTask()
    sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    return built_in("crafter-tiny", Home(root, root))


def teach(task: Task, seeds: Sequence[int], skill: float) -> list[Rollout]:
    made = []
    for seed in seeds:
        spec = EpisodeSpec(str(seed), "run", "fetch", seed, "expert", provider="expert", max_turns=2)
        policy = TeacherPolicy(task.teacher("expert", {"skill": skill}, seed, 2))
        made.append(asyncio.run(play(spec, task.open(seed, {}, 2), policy)))
    return made


def test_the_document_shows_the_files() -> None:
    text = (ROOT / "docs" / "new-environment.md").read_text()
    shown = [block.partition("\n")[2] for block in text.split("```")[1::2]]
    for name in ("fetch_env.py", "collect.toml", "filter.toml", "sft.toml", "eval.toml", "rl.toml"):
        assert (EXAMPLE / name).read_text() in shown, name


def test_the_file_is_short() -> None:
    assert len((EXAMPLE / "fetch_env.py").read_text().splitlines()) < 80


def test_the_configs_are_valid() -> None:
    for name, model in {
        "collect": EvalConfig,
        "eval": EvalConfig,
        "sft": SFTConfig,
        "rl": RLConfig,
        "filter": FilterFile,
    }.items():
        load_config(model, [EXAMPLE / f"{name}.toml"])


def test_the_teacher_reaches_everything_and_the_tiny_model_has_the_words(task: Task, model_dir: Path) -> None:
    chat = load_chat(str(model_dir))
    rollouts = teach(task, range(60), 1.0) + teach(task, range(60), 0.3)
    assert {rollout.outcome for rollout in rollouts[:60]} == {2.0}
    assert len({rollout.outcome for rollout in rollouts[60:]}) == 3
    for turn in (turn for rollout in rollouts for turn in rollout.turns):
        assert chat.text(chat.reply_ids(turn.reply.text)) == turn.reply.text.replace(" ", "").replace(
            ":[", ": ["
        ).replace(",", ", ")
        assert chat._tokenizer.unk_token_id not in chat.prompt_ids(turn.messages)


@pytest.mark.parametrize(
    "text", ["", "null", "[1]", '{"actions": 3}', '{"actions": [{}, "fly"]}', "9" * 5000, "[" * 5000]
)
def test_a_bad_reply_is_a_fact(task: Task, text: str) -> None:
    facts = task.open(3, {}, 2).step(text, {})
    assert facts.problem
    assert facts.actions == ()


def test_a_wrong_setting_of_the_teacher_is_told(task: Task) -> None:
    with pytest.raises(ConfigError, match="skill must be a number"):
        task.teacher("expert", {"skill": "a"}, 0, 2)


def test_the_task_describes_itself(task: Task) -> None:
    assert task.info()["task"].keys() >= {"id", "name", "version", "description"}


class HfEngine:
    """Answers generate requests with a plain Transformers model; the requests of all episodes of a step together."""

    def __init__(self, model: Any, chat: Chat) -> None:
        self._model, self._chat, self._waiting = model, chat, []

    async def __call__(self, request: GenerateRequest) -> GenerateResult:
        future: asyncio.Future[GenerateResult] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            asyncio.get_running_loop().call_later(0.01, self._flush)
        self._waiting.append((request, future))
        return await future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        width = max(len(request.prompt_ids) for request, _ in waiting)
        pad = self._chat.pad_id
        rows = [[pad] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r, _ in waiting]
        ids = torch.tensor(rows)
        out = self._model.generate(
            input_ids=ids, attention_mask=(ids != pad).long(), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            max_new_tokens=16, pad_token_id=pad, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        logprobs = torch.stack(out.logits, 1).log_softmax(-1)
        for row, (_, future) in enumerate(waiting):
            tokens = out.sequences[row, width:].tolist()
            end = tokens.index(self._chat.end_id) + 1 if self._chat.end_id in tokens else len(tokens)
            chosen = tuple(float(logprobs[row, at, token]) for at, token in enumerate(tokens[:end]))
            future.set_result(GenerateResult(tuple(tokens[:end]), chosen, "stop", "base", "d"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_rewards_rise(task: Task, model_dir: Path) -> None:
    """Teacher, fine-tuning and RL as the document's configs say, in this process: Transformers plays the engine."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    chat = load_chat(str(model_dir))
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    examples = [
        reply_example(chat.prompt_ids(turn.messages), chat.reply_ids(turn.reply.text))
        for rollout in teach(task, range(1000, 1400), 0.35)
        for turn in rollout.turns
    ]
    train(model, examples, loop_config(load_config(SFTConfig, [EXAMPLE / "sft.toml"]).config), chat.pad_id)
    config = load_config(RLConfig, [EXAMPLE / "rl.toml"]).config
    policy = attach(model, lora_spec(config.lora), 0)
    optimizer = build_optimizer(policy, config.training.learning_rate)
    rewards = []
    for step in range(config.training.iterations):
        groups = asyncio.run(_groups(task, config, HfEngine(policy, chat), chat, step))
        rollouts = [rollout for group in groups for rollout in group]
        rewards.append(sum(rollout.outcome for rollout in rollouts) / len(rollouts))
        update(
            policy,
            optimizer,
            build_batch(groups, config.training, reward_spec(config)).samples,
            _update_config(config),
            step,
        )
    print("batch rewards", [round(one, 2) for one in rewards])
    assert 0.2 < rewards[0] < 1.5
    assert statistics.fmean(rewards[-3:]) > rewards[0] + 0.2


async def _groups(task: Task, config: RLConfig, engine: HfEngine, chat: Chat, step: int) -> list[list[Rollout]]:
    async def one(spec: EpisodeSpec) -> Rollout:
        policy = EnginePolicy(engine, chat, spec.rollout_id, spec.weights, spec.sampling)
        return await play(spec, task.open(spec.seed, {}, spec.max_turns), policy)

    weights = Weights("base", "d")
    groups = [group_specs(config, "run", step, group, weights) for group in range(config.training.batch_size)]
    return [list(group) for group in await asyncio.gather(*(asyncio.gather(*map(one, specs)) for specs in groups))]
