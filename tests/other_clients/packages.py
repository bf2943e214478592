"""Other people's packages from the package index, each set in a folder of its own; the project's .venv stays as it is.

    python tests/other_clients/packages.py

fetches what is missing into the checkout's folder .venv-clients. What a package needs besides comes from the .venv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE.parents[1] / ".venv-clients"
SETS = {
    "openai2": ("openai==2.54.0", "distro==1.9.0"),
    "trl": ("trl==1.16.0", "datasets==5.2.0", "multiprocess==0.70.19", "xxhash==4.1.0"),
}
TIMEOUT_S = 300.0


def there(name: str) -> bool:
    """Whether the set is in its folder, in the versions that ``SETS`` says."""
    stamp = _stamp(name)
    return stamp.exists() and stamp.read_text().split() == [*SETS[name]]


def fetch(name: str) -> None:
    """Puts the set into its folder, once; replaces other versions of it."""
    if there(name):
        return
    home = HOME / name
    shutil.rmtree(home, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(home), *SETS[name]], check=True)
    _stamp(name).write_text("\n".join(SETS[name]))


def run(script: str, packages: str, folder: Path, *arguments: str, **environ: str) -> str:
    """What a script beside this file prints in ``folder``; a set's packages go before those of the .venv."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "OPENAI_", "PYTHON"))}
    offline = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    path = {"PYTHONPATH": str(HOME / packages)} if packages else {}
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        cwd=folder,
        env={**kept, **offline, **path, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def _stamp(name: str) -> Path:
    return HOME / name / ".complete"


if __name__ == "__main__":
    for each in SETS:
        fetch(each)
