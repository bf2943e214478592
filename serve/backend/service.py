"""The backend's core: jobs are recorded, started, watched and stopped; files are kept. Knows nothing about HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

from envs.registry import TASKS
from serve.backend import views
from serve.backend.configs import RLJobBody, SFTJobBody, Table, check_rl, check_sft, rl_table, sft_table
from serve.backend.feed import job_events, job_phases, job_points
from synth_ray.core.config import Section, check_finite, load_config
from synth_ray.core.errors import ConfigError, ConflictError, CorruptError, NotFoundError
from synth_ray.core.hashing import canonical_json, sha256_text
from synth_ray.core.locks import one_at_a_time
from synth_ray.core.paths import Home, private_dir, write_private
from synth_ray.core.sections import RLConfig
from synth_ray.core.sft_sections import SFTConfig
from synth_ray.core.urls import parse_url
from synth_ray.records.job_files import JobFiles
from synth_ray.records.registry import Job, Registry, StoredFile, new_job_id
from synth_ray.records.run_end import with_end
from synth_ray.records.run_record import read_config
from synth_ray.records.runs import RunDir
from synth_ray.records.uploads import PURPOSES, stored, upload
from synth_ray.runtime.settle import Settler

C = TypeVar("C", bound=Section)
Check = Callable[[C, Home, Registry], None]

LISTED = 10_000
_REQUEST = "request.json"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Jobs(Protocol):
    """How jobs are started and stopped."""

    def submit(self, kind: str, config: Path, job_id: str) -> None:
        """Starts a job and records it. Raises PrerequisiteError or TemporaryError if the cluster can't take it."""
        ...

    def stop(self, job_id: str) -> None:
        """Asks a job to stop."""
        ...


