"""Chat completions: from what the engine sampled to OpenAI's answer, whole or as a stream of chunks."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from serve.http_json import json_bytes
from serve.openai.request import ChatCall
from serve.openai.tool_calls import find_tool_calls, openai_calls
from synth_ray.core.types import GenerateResult
from synth_ray.rollout.chat import Chat

_IMPOSSIBLE = -9999.0
"""Log-probability of what can't be drawn, since JSON has no infinity; OpenAI's own number."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One reply. ``pieces`` are what its tokens add to its text, up to where a stop string cuts it."""

    index: int
    text: str
    pieces: tuple[str, ...]
    tool_calls: tuple[dict[str, Any], ...]
    finish_reason: str
    logprobs: tuple[dict[str, Any], ...] | None
    extension: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished completion; ``created`` is Unix time."""

    call: ChatCall
    created: int
    fingerprint: str
    choices: tuple[Choice, ...]
    usage: dict[str, Any]
    id: str


def completion(
    call: ChatCall, chat: Chat, prompt_ids: Sequence[int], results: Sequence[GenerateResult], created: int
) -> Completion:
    """The answer to ``call``: one choice per result."""
    choices = tuple(_choice(call, chat, prompt_ids, index, result) for index, result in enumerate(results))
    sampled = sum(len(result.token_ids) for result in results)
    usage = {
        "prompt_tokens": len(prompt_ids),
        "completion_tokens": sampled,
        "total_tokens": len(prompt_ids) + sampled,
        "prompt_tokens_details": {"cached_tokens": max(result.cached_tokens for result in results)},
    }
    fingerprint = f"fp_{results[0].weights_digest[:16]}"
    return Completion(call, created, fingerprint, choices, usage, f"chatcmpl-{secrets.token_hex(12)}")


def whole(done: Completion) -> dict[str, Any]:
    """The body of an answer in one piece."""
    choices = []
    for choice in done.choices:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.tool_calls:
            message |= {"content": choice.text or None, "tool_calls": list(choice.tool_calls)}
        logprobs = None if choice.logprobs is None else {"content": list(choice.logprobs), "refusal": None}
        shown = {"index": choice.index, "message": message, "logprobs": logprobs}
        choices.append({**shown, "finish_reason": choice.finish_reason, **_extended(choice)})
    return {**_head(done, "chat.completion"), "choices": choices, "usage": done.usage}


def events(done: Completion) -> Iterator[bytes]:
    """The same as server-sent events, a chunk per token, with ``[DONE]`` at the end."""
    for choice in done.choices:
        for delta, logprobs in _deltas(choice):
            yield _event(_chunk(done, choice, delta, logprobs, None))
        yield _event(_chunk(done, choice, {}, None, choice.finish_reason) | _last(done, choice))
    if done.call.include_usage:
        yield _event({**_head(done, "chat.completion.chunk"), "choices": [], "usage": done.usage})
    yield b"data: [DONE]\n\n"


def cut_at(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins, or None."""
    return min((at for at in map(text.find, stops) if at >= 0), default=None)


def _choice(call: ChatCall, chat: Chat, prompt_ids: Sequence[int], index: int, result: GenerateResult) -> Choice:
    pieces = chat.pieces(result.token_ids)
    cut = cut_at("".join(pieces), call.stop)
    if cut is not None:
        pieces = _until(pieces, cut)
    text, calls = find_tool_calls("".join(pieces), call.callable)
    kept = openai_calls(calls if call.parallel else calls[:1])
    reason = "tool_calls" if kept else "stop" if cut is not None else result.finish_reason
    return Choice(
        index=index,
        text=text,
        pieces=tuple(pieces),
        tool_calls=tuple(kept),
        finish_reason=reason,
        logprobs=_logprobs(chat, result, len(pieces)) if call.logprobs else None,
        extension=_extension(prompt_ids, result) if call.return_token_ids else None,
    )


def _until(pieces: Sequence[str], cut: int) -> list[str]:
    """The pieces of the first ``cut`` characters."""
    kept: list[str] = []
    for piece in pieces:
        if cut <= 0:
            break
        kept.append(piece[:cut])
        cut -= len(piece)
    return kept


def _logprobs(chat: Chat, result: GenerateResult, count: int) -> tuple[dict[str, Any], ...]:
    """One entry per shown token; the one that ends the reply is not shown."""
    ids = result.token_ids[:count]
    shown = ids[:-1] if ids and ids[-1] == chat.end_id else ids
    return tuple(
        {
            **_entry(chat, token, result.logprobs[place]),
            "top_logprobs": [_entry(chat, *one) for one in result.top_logprobs[place]] if result.top_logprobs else [],
        }
        for place, token in enumerate(shown)
    )


def _entry(chat: Chat, token_id: int, logprob: float) -> dict[str, Any]:
    text = chat.token(token_id)
    return {"token": text, "logprob": max(logprob, _IMPOSSIBLE), "bytes": list(text.encode("utf-8", "replace"))}


def _extension(prompt_ids: Sequence[int], result: GenerateResult) -> dict[str, Any]:
    return {
        "prompt_token_ids": list(prompt_ids),
        "token_ids": list(result.token_ids),
        "logprobs": [max(one, _IMPOSSIBLE) for one in result.logprobs],
        "weights_name": result.weights_name,
        "weights_digest": result.weights_digest,
    }


def _extended(choice: Choice) -> dict[str, Any]:
    return {} if choice.extension is None else {"synth_ray": choice.extension}


def _head(done: Completion, kind: str) -> dict[str, Any]:
    return {
        "id": done.id,
        "object": kind,
        "created": done.created,
        "model": done.call.model,
        "system_fingerprint": done.fingerprint,
    }


def _deltas(choice: Choice) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    yield {"role": "assistant", "content": None if choice.tool_calls else ""}, []
    entries = list(choice.logprobs or ())
    if choice.tool_calls:
        if choice.text or entries:
            yield {"content": choice.text}, entries
        calls = [{"index": index, **call} for index, call in enumerate(choice.tool_calls)]
        yield {"tool_calls": calls}, []
        return
    for place, piece in enumerate(choice.pieces):
        logprobs = entries[place : place + 1]
        if piece or logprobs:
            yield {"content": piece}, logprobs


def _chunk(
    done: Completion, choice: Choice, delta: dict[str, Any], logprobs: list[dict[str, Any]] | None, reason: str | None
) -> dict[str, Any]:
    shown = {"content": logprobs, "refusal": None} if logprobs else None
    one = {"index": choice.index, "delta": delta, "logprobs": shown, "finish_reason": reason}
    usage = {"usage": None} if done.call.include_usage else {}
    return {**_head(done, "chat.completion.chunk"), "choices": [one], **usage}


def _last(done: Completion, choice: Choice) -> dict[str, Any]:
    last = {"index": choice.index, "delta": {}, "logprobs": None, "finish_reason": choice.finish_reason}
    return {"choices": [{**last, **_extended(choice)}]}


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json_bytes(chunk) + b"\n\n"
