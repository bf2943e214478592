"""Origins: nothing but what is listed may be called, in one spelling, and each key belongs to one place."""

from pathlib import Path

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth_ray.core.errors import ConfigError, PrerequisiteError, SynthRayError
from synth_ray.core.origins import ALLOWED_ORIGINS, INFERENCE_KEYS, InferenceOrigins, read_origins
from synth_ray.core.urls import chat_url, parse_origin, parse_url

OWN = "http://127.0.0.1:8000"
VENDOR_KEYS = {"openai": "openai-key-0123456789", "groq": "groq-key-0123456789"}


def origins() -> InferenceOrigins:
    return InferenceOrigins(["http://10.0.0.5:8001", "http://[fd00::5]:8002"], {OWN: "own-key-0123456789"}, VENDOR_KEYS)


BAD = [
    # other hosts, schemes and ports
    "https://evil.example/v1",
    "http://api.openai.com/v1",
    "https://api.openai.com:8443/v1",
    "https://api.openai.com.evil.example/v1",
    "https://evil-api.openai.com/v1",
    "https://openai.com/v1",
    "file:///etc/passwd",
    "gopher://10.0.0.5:8001/",
    "ftp://10.0.0.5:8001/",
    "ws://10.0.0.5:8001/v1",
    "//api.openai.com/v1",
    "api.openai.com/v1",
    "https:api.openai.com",
    "https:/api.openai.com/v1",
    "https:///api.openai.com/v1",
    "javascript:alert(1)",
    "data:text/plain,x",
    "",
    # loopback and metadata, in many spellings
    "http://localhost/v1",
    "http://127.0.0.1/v1",
    "http://127.0.0.1:8265/v1",
    "http://127.1:8000/v1",
    "http://2130706433:8000/v1",
    "http://0x7f000001:8000/v1",
    "http://0x7f.0.0.1:8000/v1",
    "http://0177.0.0.1:8000/v1",
    "http://127.0.0.01:8000/v1",
    "http://127.0.0.1.:8000/v1",
    "http://0:8000/v1",
    "http://[::]:8000/v1",
    "http://[::1]:8000/v1",
    "http://[::ffff:127.0.0.1]:8000/v1",
    "http://[::ffff:7f00:1]:8000/v1",
    "http://[0:0:0:0:0:0:0:1]:8000/v1",
    "http://[fd00:0::5]:8002/v1",
    "http://[fe80::1%25eth0]:8000/v1",
    "http://[fe80::1%eth0]:8000/v1",
    "http://169.254.169.254/latest/meta-data",
    "http://metadata.google.internal/computeMetadata/v1",
    "http://100.64.0.1/v1",
    # users, fragments, separators
    "https://api.openai.com@evil.example/v1",
    "https://evil.example@api.openai.com/v1",
    "https://user:pass@api.openai.com/v1",
    "https://@api.openai.com/v1",
    "https://api.openai.com#@evil.example/",
    "https://evil.example#https://api.openai.com",
    "https://api.openai.com/v1#fragment",
    "https://api.openai.com\\@evil.example/v1",
    "https://evil.example\\.api.openai.com/v1",
    "https:\\\\api.openai.com\\v1",
    "https://api.openai.com\t/v1",
    "https://api.openai.com\n/v1",
    "https://api.openai.com/v1\r\nX-Injected: 1",
    "https://api.openai.com/v1\x00",
    " https://api.openai.com/v1",
    "https://api.openai.com/v1 ",
    "https://api.openai.com/a b/v1",
    "https://api.openai.com/%0d%0aHost:evil/v1",
    "https://api.openai.com/%5c..%5cadmin/v1",
    "https://api.openai.com/%zz/v1",
    "https://api.openai.com/../admin/v1",
    "https://api.openai.com/%2e%2e/admin/v1",
    "http://10.0.0.5:8001/v1?x=%00",
    # host names that look alike, or are written unusually
    "https://api.openai.com./v1",
    "https://api..openai.com/v1",
    "https://.api.openai.com/v1",
    "https://api.openai.com%2eevil.example/v1",
    "https://api%2eopenai%2ecom/v1",
    "https://аpi.openai.com/v1",  # noqa: RUF001 - Cyrillic a
    "https://api。openai。com/v1",
    "https://ａｐｉ.openai.com/v1",  # noqa: RUF001 - full-width letters
    "https://xn--pi-7kc.openai.com/v1",
    "https://api.openai.com\u200b/v1",
    "https://api_openai.com/v1",
    "https://[api.openai.com]/v1",
    # ports
    "https://api.openai.com:443/v1",
    "https://api.openai.com:0443/v1",
    "https://api.openai.com:/v1",
    "https://api.openai.com:0/v1",
    "https://api.openai.com:65536/v1",
    "https://api.openai.com:-1/v1",
    "https://api.openai.com:+443/v1",
    "https://api.openai.com:443:443/v1",
    "https://api.openai.com:https/v1",
    "http://10.0.0.5:08001/v1",
    "http://10.0.0.5:８００１/v1",  # noqa: RUF001 - full-width digits
    "http://10.0.0.5/v1",
    # a path that has landed in the query, beyond repair
    "http://10.0.0.5:8001/?u=/v1/chat/completions&cid=1",
    "https://api.openai.com/" + "a" * 3000,
]
GOOD = {
    "https://api.openai.com": "https://api.openai.com/v1/chat/completions",
    "https://api.openai.com/v1": "https://api.openai.com/v1/chat/completions",
    "https://api.openai.com/v1/": "https://api.openai.com/v1/chat/completions",
    "https://api.openai.com/v1/chat/completions": "https://api.openai.com/v1/chat/completions",
    "HTTPS://API.OpenAI.com/v1": "https://api.openai.com/v1/chat/completions",
    "https://api.groq.com/openai/v1": "https://api.groq.com/openai/v1/chat/completions",
    "https://api.groq.com/openai": "https://api.groq.com/openai/v1/chat/completions",
    "http://10.0.0.5:8001": "http://10.0.0.5:8001/v1/chat/completions",
    "http://10.0.0.5:8001?cid=trace_1": "http://10.0.0.5:8001/v1/chat/completions?cid=trace_1",
    "http://10.0.0.5:8001/?cid=a&cid=b%20c": "http://10.0.0.5:8001/v1/chat/completions?cid=a&cid=b%20c",
    "http://10.0.0.5:8001?cid=x/v1/chat/completions": "http://10.0.0.5:8001/v1/chat/completions?cid=x",
    "http://10.0.0.5:8001/v1/chat/completions?cid=x/v1/chat/completions": (
        "http://10.0.0.5:8001/v1/chat/completions?cid=x"
    ),
    "http://[fd00::5]:8002/v1?a=b/c": "http://[fd00::5]:8002/v1/chat/completions?a=b/c",
    "http://127.0.0.1:8000/grpo-crafter/proxy": "http://127.0.0.1:8000/grpo-crafter/proxy/v1/chat/completions",
    "http://10.0.0.5:8001/deployments/x@1/chat/completions": "http://10.0.0.5:8001/deployments/x@1/chat/completions",
}


