"""The client against a real server: statuses, hangs, floods, redirects, and where keys go."""

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from synth_ray.core.errors import EndpointRefused, EndpointUnavailable, PolicyError
from synth_ray.core.origins import InferenceOrigins, Target, Vendor
from synth_ray.rollout.remote.client import ChatClient, ClientLimits, Completion
from synth_ray.rollout.remote.network import resolve
from synth_ray.rollout.remote.retries import RetryBudget, Waiter
from tests.unit.fake_provider import FakeProvider, Play, as_json, completion, fake_provider

KEY = "sk-proj-0123456789abcdefghij"
BODY = {"model": "m", "messages": [], "max_tokens": 500}
LIMITS = ClientLimits(answer_bytes=20_000, budget=RetryBudget(attempts=4, seconds=30))


@pytest.fixture
def server() -> Iterator[FakeProvider]:
    with fake_provider() as one:
        yield one


class Asked:
    """One call of ``complete`` and the waits in it, none of which is really waited."""

    def __init__(self, resolve: Callable[[str, int], Awaitable[Sequence[str]]] = resolve) -> None:
        self.slept: list[float] = []
        self._resolve = resolve

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def __call__(self, target: Target, timeout_s: float = 5.0, within_s: float = 20.0) -> Completion:
        return asyncio.run(self._call(target, timeout_s, within_s))

    async def _call(self, target: Target, timeout_s: float, within_s: float) -> Completion:
        client = ChatClient(LIMITS, self._resolve, Waiter(sleep=self._sleep, uniform=lambda low, high: high))
        try:
            return await client.complete(target, BODY, timeout_s, within_s)
        finally:
            await client.aclose()


def target(server: FakeProvider, key: str = KEY) -> Target:
    keys = {server.origin: key} if key else {}
    return InferenceOrigins([server.origin], keys).target(f"{server.origin}?cid=trace_1")


def refused(server: FakeProvider, *plays: Play) -> PolicyError:
    server.plays += plays
    with pytest.raises(PolicyError) as caught:
        Asked()(target(server))
    assert KEY not in f"{caught.value.as_dict()}"
    return caught.value


def test_a_completion_and_what_was_sent(server: FakeProvider) -> None:
    assert Asked()(target(server)).value == completion()
    (sent,) = server.requests
    assert sent.path == "/v1/chat/completions?cid=trace_1"
    assert sent.body == BODY
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["host"] == f"127.0.0.1:{server.port}"
    assert sent.headers["accept-encoding"] == "identity"
    assert not {"cookie", "x-api-key"} & set(sent.headers)


def test_without_a_key_nothing_is_sent_in_its_place(server: FakeProvider) -> None:
    Asked()(target(server, key=""))
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(server: FakeProvider, status: int) -> None:
    server.plays += [as_json({"error": {"message": "busy"}}, status)] * 2
    asked = Asked()
    assert asked(target(server)).value
    assert asked.slept == [1, 2]
    assert len(server.requests) == 3


@pytest.mark.parametrize("after", ["3", "http-date"])
def test_retry_after_is_honoured(server: FakeProvider, after: str) -> None:
    text = formatdate(time.time() + 3.5, usegmt=True) if after == "http-date" else after
    server.plays.append(as_json({}, 429, Retry_After=text))
    asked = Asked()
    assert asked(target(server)).value
    assert 2 <= asked.slept[0] - 1 <= 4  # One second is jitter.


def test_a_retry_after_beyond_the_deadline_fails_at_once(server: FakeProvider) -> None:
    failure = refused(server, as_json({}, 429, Retry_After="1000000000"))
    assert "asks to wait 1000000000 s" in failure.message
    assert (type(failure), failure.details["status"]) == (EndpointUnavailable, 429)
    assert len(server.requests) == 1


def test_attempts_are_limited(server: FakeProvider) -> None:
    failure = refused(server, *[as_json({"error": {"message": "out of order"}}, 503)] * 9)
    assert failure.retryable
    assert "answered 503: out of order; gave up after 4 attempts" in failure.message
    assert len(server.requests) == 4


