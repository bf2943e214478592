"""The judge: reviews of rollouts by a chat model, with a cache, a budget and a breaker.

Invariants: a review never raises and never waits longer than its deadline; what goes wrong is a failed review with a
reason, which has no scores. Only replies that were usable are cached.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from synth_ray.core.errors import EndpointRefused, SynthRayError
from synth_ray.core.hashing import canonical_json, sha256_text
from synth_ray.core.judge_sections import JudgeOptions
from synth_ray.core.origins import InferenceOrigins
from synth_ray.core.types import Endpoint, Rollout, Sampling
from synth_ray.rollout.judge.guards import Breaker, CallBudget
from synth_ray.rollout.judge.prompt import messages
from synth_ray.rollout.judge.reply import UnusableReply, read_review
from synth_ray.rollout.judge.review import Review, failed
from synth_ray.rollout.judge.rubric import Rubrics
from synth_ray.rollout.judge.transcript import transcript
from synth_ray.rollout.remote.client import ChatClient
from synth_ray.rollout.remote.redaction import shown
from synth_ray.rollout.remote.reply import read_reply
from synth_ray.rollout.remote.request import chat_body, check_body

log = logging.getLogger(__name__)
_SEED = 0
_COOLDOWN_S = 30.0


class Cache(Protocol):
    """Replies by key; both calls may block, and may be made from any thread."""

    def get(self, key: str) -> str | None:
        """The reply, if it is there."""
        ...

    def put(self, key: str, reply: str) -> None:
        """Keeps a reply."""
        ...

    def close(self) -> None:
        """Nothing is asked of it any more."""
        ...


class Judge:
    """Belongs to one event loop. ``rubrics`` say what is scored; ``cache`` is None if nothing is kept.

    Raises ConfigError for an origin that is not allowed or a wrong ``body``, PrerequisiteError for a missing key.
    """

    def __init__(
        self,
        options: JudgeOptions,
        rubrics: Rubrics,
        origins: InferenceOrigins,
        client: ChatClient,
        cache: Cache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_body(options.body)
        self._target = origins.target(options.url)
        self._options, self._rubrics, self._client, self._cache = options, rubrics, client, cache
        self._endpoint = Endpoint(options.url, options.model, options.vendor, options.body)
        self._sampling = Sampling(temperature=options.temperature, max_tokens=options.max_tokens)
        self._budget = CallBudget(options.max_calls, options.max_seconds, clock)
        self._breaker = Breaker(options.give_up_after, _COOLDOWN_S, clock)
        self._slots = asyncio.Semaphore(options.max_concurrency)

    async def review_all(self, rollouts: Sequence[Rollout], within_s: float) -> dict[str, Review]:
        """The reviews by rollout id, after ``within_s`` at the latest."""
        end = asyncio.get_running_loop().time() + within_s
        reviews = await asyncio.gather(*(self._safely(one, end) for one in rollouts))
        return {one.rollout_id: review for one, review in zip(rollouts, reviews, strict=True)}

    async def review(self, rollout: Rollout, within_s: float) -> Review:
        """The review of one rollout."""
        return (await self.review_all([rollout], within_s))[rollout.rollout_id]

    async def aclose(self) -> None:
        """Closes the connections and the cache."""
        await self._client.aclose()
        if self._cache is not None:
            self._cache.close()

    async def _safely(self, rollout: Rollout, end: float) -> Review:
        try:
            async with asyncio.timeout_at(end):
                return await self._review(rollout)
        except TimeoutError:
            return failed("deadline", "the review did not end in time")
        except Exception as error:  # A mistake in here must not end a run that can go on without the judge.
            log.exception("the review of rollout %s failed", rollout.rollout_id)
            return failed("internal", f"{type(error).__name__}: {shown(str(error))}")

    async def _review(self, rollout: Rollout) -> Review:
        n_turns = len(rollout.turns)
        text = transcript(rollout, self._options.max_trace_chars)
        if text is None:
            return failed("too_long", f"{n_turns} turns do not fit into max_trace_chars")
        asked = messages(self._rubrics, text, n_turns)
        body = chat_body(self._endpoint, self._target.vendor, asked, (), self._sampling, _SEED)
        key = sha256_text(canonical_json({"url": self._options.url, "body": body}))
        kept = await self._kept(key, n_turns)
        if kept:
            return kept
        async with self._slots:
            if self._budget.used_up:
                return failed("budget", self._budget.used_up)
            if not self._breaker.lets_through():
                return failed("stopped", f"the judge failed {self._options.give_up_after} times in a row")
            return await self._asked(body, key, n_turns)

    async def _asked(self, body: Mapping[str, Any], key: str, n_turns: int) -> Review:
        try:
            reply = await self._reply(body)
            review = read_review(reply, self._rubrics, n_turns)
        except EndpointRefused as error:
            problem = failed("refused", error.message)
        except SynthRayError as error:
            problem = failed("unavailable", error.message)
        except UnusableReply as error:
            problem = failed("malformed", str(error))
        except asyncio.CancelledError:
            self._breaker.failed()
            raise
        else:
            self._breaker.succeeded()
            await self._keep(key, reply)
            return review
        self._breaker.failed()
        return problem

    async def _reply(self, body: Mapping[str, Any]) -> str:
        """The text that the judge answers. Raises PolicyError, or UnusableReply if there is none."""
        with self._budget.call():
            within_s = self._budget.seconds_left
            completion = await self._client.complete(self._target, body, self._options.timeout_s, within_s)
        if completion.value is None:
            raise UnusableReply(completion.problem)
        reply = read_reply(completion.value)
        if "problem" in reply.extra:
            raise UnusableReply(str(reply.extra["problem"]))
        return reply.text

    async def _kept(self, key: str, n_turns: int) -> Review | None:
        """The cached review; a cache that fails is one that holds nothing."""
        if self._cache is None:
            return None
        try:
            reply = await asyncio.to_thread(self._cache.get, key)
            return None if reply is None else replace(read_review(reply, self._rubrics, n_turns), cached=True)
        except (SynthRayError, UnusableReply) as error:
            log.warning("a cached review could not be read: %s", error)
            return None

    async def _keep(self, key: str, reply: str) -> None:
        if self._cache is None:
            return
        try:
            await asyncio.to_thread(self._cache.put, key, reply)
        except SynthRayError as error:
            log.warning("a review could not be cached: %s", error)
