"""Where rollouts may send their requests, and with which key.

Invariants: an origin that is not on the list is never called; a key goes to the one origin that it is bound to.
Vendors come with the program; the operator lists other origins; clients of the task app can't.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synth_ray.core.errors import ConfigError, PrerequisiteError
from synth_ray.core.secrets import ENVIRONMENT_KEY, ENVIRONMENT_KEY_ALIASES, environment_keys, read_env_file
from synth_ray.core.urls import Url, chat_url, parse_origin, parse_url

ALLOWED_ORIGINS = "SYNTH_RAY_ALLOWED_INFERENCE_ORIGINS"
INFERENCE_KEYS = "SYNTH_RAY_INFERENCE_KEYS"


@dataclass(frozen=True, slots=True)
class Vendor:
    """A public provider: the base of its API and the variable that holds its key."""

    base_url: str
    key_name: str

    @property
    def origin(self) -> str:
        """Where its key may go."""
        return parse_url(self.base_url).origin


VENDORS: Mapping[str, Vendor] = {
    "openai": Vendor("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "groq": Vendor("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
}


TASK_APP_NAMES = (
    *(ENVIRONMENT_KEY, ENVIRONMENT_KEY_ALIASES, ALLOWED_ORIGINS, INFERENCE_KEYS),
    *(vendor.key_name for vendor in VENDORS.values()),
)
"""What a task app reads from its env file."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be called. ``vendor`` is empty for other servers; ``private`` allows non-public addresses."""

    url: Url
    vendor: str
    private: bool
    key: str = field(default="", repr=False)
    key_name: str = INFERENCE_KEYS

    @property
    def place(self) -> str:
        """The URL without its query, for messages."""
        return f"{self.url.origin}{self.url.path}"


class InferenceOrigins:
    """The allowed origins. ``keys`` maps origins to their keys; what has a key is allowed.

    ``listed`` origins and those with ``keys`` may have private addresses: the operator has named them. ``env_file`` is
    for hints, where it is read by every command; a task app reads its own when it is deployed.
    """

    def __init__(
        self,
        listed: Sequence[str] = (),
        keys: Mapping[str, str] | None = None,
        vendor_keys: Mapping[str, str] | None = None,
        vendors: Mapping[str, Vendor] = VENDORS,
        env_file: Path | None = None,
    ) -> None:
        self._env_file = env_file
        self._vendors = {vendor.origin: name for name, vendor in vendors.items()}
        self._vendor_urls = {name: vendor.base_url for name, vendor in vendors.items()}
        self._key_names = {vendor.origin: vendor.key_name for vendor in vendors.values()}
        bound = {parse_origin(origin): key for origin, key in (keys or {}).items()}
        self._private = {parse_origin(origin) for origin in listed} | set(bound)
        given = vendor_keys or {}
        self._keys = bound | {vendor.origin: given[name] for name, vendor in vendors.items() if given.get(name)}
        for origin, key in self._keys.items():
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise ConfigError(f"the key for {origin} has a character that no HTTP header can carry")

    @property
    def allowed(self) -> tuple[str, ...]:
        """Every allowed origin, sorted."""
        return tuple(sorted(self._private | set(self._vendors)))

    def target(self, url: str) -> Target:
        """What ``url`` leads to. ConfigError if it may not be called, PrerequisiteError if a key is missing."""
        parsed = chat_url(url)
        origin = parsed.origin
        if origin not in self.allowed:
            raise ConfigError(
                f"{origin} is no allowed inference origin; allowed are: {', '.join(self.allowed)}",
                f"add it to {ALLOWED_ORIGINS} in {self._env_file}"
                if self._env_file
                else f"whoever runs the task app can add it to {ALLOWED_ORIGINS} in its env file and `deploy` again",
            )
        vendor, key = self._vendors.get(origin, ""), self._keys.get(origin, "")
        key_name = self._key_names.get(origin, INFERENCE_KEYS)
        if vendor and not key:
            raise PrerequisiteError(
                f"{key_name} is not set, and {origin} does not answer without it",
                f"put it into {self._env_file}"
                if self._env_file
                else "put it into the task app's env file, and give the same `deploy` command again",
            )
        return Target(parsed, vendor, origin in self._private, key, key_name)

    def vendor_target(self, name: str) -> Target:
        """The chat endpoint of a vendor by name."""
        return self.target(self._vendor_urls[name])


def read_origins(
    env_file: Path | None, own_origin: str = "", environ: Mapping[str, str] = os.environ
) -> InferenceOrigins:
    """The origins and keys that ``env_file`` and the process environment name; the latter wins.

    ``own_origin`` is where this task app and its gateway are served; only there the task app's own key is sent.
    """
    values = read_env_file(env_file) if env_file and env_file.exists() else {}
    names = (ALLOWED_ORIGINS, INFERENCE_KEYS, *(vendor.key_name for vendor in VENDORS.values()))
    values |= {name: environ[name] for name in names if environ.get(name)}
    keys = dict(_pair(item) for item in _items(values.get(INFERENCE_KEYS, "")))
    if own_origin:
        keys[own_origin] = environment_keys(env_file, environ)[0]
    vendor_keys = {name: values.get(vendor.key_name, "") for name, vendor in VENDORS.items()}
    listed, of_commands = _items(values.get(ALLOWED_ORIGINS, "")), None if own_origin else env_file
    return InferenceOrigins(listed, keys, vendor_keys, env_file=of_commands)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _pair(item: str) -> tuple[str, str]:
    origin, separator, key = item.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"{INFERENCE_KEYS} must be a list of ORIGIN=KEY", "for example https://llm.example.com=KEY")
    return origin.strip(), key.strip()