@pytest.mark.parametrize("url", BAD)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        origins().target(url)


@pytest.mark.parametrize(("url", "called"), GOOD.items())
def test_a_good_url_leads_to_its_chat_endpoint(url: str, called: str) -> None:
    assert str(origins().target(url).url) == called
    assert str(chat_url(called)) == called


@pytest.mark.parametrize(
    "host", ["[fd00:0::5]", "[FD00::0005]", "[::ffff:1.2.3.4]", "[::ffff:102:304]", "[::1.2.3.4]", "127.1", "010.0.0.5"]
)
def test_an_address_has_one_spelling_even_if_it_were_listed(host: str) -> None:
    with pytest.raises(ConfigError):
        InferenceOrigins([f"http://{host}:8001"])


def test_the_corpus_is_large_enough() -> None:
    assert len(set(BAD)) == len(BAD) >= 40
    assert len(GOOD) >= 10


@given(st.text(max_size=40), st.sampled_from(["", "https://", "http://", "https://api.openai.com"]))
def test_any_text_is_parsed_or_refused_and_never_called_elsewhere(text: str, start: str) -> None:
    try:
        target = origins().target(start + text)
    except ConfigError:
        return
    assert target.url.origin in origins().allowed


@given(st.from_regex(r"https?://[a-z0-9.\-\[\]:]{1,20}(:[0-9]{1,5})?(/[a-z./%?=]*)?", fullmatch=True))
def test_the_client_library_reads_a_url_as_we_do(text: str) -> None:
    try:
        ours = parse_url(text)
    except ConfigError:
        return
    theirs = httpcore2.URL(str(ours))
    port = theirs.origin.port
    assert (theirs.scheme.decode(), theirs.host.decode().strip("[]"), port) == (ours.scheme, ours.host, ours.port)


