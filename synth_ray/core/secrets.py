"""Keys and tokens: read from the environment or a 0600 file, compared in constant time, never printed."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from synth_ray.core.errors import ConfigError, PrerequisiteError
from synth_ray.core.paths import write_private

ENVIRONMENT_KEY = "ENVIRONMENT_API_KEY"
ENVIRONMENT_KEY_ALIASES = "ENVIRONMENT_API_KEY_ALIASES"
MAX_GIVEN_KEYS = 16
"""A client in the middle of a rotation sends its old and its new key; nobody honest sends dozens."""
SYNTH_KEY = "SYNTH_API_KEY"
RAY_TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - the name of a variable, not a secret


def new_key() -> str:
    """32 random bytes as URL-safe text."""
    return secrets.token_urlsafe(32)


def read_env_file(path: Path) -> dict[str, str]:
    """``KEY=VALUE`` lines; comments, blank lines and ``export`` are allowed, matching quotes are removed."""
    values: dict[str, str] = {}
    for line in _text(path).splitlines():
        key, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and not key.startswith("#"):
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            values[key.strip()] = value
    return values


def ensure_env_file(path: Path) -> dict[str, str]:
    """Adds the keys that are missing in ``path`` (made 0600) and returns all of its values."""
    if path.exists():
        path.chmod(0o600)
    values = read_env_file(path) if path.exists() else {}
    fresh = {name: new_key() for name in (ENVIRONMENT_KEY, RAY_TOKEN) if not values.get(name)}
    set_env_values(path, fresh)
    return {**values, **fresh}


def set_env_values(path: Path, values: Mapping[str, str]) -> None:
    """Sets ``values`` in the 0600 file ``path``; its other lines stay as they are. Does nothing without values."""
    if not values:
        return
    if broken := [name for name, value in values.items() if "\n" in value or "\r" in value]:
        raise ConfigError(f"the value of {broken[0]} has a line break in it")
    text = _text(path) if path.exists() else ""
    lines = [line for line in text.splitlines() if _name_in(line) not in values]
    write_private(path, "\n".join([*lines, *(f"{name}={value}" for name, value in values.items())]) + "\n")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # Its message would show a part of the file.
        raise ConfigError(f"{path} is not text in UTF-8", "give another file with --env-file") from None


def _name_in(line: str) -> str:
    return line.strip().removeprefix("export ").partition("=")[0].strip()


def is_exposed(path: Path) -> bool:
    """Whether others than the owner can read ``path``."""
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def environment_keys(env_file: Path | None, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The keys that the task app accepts: the process environment wins over the file; aliases allow rotation."""
    from_file = read_env_file(env_file) if env_file and env_file.exists() else {}
    names = (ENVIRONMENT_KEY, ENVIRONMENT_KEY_ALIASES)
    found = [environ.get(name) or from_file.get(name) or "" for name in names]
    keys = [key.strip() for text in found for key in text.split(",") if key.strip()]
    if not keys:
        raise PrerequisiteError(
            f"{ENVIRONMENT_KEY} is not set, and the task app does not run without a key", "run: synth-ray setup"
        )
    return keys


def gateway_keys(env_file: Path | None, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The keys that the gateway accepts: those of the task app, and ``SYNTH_API_KEY`` if there is one."""
    from_file = read_env_file(env_file) if env_file and env_file.exists() else {}
    own = (environ.get(SYNTH_KEY) or from_file.get(SYNTH_KEY) or "").strip()
    return [*([own] if own else []), *environment_keys(env_file, environ)]


class KeysFile:
    """Whether what an env file says of ``names`` is still what it said at first; holds a digest, no key."""

    def __init__(self, path: Path | None, names: Sequence[str]) -> None:
        self.path, self._names = path, tuple(names)
        self._digest = self._now()

    def changed(self) -> bool:
        """Whether a value has changed; a file that can't be read any more has not."""
        try:
            return self._now() != self._digest
        except (OSError, ConfigError):
            return False

    def _now(self) -> bytes:
        values = read_env_file(self.path) if self.path and self.path.exists() else {}
        return hashlib.sha256(repr([values.get(name, "") for name in self._names]).encode()).digest()


class KeyRing:
    """Holds only hashes of the allowed keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def allows(self, given: Sequence[str]) -> bool:
        """Whether one of the given keys is allowed; every comparison runs to its end. More than a few are refused."""
        distinct = {key for key in given if key}
        if len(distinct) > MAX_GIVEN_KEYS:
            return False
        digests = [hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() for key in distinct]
        return bool(sum(hmac.compare_digest(digest, known) for digest in digests for known in self._hashes))