def test_an_overloaded_400_is_tried_again(server: FakeProvider) -> None:
    server.plays.append(as_json({"status": "overloaded", "retry_after": 2}, 400))
    asked = Asked()
    assert asked(target(server)).value
    assert asked.slept == [3]


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (400, "context too long", "request"),
        (401, "does not accept the key", "SYNTH_RAY_INFERENCE_KEYS"),
        (403, "not your model", "SYNTH_RAY_INFERENCE_KEYS"),
        (404, "no such model", "model's name"),
        (422, "bad field", "request"),
    ],
)
def test_what_is_our_fault_is_refused_at_once(server: FakeProvider, status: int, said: str, hint: str) -> None:
    text = f"{said} (your key {KEY}, {KEY[:12]}...)"
    failure = refused(server, as_json({"error": {"message": text}}, status))
    assert isinstance(failure, EndpointRefused)
    assert not failure.retryable
    assert str(status) in failure.message
    assert said in failure.message
    assert hint in failure.hint
    assert server.origin in failure.message
    assert "cid" not in failure.message
    assert KEY[:8] not in failure.message
    assert len(server.requests) == 1


def test_what_is_said_about_a_wrong_key_is_not_repeated(server: FakeProvider) -> None:
    failure = refused(server, as_json({"error": {"message": "wrong key sk...ghij", "code": "k-ghij"}}, 401))
    assert "ghij" not in f"{failure.as_dict()}"


def test_a_token_budget_is_made_smaller_once(server: FakeProvider) -> None:
    details = {"messages_tokens": 700, "model_limit": 1024}
    too_long = as_json({"detail": {"error": "token_budget_exceeded", "details": details}}, 400)
    server.plays.append(too_long)
    assert Asked()(target(server)).value
    assert [sent.body["max_tokens"] for sent in server.requests] == [500, 260]
    assert isinstance(refused(server, too_long, too_long), EndpointRefused)
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(server: FakeProvider, status: int) -> None:
    with fake_provider() as elsewhere:
        failure = refused(server, Play(status, headers={"Location": f"{elsewhere.origin}/v1/chat/completions"}))
        assert "redirect" in failure.message
        assert elsewhere.requests == []


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>hi</html>", b'{"choices": [', b"[1, 2]", b'"text"', b'{"a": NaN}', b'{"a": "\xff\xfe"', b"null"],
)
def test_a_2xx_that_is_no_json_object_is_a_problem_not_an_error(server: FakeProvider, body: bytes) -> None:
    server.plays.append(Play(200, body))
    found = Asked()(target(server))
    assert found.value is None
    assert "not a JSON object" in found.problem


def test_a_compressed_answer_is_not_unpacked(server: FakeProvider) -> None:
    import gzip

    server.plays.append(Play(200, gzip.compress(b"{}" * 1000), {"Content-Encoding": "gzip"}))
    assert Asked()(target(server)).value is None


def test_a_flood_is_cut_off(server: FakeProvider) -> None:
    server.plays.append(as_json(completion({"content": "x" * 3_000_000})))
    assert Asked()(target(server)).problem == "the endpoint's answer is too long"


def test_a_body_that_ends_too_early_is_tried_again(server: FakeProvider) -> None:
    whole = as_json(completion())
    server.plays.append(Play(200, whole.body, whole.headers, cut_at=20))
    assert Asked()(target(server)).value == completion()
    assert len(server.requests) == 2


@pytest.mark.parametrize("play", [Play(hang=True), Play(200, b"{" + b" " * 5000, drip_s=0.02)])
def test_an_attempt_ends_however_slowly_it_goes(server: FakeProvider, play: Play) -> None:
    server.plays.append(play)
    begun = time.monotonic()
    assert Asked()(target(server), timeout_s=0.3).value
    assert time.monotonic() - begun < 3
    assert len(server.requests) == 2


def test_all_attempts_end_with_the_deadline(server: FakeProvider) -> None:
    server.default = Play(hang=True)
    begun = time.monotonic()
    with pytest.raises(EndpointUnavailable, match="did not answer"):
        Asked()(target(server), timeout_s=5, within_s=0.4)
    assert time.monotonic() - begun < 2


