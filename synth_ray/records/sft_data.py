"""Fine-tuning data: one chat per line as JSON, with a sidecar that says where it came from.

A line is ``{"messages": [...], "metadata": {...}}``; the loss is on the last assistant message, which is the reply.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from synth_ray.core.errors import CorruptError, NotFoundError
from synth_ray.core.hashing import canonical_json, sha256_text
from synth_ray.core.types import Message
from synth_ray.records.disk import write_atomic
from synth_ray.records.rollout_rows import to_json

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


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


def read_sft(path: Path) -> list[tuple[Message, ...]]:
    """The chats of a JSONL file, each up to its last assistant message; blank lines are skipped.

    Raises NotFoundError, or CorruptError that names the line: not JSON, no messages, a missing or unknown role, content
    that is not text, or no assistant message.
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


def _chat(path: Path, number: int, line: bytes) -> tuple[Message, ...]:
    try:
        messages = [_message(message) for message in json.loads(line, parse_constant=_refuse)["messages"]]
        while messages and messages[-1].role != "assistant":
            messages.pop()
        if not messages:
            raise ValueError("no assistant message")
        return tuple(messages)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CorruptError(
            f"{path}, line {number}: {reason}",
            'each line must be {"messages": [{"role": ..., "content": ...}, ...]} with an assistant message',
            path=str(path),
            line=number,
        ) from error


def _message(value: Mapping[str, Any]) -> Message:
    role = value["role"]
    if role not in _ROLES:
        raise ValueError(f"unknown role {role!r}")
    extra = {key: entry for key, entry in value.items() if key not in ("role", "content")}
    return Message(role, _text(value.get("content")), extra)


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