class Backend:
    """Everything of one home that the API shows or starts. ``apps`` names the task apps that are running."""

    def __init__(self, home: Home, jobs: Jobs, apps: Callable[[], Sequence[str]]) -> None:
        self.home = home
        self._jobs, self._apps = jobs, apps
        self._settler = Settler()

    def verify_task_app(self, url: str) -> dict[str, Any]:
        """Whether ``url`` is a running task app of this cluster. No request is sent anywhere."""
        try:
            name, problem = task_app_name(url), ""
            running = name in self._apps()
        except ConfigError as error:
            running, problem = False, f"{error.message}; {error.hint}"
        status = 200 if running else 404
        attempt = {"status": status, **({} if running else {"problem": problem or "no such task app is running"})}
        return {"any_ok": running, "candidates_first15": [], "attempts": [attempt]}

    def create_rl(self, body: RLJobBody, idempotency_key: str = "") -> Job:
        """Starts an RL job. Raises ConfigError, NotFoundError, ConflictError."""
        if body.data.endpoint_base_url:
            task_app_name(body.data.endpoint_base_url)
        return self._create("rl", RLConfig, rl_table(body), check_rl, idempotency_key)

    def create_sft(self, body: SFTJobBody, idempotency_key: str = "") -> Job:
        """Starts a fine-tuning job. Raises ConfigError, NotFoundError, ConflictError."""
        table = sft_table(body, lambda file_id: stored(self.home, file_id)[1])
        return self._create("sft", SFTConfig, table, check_sft, idempotency_key)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Asks a job to stop."""
        job = self.job(job_id)
        if job.status.final:
            return {**views.job_view(job), "message": f"{job_id} has ended already"}
        self._jobs.stop(job_id)
        return {**views.job_view(self.job(job_id)), "message": f"asked {job_id} to stop"}

    def job(self, job_id: str) -> Job:
        """One job, with an up-to-date status. Raises NotFoundError."""
        self._settler.settle(self.home)
        with self._registry() as registry:
            return registry.job(job_id)

    def jobs(
        self, limit: int, status: str = "", training_type: str = "", after: datetime | None = None
    ) -> list[dict[str, Any]]:
        """The newest training jobs first, of one type or status, created after a time, as far as given."""
        self._settler.settle(self.home)
        with self._registry() as registry:
            jobs = registry.jobs(LISTED)
        kinds = (views.kind_of(training_type),) if training_type else tuple(views.TRAINING_TYPES)
        shown = [views.job_view(job) for job in jobs if job.type in kinds]
        kept = [
            job
            for job in shown
            if status in ("", job["status"]) and (after is None or views.is_after(job["created_at"], after))
        ]
        return kept[:limit]

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Every event of a job."""
        return job_events(self.job(job_id), self._files(job_id))

    def phases(self, job_id: str) -> list[dict[str, Any]]:
        """The phases that a job has reached."""
        return job_phases(self.job(job_id), self._files(job_id))

    def points(self, job_id: str, after_step: int, limit: int) -> list[dict[str, Any]]:
        """Metric points of a job, whole steps."""
        job = self.job(job_id)
        return job_points(job, self._run(job).metrics, after_step, limit)

    def runs(self, job_id: str) -> list[dict[str, Any]]:
        """The attempts of a job's run."""
        try:
            record = with_end(self._run(self.job(job_id)).record(), self.home.state_db)
        except CorruptError:
            return []
        return [views.run_view(job_id, attempt) for attempt in record.attempts]

    def config(self, job_id: str) -> dict[str, Any]:
        """The configuration of a job: the resolved one, or what was posted if it has not begun."""
        self.job(job_id)
        folder = self._files(job_id)
        if folder.config_path.exists():
            return read_config(folder.config_path)
        posted = folder.folder / _REQUEST
        if not posted.exists():
            raise NotFoundError(f"the configuration of {job_id} is not known yet", "ask again when it runs")
        return dict(json.loads(posted.read_bytes())["config"])

    def models(self, limit: int, kind: str = "") -> list[dict[str, Any]]:
        """The newest models first; ``kind`` "rl" or "sft" keeps those of one sort."""
        with self._registry() as registry:
            models = registry.models(LISTED)
        rl = {"rl": (True,), "sft": (False,)}.get(kind, (True, False))
        return [views.model_view(model) for model in models if model.model_id.startswith("rl:") in rl][:limit]

    def model(self, model_id: str) -> dict[str, Any]:
        """One model. Raises NotFoundError."""
        with self._registry() as registry:
            return views.model_view(registry.model(model_id))

    def add_file(self, name: str, purpose: str, source: Any) -> StoredFile:
        """Keeps an upload; ``source`` is a binary file. Raises ConfigError for data that can't be trained on."""
        if purpose not in PURPOSES:
            raise ConfigError(f"purpose {purpose!r} is unknown", f"it is one of {', '.join(PURPOSES)}")
        with TemporaryDirectory(dir=private_dir(self.home.state)) as scratch:
            path = Path(scratch) / _file_name(name)
            with path.open("wb") as target:
                shutil.copyfileobj(source, target)
            try:
                return upload(self.home, path, purpose)
            except CorruptError as error:
                raise ConfigError(error.message.replace(str(path), path.name), error.hint) from None

    def files(self, limit: int, purpose: str = "") -> list[dict[str, Any]]:
        """The newest uploads first."""
        with self._registry() as registry:
            return [views.file_view(file) for file in registry.files(limit, purpose)]

    def file(self, file_id: str) -> dict[str, Any]:
        """One upload. Raises NotFoundError."""
        with self._registry() as registry:
            return views.file_view(registry.file(file_id))

    def _create(self, kind: str, model: type[C], table: Table, check: Check[C], idempotency_key: str) -> Job:
        check_finite(table)  # JSON from the network may hold 1e999.
        text = canonical_json({"config": table})
        job_id = f"job_{sha256_text(f'{kind} {idempotency_key}')[:16]}" if idempotency_key else new_job_id()
        folder = self.home.jobs / job_id
        with one_at_a_time(self.home.state / "submit.lock"):
            if known := self._known(job_id):
                return self._same(known, folder / _REQUEST, text)
            self._check(model, text, check)
            write_private(folder / _REQUEST, text)
            self._jobs.submit(kind, folder / _REQUEST, job_id)
        return self.job(job_id)

    def _known(self, job_id: str) -> Job | None:
        try:
            return self.job(job_id)
        except NotFoundError:
            return None

    def _check(self, model: type[C], text: str, check: Check[C]) -> None:
        with TemporaryDirectory(dir=private_dir(self.home.state)) as scratch:
            path = Path(scratch) / _REQUEST
            write_private(path, text)
            config = load_config(model, [path]).config
        with self._registry() as registry:
            check(config, self.home, registry)

    def _same(self, job: Job, posted: Path, text: str) -> Job:
        if not posted.exists() or posted.read_text(encoding="utf-8") != text:
            raise ConflictError(f"the idempotency key belongs to {job.job_id}, which has another body", "use a new key")
        return job

    def _files(self, job_id: str) -> JobFiles:
        return JobFiles(self.home.jobs / job_id)

    def _run(self, job: Job) -> RunDir:
        return RunDir(Path(job.run_dir) if job.run_dir else self.home.runs / job.name)

    @contextmanager
    def _registry(self) -> Iterator[Registry]:
        with Registry(self.home.state_db) as registry:
            yield registry


def task_app_name(url: str) -> str:
    """The task app that a URL of this cluster names. Raises ConfigError for every other URL."""
    parsed = parse_url(url)
    name = parsed.path.strip("/")
    if parsed.host not in _LOOPBACK or name not in TASKS:
        raise ConfigError(
            f"{parsed.origin}{parsed.path} is no task app of this cluster, and only those play its rollouts",
            f"for example http://127.0.0.1:8000/{next(iter(TASKS))}, as `synth-ray deploy` prints it",
        )
    return name


def _file_name(name: str) -> str:
    last = Path(name.replace("\\", "/")).name
    clean = "".join(char for char in last if char.isprintable() and char != "/")[-128:]
    return clean if clean.strip(". ") else "upload.jsonl"
