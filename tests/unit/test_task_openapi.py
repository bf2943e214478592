"""OpenAPI is truthful: schemathesis plays generated requests, right and wrong ones, against the app in process."""

from collections.abc import Sequence
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from serve.call_batcher import Answer
from serve.task_host import TaskHost
from serve.task_http import create_app
from synth_ray.core.secrets import KeyRing
from synth_ray.core.types import GenerateRequest

KEY = "the-key-of-this-app"
AUTH = {"X-API-Key": KEY}
# What a JSON schema can't say is a 422 for a request that fits the schema: ops in the wrong order, rl without an id.
CONFIG = {
    "checks": {
        "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422", "429", "502", "503", "504"]},
        "negative_data_rejection": {
            "expected-statuses": ["400", "401", "404", "405", "413", "414", "422", "429", "503"]
        },
    },
    "generation": {"database": "none", "with-security-parameters": False},
}
LONG_CASES = 2000
QUIET: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


async def no_engine(requests: Sequence[GenerateRequest]) -> Sequence[Answer]:
    raise AssertionError("nothing here asks the engine")


def make_schema() -> Any:
    app = create_app(TaskHost("grpo-crafter", no_engine), KeyRing([KEY]))
    return schemathesis.openapi.from_asgi(
        "/openapi.json", app, config=SchemathesisConfig.from_dict(CONFIG), headers=AUTH
    )


schema = make_schema()
"""Two tests share it; every living environment of one is bounded like those of a real client."""
played: list[str] = []


def play(case: schemathesis.Case) -> None:
    """Every check of schemathesis: status, content type, schema, ignored authentication, methods, rejected nonsense."""
    case.call_and_validate(headers=AUTH)
    played.append(case.operation.label)


@schema.parametrize()
@settings(max_examples=3, derandomize=True, **QUIET)
def test_a_few_requests_to_every_route(case: schemathesis.Case) -> None:
    play(case)


@pytest.mark.long
@schema.parametrize()
@settings(max_examples=200, derandomize=True, **QUIET)
def test_many_requests_to_every_route(case: schemathesis.Case) -> None:
    play(case)


@pytest.mark.long
def test_they_were_many() -> None:
    assert len(played) >= LONG_CASES
    assert len(set(played)) == len(list(schema.get_all_operations()))
