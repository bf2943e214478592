"""The disk layout: where state, runs, traces, data sets and models live."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from synth_ray.core.errors import ConfigError

_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")


@dataclass(frozen=True)
class Home:
    """``state`` is per user (registry, cluster record); ``project`` is where the artefacts of this project land."""

    state: Path
    project: Path

    @property
    def state_db(self) -> Path:
        """Registry of jobs and models."""
        return self.state / "state.db"

    @property
    def cluster_file(self) -> Path:
        """Record of the local cluster that we started."""
        return self.state / "cluster.json"

    @property
    def serve_lock(self) -> Path:
        """Held while applications are deployed."""
        return self.state / "serve.lock"

    @property
    def jobs(self) -> Path:
        """One folder per job: its events and its result."""
        return self.state / "jobs"

    @property
    def files(self) -> Path:
        """Uploaded files, by their SHA-256."""
        return self.state / "files"

    @property
    def models(self) -> Path:
        """Built-in and fine-tuned full models."""
        return self.project / "models"

    @property
    def runs(self) -> Path:
        """One folder per run."""
        return self.project / "runs"

    @property
    def traces(self) -> Path:
        """Trace databases."""
        return self.project / "traces"

    @property
    def data(self) -> Path:
        """Fine-tuning data sets."""
        return self.project / "ft_data"

    def run(self, name: str) -> Path:
        """Folder of the run ``name``; refuses names that could leave the runs folder."""
        return self.runs / safe_name(name)


def find_home(project: Path | None = None) -> Home:
    """``SYNTH_RAY_HOME`` holds everything if set; else state is per user and artefacts go to ``project`` (or cwd)."""
    override = os.environ.get("SYNTH_RAY_HOME")
    if override:
        root = Path(override).expanduser().resolve()
        return Home(state=root, project=project.resolve() if project else root)
    state = Path(platformdirs.user_state_dir("synth-ray"))
    return Home(state=state, project=(project or Path.cwd()).resolve())


def cache_dir() -> Path:
    """Per-user cache (compiled kernels); safe to delete."""
    return Path(platformdirs.user_cache_dir("synth-ray"))


def numba_cache() -> Path:
    """Where compiled kernels are kept from run to run."""
    return private_dir(cache_dir() / "numba")


def app_root() -> Path:
    """The folder that holds envs, serve, jobs and configs: the checkout if there is one, else the copy in the wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    return checkout if (checkout / "jobs" / "__init__.py").is_file() else package / "_app"


def config_path(path: Path) -> Path:
    """``path`` itself if it exists, else the file of that name among those that came with the program."""
    shipped = app_root() / path
    return shipped if not path.exists() and not path.is_absolute() and shipped.exists() else path


def safe_name(name: str) -> str:
    """``name`` if it can be a folder name, else a ConfigError."""
    if not _NAME.match(name) or ".." in name:
        raise ConfigError(
            f"{name!r} is not a usable name",
            "use 1 to 64 characters: lower-case letters, digits, '.', '_' and '-', starting with a letter or digit",
        )
    return name


def private_dir(path: Path) -> Path:
    """Creates ``path`` for the owner only."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Writes ``text`` so that only the owner can ever read it: the file is created 0600, then renamed into place."""
    private_dir(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
