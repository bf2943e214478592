"""Fine-tuning data: one chat per line as JSON, with a sidecar that says where it came from.

A line is ``{"messages": [...], "tools": [...], "metadata": {...}}``; ``tools`` may be absent. What `filter` writes has
one assistant message per line, at its end, with ``reasoning_content`` if the trace knows thoughts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth_ray.core.errors import CorruptError, NotFoundError
from synth_ray.core.hashing import canonical_json, sha256_text
from synth_ray.core.types import Message
from synth_ray.records.chat_formats import to_trl
from synth_ray.records.disk import write_atomic
from synth_ray.records.rollout_rows import to_json

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


@dataclass(frozen=True, slots=True)
class SftChat:
    """One line: a chat that ends with an assistant message, and the tools that the model was told of."""

    line: int
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


def write_sft(path: Path, lines: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> None:
    """Writes the JSONL file, then its sidecar ``<path>.meta.json``; each appears whole. Raises StorageError.

    The sidecar is ``meta`` and the ``sha256`` of the file.
    """
    text = "".join(f"{to_json(line)}\n" for line in lines)
    write_atomic(path, text)
    sidecar = {**meta, "sha256": sha256_text(text)}
    write_atomic(meta_path(path), json.dumps(sidecar, indent=2, sort_keys=True, allow_nan=False) + "\n")


def meta_path(path: Path) -> Path:
    """Where the sidecar of ``path`` is."""
    return path.with_name(f"{path.name}.meta.json")


def read_sft(path: Path) -> list[SftChat]:
    """The chats of a JSONL file, each up to its last assistant message; blank lines are skipped.

    Tool calls come with their arguments as objects, which is what chat templates want. Raises NotFoundError, or
    CorruptError that names the line: not JSON, no messages, a missing or unknown role, content that is not text, tool
    calls that are none, or no assistant message.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no data set {path}", "`synth-ray filter` makes one", path=str(path)) from error
    lines = ((number, line) for number, line in enumerate(raw.split(b"\n"), start=1) if line.strip())
    chats = [_chat(path, number, line) for number, line in lines]
    if not chats:
        raise CorruptError(f"{path} holds no examples", "filter with looser rules", path=str(path))
    return chats


def bad_line(path: Path, number: int, reason: str) -> CorruptError:
    """The error that names a line of a data set and what is wrong with it."""
    return CorruptError(
        f"{path}, line {number}: {reason}",
        'each line must be {"messages": [{"role": ..., "content": ...}, ...]} with an assistant message',
        path=str(path),
        line=number,
    )


def _chat(path: Path, number: int, line: bytes) -> SftChat:
    try:
        values = json.loads(line, parse_constant=_refuse)
        messages = [_message(message) for message in to_trl(values["messages"])]
        while messages and messages[-1].role != "assistant":
            messages.pop()
        if not messages:
            raise ValueError("no assistant message")
        return SftChat(number, tuple(messages), _tools(values.get("tools")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise bad_line(path, number, f"{error} is missing" if isinstance(error, KeyError) else str(error)) from error


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """OpenAI's shape; a bare function is put into it."""
    if not isinstance(value, list | None) or not all(isinstance(tool, dict) for tool in value or ()):
        raise ValueError("tools must be a list of objects")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in value or ())


def _message(value: Mapping[str, Any]) -> Message:
    role = value["role"]
    if role not in _ROLES:
        raise ValueError(f"unknown role {role!r}")
    extra = {key: entry for key, entry in value.items() if key not in ("role", "content")}
    if extra.get("tool_calls"):
        extra["tool_calls"] = [_call(call) for call in extra["tool_calls"]]
    return Message(role, _text(value.get("content")), extra)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's shape; a bare ``{"name": ..., "arguments": ...}`` is put into it."""
    if "function" in call:
        call["function"]["name"]  # a KeyError names what is missing
        return dict(call)
    arguments = call["arguments"]
    bare = {"name": call["name"], "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments}
    return {"type": "function", "function": bare}


def _text(content: Any) -> str:
    """Content as text: null is empty, and a list of OpenAI text parts is joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    raise ValueError(f"content is not text: {canonical_json(content)[:80]}")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
