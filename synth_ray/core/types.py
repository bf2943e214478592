"""What a rollout is made of: small frozen values that every layer shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class StopReason(StrEnum):
    """Why an episode ended."""

    TURNS = "turns"
    DONE = "done"
    DEADLINE = "deadline"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def regular(self) -> bool:
        """Whether the episode's outcome says something about the player: nothing cut it off."""
        return self in (StopReason.TURNS, StopReason.DONE)


class Provenance(StrEnum):
    """Who chose the actions of a rollout."""

    ENGINE = "engine"
    REMOTE = "remote"
    EXPERT = "expert"


@dataclass(frozen=True, slots=True)
class Weights:
    """The exact weights that a generate call wants.

    ``base_dir`` is a local model folder and ``base_digest`` the SHA-256 of its weights. ``adapter`` names one version
    (``run@7``) and ``adapter_digest`` is the SHA-256 of its safetensors bytes; both are empty for the bare base.
    """

    base_dir: str
    base_digest: str
    adapter: str = ""
    adapter_digest: str = ""

    @property
    def name(self) -> str:
        """What a turn records as its policy version."""
        return self.adapter or "base"

    @property
    def digest(self) -> str:
        """What a turn records as the digest of the weights that sampled it."""
        return self.adapter_digest or self.base_digest


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; ``top_logprobs`` asks for the likeliest tokens at every place, at most 20."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    seed: int | None = None
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Tokens in: one prompt, the weights that shall answer it, and how to sample."""

    request_id: str
    prompt_ids: tuple[int, ...]
    weights: Weights
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """Tokens out: ``logprobs[i]`` is the natural log-probability of ``token_ids[i]`` under the sampling distribution.

    ``weights_name`` and ``weights_digest`` are what the engine really used, by its own account. ``top_logprobs[i]`` are
    the likeliest tokens at place i with their log-probabilities, best first, if they were asked for.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    weights_name: str
    weights_digest: str
    cached_tokens: int = 0
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class RewardParts:
    """A ledger: named parts, and a total that is their sum."""

    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Sum of the parts, exactly rounded: their order changes nothing."""
        return math.fsum(self.parts.values())


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """Which signal trains. ``strategy`` is a name in ``rollout.rewards.STRATEGIES``; ``scale`` multiplies its parts.

    ``weights`` (achievement: points) and ``limits`` (achievement: how often it pays, 0 without end) are for the
    strategies that look at them; so is ``event_kind``, "unique" or "absolute". ``beta`` is the learner's time weight
    and in no ledger.
    """

    strategy: str = "outcome"
    scale: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    event_kind: str = "unique"
    beta: float = 0.0

    @property
    def stepwise(self) -> bool:
        """Whether turns are paid one by one; otherwise the episode is paid as a whole."""
        return self.strategy != "outcome"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A remote OpenAI-compatible model: never a key, which the caller's side looks up by the URL's origin.

    ``url`` is the whole chat-completions URL, query included. ``vendor`` is a provider's name ("openai", "groq") or
    empty. ``body`` holds request fields that are passed on as they are (``thinking_mode``, ``top_p``, ...).
    """

    url: str
    model: str
    vendor: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    correlation_id: str = ""
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """Everything that determines one rollout, but for the policy's own randomness, which ``rollout_id`` seeds.

    ``provider`` is "engine" (then ``weights`` and ``sampling`` say who answers), "remote" (then ``endpoint`` and
    ``sampling`` do) or the name of a teacher of the task (then ``teacher`` holds its settings). ``thinking`` is the
    switch of the engine's chat template; None leaves it to the template. ``deadline_s`` bounds the whole episode,
    ``turn_timeout_s`` one turn with all of its attempts. ``calls_together`` is how many engine calls of concurrent
    episodes may share one remote call.
    """

    rollout_id: str
    run_id: str
    task: str
    seed: int
    model: str
    provider: str = "engine"
    weights: Weights | None = None
    endpoint: Endpoint | None = None
    sampling: Sampling = field(default_factory=Sampling)
    thinking: bool | None = None
    teacher: Mapping[str, Any] = field(default_factory=dict)
    env_config: Mapping[str, Any] = field(default_factory=dict)
    rewards: RewardSpec = field(default_factory=RewardSpec)
    max_turns: int = 10
    deadline_s: float = 300.0
    turn_timeout_s: float = 180.0
    calls_together: int = 1
    step: int = -1
    group: int = -1
    index: int = 0


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What one turn did to the world; rewards are computed from facts, never inside the world.

    ``unlocked`` are achievements that became true in this turn. Deltas hold changed entries only.
    ``problem`` is None for a usable reply, else what was wrong with it (it is told to the model and counted).
    """

    actions: tuple[str, ...]
    unlocked: tuple[str, ...] = ()
    inventory_delta: Mapping[str, int] = field(default_factory=dict)
    counter_delta: Mapping[str, int] = field(default_factory=dict)
    env_steps: int = 0
    env_reward: float = 0.0
    done: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message in OpenAI's shape; ``extra`` holds tool calls, reasoning and the like; ``images`` data URLs."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's JSON shape: text, or a list of parts if there are images."""
        if not self.images:
            return {"role": self.role, "content": self.content, **self.extra}
        text = [{"type": "text", "text": self.content}] if self.content else []
        pictures = [{"type": "image_url", "image_url": {"url": url}} for url in self.images]
        return {"role": self.role, "content": [*text, *pictures], **self.extra}


@dataclass(frozen=True, slots=True)
class Reply:
    """A policy's answer to one turn. Token fields are empty when the policy is not our engine."""

    text: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    prompt_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: str = "stop"
    weights_name: str = ""
    weights_digest: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision: what was shown, what was answered, what it did, what it was worth."""

    index: int
    messages: tuple[Message, ...]
    reply: Reply
    facts: StepFacts
    reward: RewardParts
    sample_ms: float
    env_ms: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """One finished episode. ``outcome`` is the environment's outcome reward (Crafter: unique achievements).

    ``final_text`` is the observation after the last turn, which no policy saw.
    ``seed``, ``env_config`` and the actions of its turns are all that a replay needs.
    """

    rollout_id: str
    run_id: str
    task: str
    seed: int
    model: str
    provenance: Provenance
    turns: tuple[Turn, ...]
    outcome: float
    achievements: tuple[str, ...]
    stop_reason: StopReason
    started_at: str
    duration_ms: float
    step: int = -1
    group: int = -1
    index: int = 0
    error: str | None = None
    final_text: str = ""
    env_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the episode ran to a regular end."""
        return self.stop_reason.regular

    @property
    def invalid_turns(self) -> int:
        """Number of turns whose reply could not be used."""
        return sum(turn.facts.problem is not None for turn in self.turns)
