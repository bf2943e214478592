"""Messages to tokens and back: the only place where text becomes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from synth_ray.core.errors import ConfigError, NotFoundError
from synth_ray.core.types import Message


class Chat:
    """The chat template and tokenizer of one model folder."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The ids that ask the model for its next message. Raises ConfigError for messages with pictures."""
        if any(message.images for message in messages):
            raise ConfigError(
                "a message carries a picture, but the engine's models read text only",
                "leave use_vision and image_only_mode out of the env config, or use a remote model that sees",
            )
        chat = [message.as_dict() for message in messages]
        ids = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        return tuple(ids)

    def reply_ids(self, text: str) -> tuple[int, ...]:
        """The ids of a demonstrated reply, with the token that ends it."""
        return (*self._tokenizer.encode(text, add_special_tokens=False), self.end_id)

    def text(self, token_ids: Sequence[int]) -> str:
        """A sampled reply as text, without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))


@lru_cache(maxsize=8)
def load_chat(model_dir: str) -> Chat:
    """The chat of a local model folder."""
    try:
        return Chat(_tokenizer(model_dir))
    except OSError as error:
        raise NotFoundError(f"no tokenizer in {model_dir}: {error}") from None


def _tokenizer(model_dir: str) -> Any:
    if (Path(model_dir) / "tokenizer.json").is_file():
        # The generic class reads every tokenizer.json and, unlike the automatic one, does not import torch.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(model_dir, local_files_only=True)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
