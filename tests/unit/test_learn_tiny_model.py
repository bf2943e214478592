"""Tiny model: the same bytes every time, exact text, one format for prompts, training and serving."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from synth_ray.core.errors import CorruptError, NotFoundError
from synth_ray.core.hashing import sha256_file
from synth_ray.learn.model_files import base_digest
from synth_ray.learn.tiny_model import build_tiny_model, build_tokenizer

WORDS = ("face", "near", "4L", "2D", "water", ".", ",", "move_right", "do", "noop")
PIECES = ('{"actions": ["', '", "', '"]}')
MESSAGES = [{"role": "system", "content": "do"}, {"role": "user", "content": "face water. near water 4L 2D, noop."}]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model(WORDS, PIECES, directory, hidden=32, intermediate=48)
    return directory


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_dir)


def test_same_arguments_give_the_same_bytes(model_dir: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    build_tiny_model(WORDS, PIECES, tmp_path / "same", hidden=32, intermediate=48)
    build_tiny_model(WORDS, PIECES, tmp_path / "other", seed=1, hidden=32, intermediate=48)
    for path in model_dir.iterdir():
        assert sha256_file(path) == sha256_file(tmp_path / "same" / path.name), path.name
    assert base_digest(model_dir) == base_digest(tmp_path / "same") != base_digest(tmp_path / "other")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("actions", [["move_right", "do"], ["noop"], ["do"] * 5])
def test_reply_of_k_actions_is_exact_and_2k_plus_2_tokens(tokenizer: Any, actions: list[str]) -> None:
    text = '{"actions": ["' + '", "'.join(actions) + '"]}'
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert len(ids) == 2 * len(actions) + 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in ids


def test_prompt_ids_equal_the_training_format(tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    text = (
        "<|im_start|>system\ndo<|im_end|>\n<|im_start|>user\nface water. near water 4L 2D, noop.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert prompt == tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in prompt


def test_prompt_and_reply_are_the_whole_conversation(tokenizer: Any) -> None:
    reply = '{"actions": ["do"]}'
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*MESSAGES, {"role": "assistant", "content": reply}])["input_ids"]
    assert whole == [*prompt, *tokenizer(reply, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def test_model_loads_with_untied_embeddings_and_ends_with_im_end(model_dir: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    assert model.config.vocab_size == len(tokenizer) == len({*WORDS, *PIECES}) + 7
    assert model.config.max_position_embeddings == 512
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == end
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != end


def test_default_size_is_what_the_documentation_says(tmp_path: Path) -> None:
    build_tiny_model([f"w{i}" for i in range(101)], PIECES, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert sum(parameter.numel() for parameter in model.parameters()) == 430_464


def test_word_that_would_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'two words' is not one word"):
        build_tokenizer(["two words"], PIECES, 512)


def test_digest_changes_with_weights_and_config(model_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model_dir, tmp_path / "copy")
    digest = base_digest(copy)
    (copy / "config.json").write_text("{}")
    assert base_digest(copy) != digest == base_digest(model_dir)
    (copy / "model.safetensors").rename(copy / "renamed.safetensors")
    assert base_digest(copy) != digest


def test_folders_without_safe_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="not a model folder"):
        base_digest(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotFoundError, match="no safetensors"):
        base_digest(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CorruptError, match="pickled"):
        base_digest(tmp_path)
