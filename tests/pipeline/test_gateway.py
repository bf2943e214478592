"""The gateway on the real parts: its models answer as the engine does, and its jobs' API sees the cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from serve.models import resolve
from synth_ray.core.hashing import sha256_bytes
from synth_ray.core.paths import Home
from synth_ray.core.secrets import ENVIRONMENT_KEY, read_env_file
from synth_ray.core.types import GenerateRequest, GenerateResult, Message, Sampling
from synth_ray.learn.adapter_files import write_adapter
from synth_ray.learn.reference import reference_logprobs
from synth_ray.records.registry import Model, Registry
from synth_ray.rollout.chat import load_chat
from synth_ray.runtime.job_client import JobClient
from tests.pipeline.conftest import CONFIGS

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(480)]

BASE, RL = "crafter-tiny", "rl:crafter-tiny:job_gateway"
TEXT = "face water . near tree 2L , cow 3D ."
TOKENS, TEMPERATURE = 12, 0.7


@dataclass(frozen=True)
class Deployed:
    """Where the gateway answers, and what it serves."""

    client: openai.OpenAI
    origin: str
    key: str
    adapter: Path


def adapter_of(base_dir: Path) -> tuple[bytes, dict[str, Any]]:
    """An adapter that changes what the model says."""
    import torch
    from transformers import AutoModelForCausalLM

    from synth_ray.learn.lora import LoraSpec, adapter_bytes, attach

    model = attach(AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32), LoraSpec(r=8, alpha=32), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.2, generator=generator)
    return adapter_bytes(model)


@pytest.fixture(scope="module")
def deployed(jobs: JobClient, home: Home, env_file: Path) -> Iterator[Deployed]:
    result = jobs.wait(jobs.submit("deploy", [CONFIGS / "quickstart" / "deploy.toml"], ["gateway=true"]))
    folder = home.project / "gateway-adapter"
    with Registry(home.state_db) as registry:
        base = resolve(BASE, home, registry).weights
        data, config = adapter_of(Path(base.base_dir))
        write_adapter(folder, data, config)
        about = {"base_digest": base.base_digest}
        digest = sha256_bytes(data)
        registry.add_model(Model(RL, BASE, "adapter", str(folder), digest, "job_gateway", base.base_dir, metrics=about))
    key = read_env_file(env_file)[ENVIRONMENT_KEY]
    url = result["gateway"]
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=120) as client:
        yield Deployed(client, url.removesuffix("/v1"), key, folder)
    import ray

    ray.shutdown()


def ask(deployed: Deployed, model: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": TEXT}]
    given = {"seed": 11, "temperature": TEMPERATURE, "max_tokens": TOKENS, "extra_body": {"return_token_ids": True}}
    return deployed.client.chat.completions.create(model=model, messages=messages, **{**given, **more})


def sampled(home: Home, jobs: JobClient, model: str) -> GenerateResult:
    """What the engine says to the same tokens, asked by its handle as rollouts do."""
    import ray
    from ray import serve as ray_serve

    from serve import policy
    from synth_ray.runtime.adapters import NAMESPACE, store_actor

    ray.init(address="auto", namespace=NAMESPACE, ignore_reinit_error=True, log_to_driver=False)
    with Registry(home.state_db) as registry:
        found = resolve(model, home, registry)
    if found.adapter:
        ray.get(store_actor().publish.remote(found.adapter), timeout=60)
    prompt = load_chat(found.weights.base_dir).prompt_ids([Message("user", TEXT)])
    request = GenerateRequest(
        f"direct-{model}", prompt, found.weights, Sampling(temperature=TEMPERATURE, max_tokens=TOKENS, seed=11)
    )
    (answer,) = ray_serve.get_app_handle(policy.APP).generate.remote([request]).result(timeout_s=120)
    assert isinstance(answer, GenerateResult), answer
    return answer


def test_every_model_is_listed(deployed: Deployed) -> None:
    assert {BASE, RL} <= {model.id for model in deployed.client.models.list()}


@pytest.mark.parametrize("model", [BASE, RL])
def test_tokens_are_those_of_the_engine_and_the_named_weights(
    deployed: Deployed, home: Home, jobs: JobClient, model: str
) -> None:
    ours = ask(deployed, model).choices[0].model_extra["synth_ray"]
    direct = sampled(home, jobs, model)
    assert tuple(ours["token_ids"]) == direct.token_ids
    assert ours["weights_digest"] == direct.weights_digest
    assert ours["logprobs"] == pytest.approx(direct.logprobs, abs=1e-4)
    adapter = deployed.adapter if model == RL else None
    with Registry(home.state_db) as registry:
        base_dir = Path(resolve(BASE, home, registry).weights.base_dir)
    pairs = [(ours["prompt_token_ids"], ours["token_ids"])]
    (expected,) = reference_logprobs(base_dir, adapter, pairs, TEMPERATURE)
    assert ours["logprobs"] == pytest.approx(expected, abs=1e-3)


def test_base_and_adapter_answer_side_by_side(deployed: Deployed) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(ask, deployed, model) for model in (BASE, RL) * 4))

    answers = asyncio.run(main())
    texts = {model: {one.choices[0].message.content for one in answers if one.model == model} for model in (BASE, RL)}
    assert all(len(found) == 1 for found in texts.values())
    assert texts[BASE] != texts[RL]


def test_streams_log_probs_and_choices(deployed: Deployed) -> None:
    whole = ask(deployed, BASE, n=2, logprobs=True, top_logprobs=3)
    chunks = list(ask(deployed, BASE, n=2, stream=True))
    for choice in whole.choices:
        parts = [one.choices[0].delta.content or "" for one in chunks if one.choices[0].index == choice.index]
        assert "".join(parts) == choice.message.content
        for entry in choice.logprobs.content:
            likeliest = [one.logprob for one in entry.top_logprobs]
            assert len(likeliest) == 3
            assert likeliest == sorted(likeliest, reverse=True)
            assert entry.logprob <= likeliest[0] + 1e-6


def test_wrong_keys_and_models_are_refused(deployed: Deployed) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean"):
        ask(deployed, "crafter-tny")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{deployed.origin}/v1", api_key="wrong", max_retries=0).models.list()
    assert httpx2.get(f"{deployed.origin}/grpo-crafter/").json()["service"] == "grpo-crafter"


@pytest.mark.long
def test_a_job_posted_over_http_runs_to_its_end(deployed: Deployed, home: Home) -> None:
    headers = {"Authorization": f"Bearer {deployed.key}"}
    api = f"{deployed.origin}/api"
    task_app = {"endpoint_base_url": f"{deployed.origin}/grpo-crafter"}
    assert httpx2.post(f"{api}/rl/verify_task_app", headers=headers, json=task_app).json()["any_ok"] is True
    call = {"role": "assistant", "content": '{"actions": ["do"]}'}
    lines = f"{json.dumps({'messages': [{'role': 'user', 'content': TEXT}, call]})}\n" * 8
    kept = httpx2.post(f"{api}/files", headers=headers, files={"file": ("data.jsonl", lines.encode())}).json()
    body = {"model": BASE, "training_file_id": kept["id"], "hyperparameters": {"n_epochs": 1, "batch_size": 4}}
    created = httpx2.post(f"{api}/learning/jobs", headers=headers, json=body, timeout=60)
    assert created.status_code == 201, created.text
    job_id = created.json()["job_id"]
    stream = f"{api}/learning/jobs/{job_id}/stream"
    text = httpx2.get(stream, headers=headers, timeout=300).text
    assert '"type":"sft.job.completed"' in text, text[-2000:]
    model = httpx2.get(f"{api}/learning/jobs/{job_id}", headers=headers).json()["fine_tuned_model"]
    assert model == f"fft:{BASE}:{job_id}"
    assert ask(deployed, model).model == model
