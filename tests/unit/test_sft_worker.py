"""One fine-tuning worker from files to files, without a cluster: varieties, resumption, adapters as starts."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.sft import find_data, located
from serve.models import Resolved, as_base, check_rank, resolve
from synth_ray.core.config import validate
from synth_ray.core.errors import ConfigError, CorruptError, NotFoundError, PrerequisiteError
from synth_ray.core.hashing import sha256_bytes, sha256_file
from synth_ray.core.paths import Home
from synth_ray.core.sft_sections import SFTConfig, SFTData
from synth_ray.core.types import Message
from synth_ray.learn.model_files import base_digest
from synth_ray.learn.reference import reference_logprobs
from synth_ray.learn.tiny_model import CHAT_TEMPLATE
from synth_ray.records.metrics import last_by_step, last_row
from synth_ray.records.registry import Model, Registry
from synth_ray.records.runs import RunDir
from synth_ray.rollout.chat import Chat, load_chat
from synth_ray.runtime.checkpoints import checkpoint_dir
from synth_ray.runtime.devices import TrainingSpec, check_build, check_four_bit
from synth_ray.runtime.sft_trainer import SftTask, load_model, read_examples, run_worker

CPU = torch.device("cpu")
PAIRS = [([5, 6, 7], [8, 9, 3]), ([5], [6, 7])]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("home")
    return Home(root, root)


@pytest.fixture(scope="module")
def base(home: Home) -> Resolved:
    with Registry(home.state_db) as registry:
        return resolve("crafter-tiny", home, registry)


@pytest.fixture(scope="module")
def data(home: Home) -> Path:
    path = home.project / "data.jsonl"
    words = ["wood", "stone", "water", "grass", "tree"]
    turn = [{"role": "user", "content": "wood"}, {"role": "assistant", "content": "stone"}]
    lines = [
        {"messages": [*turn * (1 + index % 2), {"role": "user", "content": words[index % 5]}, turn[1]]}
        for index in range(20)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def task(home: Home, base: Resolved, path: Path, name: str, **values: Any) -> SftTask:
    given = {"batch_size": 8, "n_epochs": 2, "learning_rate": 1e-2, "sequence_length": 64}
    sections: dict[str, Any] = {"job": {"data": str(path)}, **values}
    sections["hyperparameters"] = {**given, **values.get("hyperparameters", {})}
    config = validate(SFTConfig, sections)
    run = RunDir.create(home.runs, name, config.model_dump(mode="json"))
    out = home.models / name
    out.mkdir(parents=True)
    return SftTask(config, base.weights.base_dir, str(run.path), str(out), str(run.path / "failure.json"))


def test_full_fine_tuning_writes_a_model_metrics_and_checkpoints(home: Home, base: Resolved, data: Path) -> None:
    one = task(home, base, data, "full", data={"eval_fraction": 0.2})
    result = run_worker(one, CPU, 0, 1)
    assert (result["steps"], result["examples"], result["skipped"]) == (4, 16, 0)
    assert base_digest(Path(one.out_dir)) != base.weights.base_digest
    rows = last_by_step(Path(one.run_dir) / "metrics.jsonl")
    assert list(rows) == [1, 2, 3, 4]
    assert last_row(Path(one.run_dir) / "metrics.jsonl") == rows[4]
    assert {"loss", "lr", "tokens_per_s", "total"} <= rows[1].keys()
    assert [step for step, row in rows.items() if "eval_loss" in row] == [2, 4]
    assert result["eval_loss"] == rows[4]["eval_loss"]
    # The last checkpoint is that of the first epoch; taking it up again gives the very same files.
    assert checkpoint_dir(Path(one.run_dir), 2).is_dir()
    assert {tensor.dtype for tensor in load_file(Path(one.out_dir) / "model.safetensors").values()} == {torch.float32}
    digest = base_digest(Path(one.out_dir))
    assert run_worker(one, CPU, 0, 1) == result
    assert base_digest(Path(one.out_dir)) == digest


def test_an_adapter_evaluates_and_merges_as_it_was_trained(home: Home, base: Resolved, data: Path) -> None:
    one = task(home, base, data, "job_lora", algorithm={"variety": "lora"}, lora={"r": 4, "alpha": 8})
    run_worker(one, CPU, 0, 1)
    adapter, model_id = Path(one.out_dir), "peft:crafter-tiny:job_lora"
    digest = sha256_file(adapter / "adapter_model.safetensors")
    about = {"base_digest": base.weights.base_digest}
    start = Path(base.weights.base_dir)
    with Registry(home.state_db) as registry:
        registry.add_model(
            Model(model_id, base.ref, "adapter", str(adapter), digest, "job_lora", str(start), metrics=about)
        )
        tuned = resolve(model_id, home, registry)
    assert tuned.adapter is not None
    assert tuned.weights.adapter_digest == digest == sha256_bytes(tuned.adapter.data)
    merged = as_base(tuned, home)
    assert (merged.adapter, merged.root) == (None, "crafter-tiny")
    expected = reference_logprobs(start, adapter, PAIRS, 1.0)
    plain = reference_logprobs(start, None, PAIRS, 1.0)
    found = reference_logprobs(Path(merged.weights.base_dir), None, PAIRS, 1.0)
    for row, wanted, untrained in zip(found, expected, plain, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)
        assert row != pytest.approx(untrained, abs=1e-2)
    assert as_base(tuned, home) == merged
    assert as_base(base, home) is base
    check_rank(tuned, 4)
    with pytest.raises(ConfigError, match="rank 4"):
        check_rank(tuned, 1)
    assert load_chat(merged.weights.base_dir).prompt_ids([Message("user", "wood")])


def test_qlora_is_refused_on_cpu(home: Home, base: Resolved, data: Path) -> None:
    one = task(home, base, data, "qlora", algorithm={"variety": "qlora"})
    with pytest.raises(PrerequisiteError, match="needs a GPU") as caught:
        load_model(one, TrainingSpec("cpu", frozen=True, four_bit=True), CPU, sharded=False)
    assert 'variety = "lora"' in caught.value.hint
    with pytest.raises(PrerequisiteError, match="bitsandbytes"):
        check_four_bit("cuda")


def test_an_engine_of_another_build_does_not_start() -> None:
    check_build("cuda", "cuda")
    for wanted, built_for in (("cuda", "cpu"), ("cpu", "cuda"), ("cpu", "")):
        with pytest.raises(PrerequisiteError, match=f"planned for {wanted}"):
            check_build(wanted, built_for)


def test_every_assistant_message_is_learned_once(base: Resolved, data: Path) -> None:
    chat = load_chat(base.weights.base_dir)
    messages = [Message("user", "wood"), Message("assistant", "stone"), Message("user", "tree")]
    [(ids, mask)] = chat.demonstrations([*messages, Message("assistant", "water")])
    assert ids == (*chat.prompt_ids(messages), *chat.reply_ids("water"))
    learned = [token for token, learn in zip(ids, mask, strict=True) if learn]
    assert learned == [*chat.reply_ids("stone"), *chat.reply_ids("water")]
    [(again, last)] = chat.demonstrations([*messages, Message("assistant", "water")], only_last=True)
    assert again == ids
    assert sum(last) == len(chat.reply_ids("water"))
    last_only = SFTData(loss_on="last")
    assert sum(map(sum, (one.loss_mask for one in read_examples(data, base.weights.base_dir, last_only)))) == 20 * 2


FORGETFUL = CHAT_TEMPLATE.replace(
    "{{ message['content'] or '' }}",
    "{{ message['content'] if message['role'] == 'user' or loop.last else 'noop' }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ call.function.name }} {{ call.function.arguments.item }}{% endfor %}",
)


def test_templates_that_rewrite_history_or_show_tool_calls(base: Resolved, tmp_path: Path) -> None:
    plain = load_chat(base.weights.base_dir)
    tokenizer = copy.deepcopy(plain._tokenizer)
    tokenizer.chat_template = FORGETFUL
    chat = Chat(tokenizer)
    messages = [Message("user", "wood"), Message("assistant", "stone")] * 2
    rows = chat.demonstrations(messages)
    assert [sum(mask) for _, mask in rows] == [2, 2]
    assert rows[1][0] == (*chat.prompt_ids(messages[:3]), *chat.reply_ids("stone"))
    call = {"type": "function", "function": {"name": "grass", "arguments": {"item": "tree"}}}
    called = [Message("user", "wood"), Message("assistant", "", {"tool_calls": [call]})]
    [(ids, mask)] = chat.demonstrations(called)
    assert [token for token, learn in zip(ids, mask, strict=True) if learn] == list(chat.reply_ids("grass tree"))
    path = tmp_path / "calls.jsonl"
    line = {"messages": [message.as_dict() for message in called]}
    path.write_text("\n" + json.dumps(line))
    with pytest.raises(CorruptError, match=r"line 2: .*tool calls"):
        read_examples(path, base.weights.base_dir)


SHOWS_TOOLS = "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}" + FORGETFUL


def test_tools_are_in_the_prompt_unless_they_shall_not(base: Resolved, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(load_chat(base.weights.base_dir)._tokenizer)
    tokenizer.chat_template = SHOWS_TOOLS
    tokenizer.save_pretrained(tmp_path / "model")
    call = {"type": "function", "function": {"name": "grass", "arguments": {"item": "tree"}}}
    chat = [Message("user", "wood"), Message("assistant", "", {"tool_calls": [call]})]
    tools = [{"type": "function", "function": {"name": "grass", "parameters": {}}}]
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps({"messages": [message.as_dict() for message in chat], "tools": tools}))
    shown = load_chat(str(tmp_path / "model"))
    replies = shown.reply_ids("grass tree")
    for given, offered in ((SFTData(), tools), (SFTData(show_tools=False), [])):
        [example] = read_examples(path, str(tmp_path / "model"), given)
        assert example.ids == (*shown.prompt_ids(chat[:1], offered), *replies)
        assert sum(example.loss_mask) == len(replies)
    assert shown.prompt_ids(chat[:1], tools) != shown.prompt_ids(chat[:1])


READS_THOUGHTS = CHAT_TEMPLATE.replace(
    "{{ message['content'] or '' }}",
    "{% if message.reasoning_content %}water {{ message.reasoning_content }} water {% endif %}"
    "{{ message['content'] or '' }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}{% endfor %}",
)


@pytest.mark.parametrize("call", [False, True])
def test_reasoning_is_learned_on_request_only(base: Resolved, call: bool) -> None:
    tokenizer = copy.deepcopy(load_chat(base.weights.base_dir)._tokenizer)
    tokenizer.add_tokens(["<think>", "</think>"])
    calls = {"tool_calls": [{"type": "function", "function": {"name": "grass", "arguments": {}}}]} if call else {}
    answer = "" if call else "stone"
    messages = [Message("user", "wood"), Message("assistant", answer, {**calls, "reasoning_content": " tree\n"})]
    said = "grass" if call else "stone"
    tokenizer.chat_template = READS_THOUGHTS
    chat = Chat(tokenizer)
    assert learned(chat, messages) == chat.reply_ids(said)
    assert learned(chat, messages, thoughts=True) == chat.reply_ids(f"water tree water {said}")
    tokenizer.chat_template = READS_THOUGHTS.replace("message.reasoning_content", "message.other")
    assert learned(chat, messages) == chat.reply_ids(said)
    assert learned(chat, messages, thoughts=True) == chat.reply_ids(f"<think> tree </think> {said}")
    opens = tokenizer.chat_template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    assert opens != tokenizer.chat_template
    if not call:
        tokenizer.chat_template = opens
        assert learned(chat, messages, thoughts=True) == chat.reply_ids(f"tree </think> {said}")


SWITCHED = CHAT_TEMPLATE.replace(
    "assistant\n{% endif %}", "assistant\n{% if enable_thinking %}tree {% endif %}{% endif %}"
)


def test_prompts_ask_with_the_thinking_switch_of_the_rollouts(base: Resolved, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(load_chat(base.weights.base_dir)._tokenizer)
    tokenizer.chat_template = SWITCHED
    tokenizer.save_pretrained(tmp_path / "model")
    chat, asked = load_chat(str(tmp_path / "model")), [Message("user", "wood")]
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [asked[0].as_dict(), Message("assistant", "stone").as_dict()]}))
    prompts = set()
    for mode, thinking in (("think", True), ("no_think", False)):
        [example] = read_examples(path, str(tmp_path / "model"), SFTData(thinking_mode=mode))
        assert example.ids == (*chat.prompt_ids(asked, thinking=thinking), *chat.reply_ids("stone"))
        prompts.add(example.ids)
    assert len(prompts) == 2
    with pytest.raises(ConfigError, match="learn_reasoning"):
        validate(SFTConfig, {"job": {"data": "x"}, "data": {"learn_reasoning": True, "thinking_mode": "no_think"}})


def learned(chat: Chat, messages: list[Message], thoughts: bool = False) -> tuple[int, ...]:
    [(ids, mask)] = chat.demonstrations(messages, thoughts=thoughts)
    return tuple(token for token, learn in zip(ids, mask, strict=True) if learn)


def test_data_is_looked_for_beside_the_config_then_here_then_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("configs", "here", "project")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[1])
    config = validate(SFTConfig, {"job": {"data": "x.jsonl"}, "data": {"validation_path": "v.jsonl"}})
    with pytest.raises(NotFoundError, match=r"configs/x\.jsonl"):
        find_data("x.jsonl", folders[0], folders[2])
    for folder in reversed(folders):
        (folder / "x.jsonl").write_text("")
        assert find_data("x.jsonl", folders[0], folders[2]) == folder / "x.jsonl"
    (folders[2] / "v.jsonl").write_text("")
    found = located(config, folders[0], Home(folders[2], folders[2]))
    assert (found.job.data, found.data.validation_path) == (str(folders[0] / "x.jsonl"), str(folders[2] / "v.jsonl"))


def test_weights_that_learn_are_float32_everywhere() -> None:
    assert TrainingSpec("cpu").weights_dtype == TrainingSpec("cuda").weights_dtype == "float32"
    assert TrainingSpec("cuda", frozen=True).weights_dtype == TrainingSpec("cuda").compute_dtype == "bfloat16"
    assert TrainingSpec("cpu", frozen=True).compute_dtype == "float32"