def test_the_refusal_says_what_is_allowed_and_how_to_allow_more() -> None:
    with pytest.raises(ConfigError) as caught:
        origins().target("https://llm.example/v1?secret=1")
    assert "https://llm.example is no allowed" in caught.value.message
    assert all(origin in caught.value.message for origin in origins().allowed)
    assert ALLOWED_ORIGINS in caught.value.hint
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://api.openai.com/v1", VENDOR_KEYS["openai"]),
        ("https://api.groq.com/openai/v1", VENDOR_KEYS["groq"]),
        (OWN, "own-key-0123456789"),
        ("http://10.0.0.5:8001", ""),
    ],
)
def test_a_key_belongs_to_one_origin(url: str, key: str) -> None:
    target = origins().target(url)
    assert target.key == key
    assert not key or key not in repr(target)


def test_only_places_that_the_operator_named_may_have_private_addresses() -> None:
    assert origins().target("http://10.0.0.5:8001").private
    assert origins().target(OWN).private
    assert not origins().target("https://api.openai.com").private


def test_a_vendor_without_its_key_is_a_missing_prerequisite() -> None:
    with pytest.raises(PrerequisiteError, match="GROQ_API_KEY"):
        InferenceOrigins().vendor_target("groq")


def test_the_hint_is_for_whoever_reads_the_env_file(tmp_path: Path) -> None:
    env_file = tmp_path / "keys.env"
    env_file.write_text("ENVIRONMENT_API_KEY=env-key\n")
    for own, deploys in ((OWN, True), ("", False)):  # a task app; a judge
        for url in ("https://api.groq.com", "https://llm.example"):
            with pytest.raises(SynthRayError) as caught:
                read_origins(env_file, own, {}).target(url)
            assert ("deploy" in caught.value.hint, str(env_file) in caught.value.hint) == (deploys, not deploys)


def test_origins_and_keys_are_read_from_the_env_file(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(
        "ENVIRONMENT_API_KEY=env-key\nOPENAI_API_KEY=from-file\n"
        f"{ALLOWED_ORIGINS}=http://10.0.0.5:8001, https://llm.example\n"
        f"{INFERENCE_KEYS}=https://llm.example=abc=def==, http://10.0.0.6:1=k2\n"
    )
    found = read_origins(env_file, OWN, {"OPENAI_API_KEY": "from-environment"})
    assert found.vendor_target("openai").key == "from-environment"
    assert found.target("https://llm.example").key == "abc=def=="
    assert found.target("http://10.0.0.6:1").key == "k2"
    assert found.target("http://10.0.0.5:8001").key == ""
    assert found.target(OWN).key == "env-key"
    assert "http://127.0.0.1:8000" not in read_origins(env_file, "", {}).allowed


@pytest.mark.parametrize(
    "text", ["KEY", "=KEY", "https://llm.example=", "llm.example=KEY", "http://h/p=KEY", "http://h:1=KEYä"]
)
def test_a_wrong_list_of_keys_is_told_without_the_key(tmp_path: Path, text: str) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"{INFERENCE_KEYS}={text.replace('KEY', 'hunter2hunter2')}\n")
    with pytest.raises(SynthRayError) as caught:
        read_origins(env_file, "", {})
    assert "hunter2" not in f"{caught.value.as_dict()}"


def test_an_origin_has_no_path() -> None:
    assert parse_origin("HTTP://10.0.0.5:8001/") == "http://10.0.0.5:8001"
    with pytest.raises(ConfigError):
        parse_origin("http://10.0.0.5:8001/v1")