def test_a_closed_port_is_tried_again_and_then_told() -> None:
    with fake_provider() as server:
        gone = target(server)
    asked = Asked()
    with pytest.raises(EndpointUnavailable, match="could not be reached"):
        asked(gone)
    assert len(asked.slept) == 3


def test_a_key_that_comes_back_is_cut_out(server: FakeProvider) -> None:
    server.plays.append(lambda sent: as_json(completion({"content": sent.headers["authorization"]})))
    found = Asked()(target(server))
    assert found.value
    assert found.value["choices"][0]["message"]["content"] == "Bearer [redacted]"


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("escaped", [f"\\u0073{KEY[1:]}", "".join(f"\\u{ord(c):04X}" for c in KEY), KEY])
def test_an_escaped_key_is_cut_out_of_every_text_and_name(server: FakeProvider, status: int, escaped: str) -> None:
    inner = json.dumps(f'{{"actions": ["{escaped}"]}}')
    answer = f'{{"model": "{escaped}", "{escaped}": 1, "choices": [{{"arguments": {inner}}}]}}'.encode()
    if status != 200:
        assert "[redacted]" in str(refused(server, *[Play(status, answer)] * 4).as_dict())
        return
    server.plays.append(Play(200, answer))
    value = Asked()(target(server)).value
    assert value
    assert KEY not in str(value)
    assert value["model"] == "[redacted]" in value
    assert json.loads(value["choices"][0]["arguments"]) == {"actions": ["[redacted]"]}


def test_each_server_gets_its_own_key_and_no_other() -> None:
    with fake_provider() as openai, fake_provider() as groq, fake_provider() as listed, fake_provider() as own:
        vendors = {"openai": Vendor(openai.origin, "OPENAI_API_KEY"), "groq": Vendor(groq.origin, "GROQ_API_KEY")}
        keys = {"openai": "key-of-openai", "groq": "key-of-groq"}
        allowed = [server.origin for server in (openai, groq, listed)]
        origins = InferenceOrigins(allowed, {own.origin: "key-of-the-task-app"}, keys, vendors)
        for server in (openai, groq, listed, own):
            Asked()(origins.target(server.origin))
        got = [server.requests[0].headers.get("authorization") for server in (openai, groq, listed, own)]
    assert got == ["Bearer key-of-openai", "Bearer key-of-groq", None, "Bearer key-of-the-task-app"]


def test_a_vendor_whose_name_leads_to_a_private_address_is_not_called(server: FakeProvider) -> None:
    async def rebound(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    vendors = {"openai": Vendor(f"http://vendor.test:{server.port}/v1", "OPENAI_API_KEY")}
    origins = InferenceOrigins(vendor_keys={"openai": KEY}, vendors=vendors)
    with pytest.raises(EndpointRefused, match="not public"):
        Asked(rebound)(origins.vendor_target("openai"))
    assert server.requests == []


def certificate(name: str, folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for ``name``, and a server's context that shows it."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "both.pem").write_bytes(private + made.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return folder / "both.pem", context


@pytest.mark.parametrize(
    ("host", "trusted", "answers"),
    [("llm.test", True, True), ("llm.test", False, False), ("other.test", True, False)],
)
def test_a_pinned_connection_still_checks_the_name_in_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, trusted: bool, answers: bool
) -> None:
    async def here(name: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    file, context = certificate("llm.test", tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with fake_provider(context) as server:
        origin = f"https://{host}:{server.port}"
        wanted = InferenceOrigins([], {origin: KEY}).target(origin)
        if answers:
            assert Asked(here)(wanted).value
        else:
            with pytest.raises(EndpointRefused, match="certificate"):
                Asked(here)(wanted)
            assert server.requests == []


def test_proxies_of_the_environment_are_not_used(server: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_provider() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.origin)
        assert Asked()(target(server)).value
        assert proxy.requests == []


def test_connections_are_kept_for_many_calls_at_once(server: FakeProvider) -> None:
    async def main() -> list[Any]:
        client = ChatClient(LIMITS)
        calls = [client.complete(target(server), BODY, 10, 20) for _ in range(50)]
        try:
            return await asyncio.gather(*calls)
        finally:
            await client.aclose()

    assert all(found.value == completion() for found in asyncio.run(main()))
    assert len(server.requests) == 50
