"""files: data sets kept under an id, which can stand for a path in `[job].data`."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import click

from synth_ray.cli import options
from synth_ray.cli.lists import registered, show_record, show_table
from synth_ray.cli.output import data, data_json, say
from synth_ray.cli.watching import watch_option, watched

PURPOSES = ("fine-tune", "validation", "other")


@click.group()
def files() -> None:
    """Data sets kept under an id: upload, list, get.

    \b
    synth-ray files upload ft_data/train.jsonl
    synth-ray train sft -c configs/quickstart/sft_weak.toml --set job.data=file-...
    """


@files.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--purpose", type=click.Choice(PURPOSES), default="fine-tune", show_default=True)
@options.json_option
def upload(file: Path, purpose: str, as_json: bool) -> None:
    """Copy a file into the store and print its id; fine-tuning data are checked line by line first.

    \b
    synth-ray files upload ft_data/train.jsonl
    """
    from synth_ray.core.paths import find_home
    from synth_ray.records.uploads import upload as store

    stored = store(find_home(), file, purpose)
    if as_json:
        data_json("files.upload", asdict(stored))
        return
    data(stored.file_id)
    say(f"kept {stored.size_bytes} bytes of {stored.filename}; use it as a path: --set job.data={stored.file_id}")


@click.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most rows.")
@click.option("--purpose", type=click.Choice(PURPOSES), default=None)
@options.json_option
@watch_option
def list_files(limit: int, purpose: str | None, as_json: bool, watch: float | None) -> None:
    """Uploaded files, newest first.

    \b
    synth-ray files list
    synth-ray files list --purpose fine-tune
    """

    def show() -> None:
        rows = [asdict(file) for file in registered("files", limit, purpose=purpose or "")]
        if as_json:
            data_json("status.files", rows)
            return
        shown = [(r["file_id"], r["purpose"], r["size_bytes"], r["created_at"][:19], r["filename"]) for r in rows]
        show_table(
            ("file", "purpose", "bytes", "created", "name"), shown, right=("bytes",), filtered=purpose is not None
        )

    watched(show, watch)


@click.command("get")
@click.argument("file_id")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Copy the content to this path.")
@options.json_option
def get_file(file_id: str, output: Path | None, as_json: bool) -> None:
    """All about one file; with -o its content.

    \b
    synth-ray files get file-... -o train.jsonl
    """
    from synth_ray.core.errors import ConflictError
    from synth_ray.core.paths import find_home
    from synth_ray.records.disk import storage_errors
    from synth_ray.records.uploads import stored

    file, path = stored(find_home(), file_id)
    if output:
        if output.exists():
            raise ConflictError(f"{output} exists", "choose another path")
        with storage_errors(output):
            shutil.copyfile(path, output)
    show_record("status.file", {**asdict(file), "path": str(output or path)}, as_json)


files.add_command(list_files)
files.add_command(get_file)
