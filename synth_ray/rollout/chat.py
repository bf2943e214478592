"""Messages to tokens and back: the only place where text becomes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from synth_ray.core.errors import ConfigError, NotFoundError
from synth_ray.core.types import Message

_REASONING = "reasoning_content"
_THINK, _END_THINK = "<think>", "</think>"


class Chat:
    """The chat template and tokenizer of one model folder."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[Any] = (), thinking: bool | None = None
    ) -> tuple[int, ...]:
        """The ids that ask the model for its next message; ``thinking`` is the template's switch, if it has one.

        Raises ConfigError for messages with pictures.
        """
        if any(message.images for message in messages):
            raise ConfigError(
                "a message carries a picture, but the engine's models read text only",
                "leave use_vision and image_only_mode out of the env config, or use a remote model that sees",
            )
        chat = [message.as_dict() for message in messages]
        ids = self._tokenizer.apply_chat_template(
            chat,
            tools=list(tools) or None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **_switch(thinking),
        )
        return tuple(ids)

    def reply_ids(self, text: str) -> tuple[int, ...]:
        """The ids of a demonstrated reply, with the token that ends it."""
        return (*self._tokenizer.encode(text, add_special_tokens=False), self.end_id)

    def demonstrations(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] = (),
        only_last: bool = False,
        thoughts: bool = False,
        thinking: bool | None = None,
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """``(ids, mask)`` rows that show every assistant message once; the mask is 1 on these messages' tokens.

        Each reply follows the very ids that would have asked the model for it. Where the template shows a message
        otherwise once it is history (some drop the thinking), the chat becomes several rows. The messages'
        ``reasoning_content`` is learned with ``thoughts`` and left out everywhere without; ``thinking`` is the switch
        that the prompts are asked with. Raises ValueError if the template leaves out tool calls.
        """
        messages = messages if thoughts else [_without_thoughts(message) for message in messages]
        replies = [index for index, message in enumerate(messages) if message.role == "assistant"]
        rows: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for index in replies[-1:] if only_last else replies:
            prompt = self.prompt_ids(messages[:index], tools, thinking)
            reply = self._reply(messages[: index + 1], tools, thinking)
            before, mask = rows.pop() if rows and prompt[: len(rows[-1][0])] == rows[-1][0] else ((), ())
            rows.append(((*prompt, *reply), (*mask, *(0,) * (len(prompt) - len(before)), *(1,) * len(reply))))
        return rows

    def _reply(self, messages: Sequence[Message], tools: Sequence[Any], thinking: bool | None) -> tuple[int, ...]:
        """The ids of the last message; with tool calls or thoughts the template's own text up to the token at its end.

        Thoughts that the template does not show go before the answer, in the tags that most models know.
        """
        message = messages[-1]
        thoughts, calls = _thoughts(message), message.extra.get("tool_calls")
        if not thoughts and not calls:
            return self.reply_ids(message.content)
        asked = self._rendered(messages[:-1], tools, thinking, ask=True)
        answered = self._rendered(messages, tools, thinking, ask=False)
        end = self._tokenizer.convert_ids_to_tokens(self.end_id)
        said = answered.removeprefix(asked).partition(end)[0] if answered.startswith(asked) else ""
        names = [str(call["function"]["name"]) for call in calls or ()]
        if calls and not (said and all(name in said for name in names)):
            raise ValueError("the model's chat template does not show tool calls")
        if thoughts and thoughts not in said:
            opening = "" if asked.rstrip().endswith(_THINK) else f"{_THINK}\n"
            said = f"{opening}{thoughts}\n{_END_THINK}\n\n{said if calls else message.content}"
        return self.reply_ids(said)

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Any], thinking: bool | None, ask: bool) -> str:
        chat = [message.as_dict() for message in messages]
        return str(
            self._tokenizer.apply_chat_template(
                chat, tools=list(tools) or None, add_generation_prompt=ask, tokenize=False, **_switch(thinking)
            )
        )

    def text(self, token_ids: Sequence[int]) -> str:
        """A sampled reply as text, without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """What each token adds to the text; together they are ``text(token_ids)``.

        A character that several tokens spell comes with the last of them.
        """
        from tokenizers.decoders import DecodeStream

        stream, backend = DecodeStream(skip_special_tokens=True), self._tokenizer.backend_tokenizer
        pieces = [stream.step(backend, token_id) or "" for token_id in token_ids]
        if pieces:
            pieces[-1] += self.text(token_ids)[len("".join(pieces)) :]
        return pieces

    def token(self, token_id: int) -> str:
        """One token by itself, special or not."""
        return str(self._tokenizer.decode([token_id]))


def _switch(thinking: bool | None) -> dict[str, bool]:
    return {} if thinking is None else {"enable_thinking": thinking}


def _thoughts(message: Message) -> str:
    given = message.extra.get(_REASONING)
    return given.strip() if isinstance(given, str) else ""


def _without_thoughts(message: Message) -> Message:
    extra = {key: value for key, value in message.extra.items() if key != _REASONING}
    return replace(message, extra=extra) if len(extra) < len(message.extra) else message


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
