"""setup: the keys, step by step, and whether this machine has what it takes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from synth_ray.cli import options
from synth_ray.cli.output import data_json, say

_OPTIONAL_KEYS = {
    "GROQ_API_KEY": "hosted models of Groq as teachers",
    "OPENAI_API_KEY": "hosted models of OpenAI as teachers",
}
_FREE_BYTES = 5 << 30


@click.command()
@options.env_file_option
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: make the keys that are needed, keep all others.")
@options.json_option
def setup(env_file: Path, yes: bool, as_json: bool) -> None:
    """Write the keys into a file that only you can read, and look at the machine.

    ENVIRONMENT_API_KEY and RAY_AUTH_TOKEN are made here; keys that are already there are kept. On a terminal it asks
    for the keys of hosted models, which are optional.

    \b
    synth-ray setup
    synth-ray setup --yes
    """
    from synth_ray.core.errors import ConfigError
    from synth_ray.core.secrets import ensure_env_file, is_exposed, set_env_values

    if env_file.is_dir():
        raise ConfigError(f"{env_file} is a folder", "give a file with --env-file")
    existed = env_file.exists()
    if existed and is_exposed(env_file):
        say(f"warning: {env_file} can be read by others; making it 0600")
        env_file.chmod(0o600)
    values = ensure_env_file(env_file)
    if not yes and not as_json and sys.stdin.isatty():
        set_env_values(env_file, _asked(values))
        values = ensure_env_file(env_file)
    names = sorted(name for name, value in values.items() if value)
    notes = _machine()
    if as_json:
        data_json("setup", {"env_file": str(env_file), "keys": names, "notes": notes})
        return
    say(f"{'kept' if existed else 'wrote'} {env_file} (mode 0600): {', '.join(names)}")
    for note in notes:
        say(note)
    say("next: synth-ray quickstart, or synth-ray deploy grpo-crafter")


def _asked(values: Mapping[str, str]) -> dict[str, str]:
    given = {}
    for name, purpose in _OPTIONAL_KEYS.items():
        if values.get(name) or os.environ.get(name):
            say(f"{name} is set ({purpose})")
            continue
        text = f"{name} for {purpose} (Enter to skip)"
        value = click.prompt(text, default="", show_default=False, hide_input=True, err=True).strip()
        if value:
            given[name] = value
    return given


def _machine() -> list[str]:
    """What was found, and what is missing; nothing here is fatal."""
    notes = [f"machine: {os.cpu_count()} CPU cores, {_memory_gib():.0f} GiB memory"]
    notes[0] += ", nvidia-smi found" if shutil.which("nvidia-smi") else ", no GPU found: engine and trainer run on CPU"
    free = shutil.disk_usage(Path.cwd()).free
    if free < _FREE_BYTES:
        notes.append(f"warning: only {free / 2**30:.1f} GiB are free on the disk of this folder")
    return notes


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
