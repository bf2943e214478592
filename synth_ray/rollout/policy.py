"""Policies as transports: messages go in, a reply comes out; who computes it is the policy's business."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from synth_ray.core.hashing import derived_seed
from synth_ray.core.types import GenerateRequest, GenerateResult, Message, Reply, Sampling, Weights
from synth_ray.rollout.chat import Chat
from synth_ray.rollout.task import Episode, Teacher

Generate = Callable[[GenerateRequest], Awaitable[GenerateResult]]


class Policy(Protocol):
    """Answers one turn of one rollout."""

    async def reply(self, messages: Sequence[Message], turn: int, episode: Episode) -> Reply:
        """The next message. Raises PolicyError when it can't answer."""
        ...


class EnginePolicy:
    """Our engine: tokens in, tokens with log-probs and digest out; the request names its weights."""

    def __init__(
        self,
        generate: Generate,
        chat: Chat,
        rollout_id: str,
        weights: Weights,
        sampling: Sampling,
        thinking: bool | None = None,
    ) -> None:
        self._generate = generate
        self._chat = chat
        self._rollout_id = rollout_id
        self._weights = weights
        self._sampling = sampling
        self._thinking = thinking

    async def reply(self, messages: Sequence[Message], turn: int, episode: Episode) -> Reply:
        """Samples with a seed that depends on the rollout (its sampling seed, else its id) and the turn only."""
        seed = derived_seed(self._rollout_id if self._sampling.seed is None else self._sampling.seed, turn)
        request = GenerateRequest(
            request_id=f"{self._rollout_id}-{turn}",
            prompt_ids=self._chat.prompt_ids(messages, thinking=self._thinking),
            weights=self._weights,
            sampling=replace(self._sampling, seed=seed),
        )
        result = await self._generate(request)
        return Reply(
            text=self._chat.text(result.token_ids),
            prompt_ids=request.prompt_ids,
            token_ids=result.token_ids,
            logprobs=result.logprobs,
            finish_reason=result.finish_reason,
            weights_name=result.weights_name,
            weights_digest=result.weights_digest,
            usage={"input_tokens": len(request.prompt_ids), "output_tokens": len(result.token_ids)},
        )


class TeacherPolicy:
    """A scripted teacher; it may look at the episode itself."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    async def reply(self, messages: Sequence[Message], turn: int, episode: Episode) -> Reply:
        """The teacher's text; ``extra["kind"]`` says how it was made, if the teacher tells."""
        text = self._teacher.reply(episode)
        kind: Any = getattr(self._teacher, "last_kind", None)
        return Reply(text=text, extra={"kind": kind} if kind else {})
