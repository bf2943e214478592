"""Regenerates the lock files of this folder from the *.in files. Reads package metadata only; installs no package.

    python requirements/lock.py                 all locks; every pin that still fits is kept
    python requirements/lock.py cpu dev         some locks
    python requirements/lock.py --upgrade gpu   newest releases that are at least a week old

Each lock is resolved once per Python and machine that it covers (`uv pip compile`, in a throw-away environment) and the
answers are merged: a pin that only one machine needs gets a marker, and every file that pip may choose on one of the
targets gets its hash. The locks name no package index: hashes say which files are meant, and the configuration of pip
says where to find them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
UV = "uv==0.13.9"
COOLDOWN = "7 days"
PYTHONS = ("3.11", "3.12")
GLIBC = "manylinux_2_31"  # the oldest that every package of the stack has a wheel for

Target = tuple[str, str]  # Python version, machine


@dataclass(frozen=True)
class Lock:
    """One lock file: what it leaves out, whom it agrees with, and where it must install."""

    omit: tuple[str, ...] = ()  # these packages and whatever only they need
    same_as: tuple[str, ...] = ()  # other locks whose versions are kept where possible
    must_agree: bool = False  # ... or kept always
    without: tuple[str, ...] = ()  # other locks that are installed beside this one, so their packages are left out
    machines: tuple[str, ...] = ("x86_64", "aarch64")

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every Python and machine that the lock covers."""
        return tuple(product(PYTHONS, self.machines))


LOCKS = {
    # The index's builds of torch's companions are CUDA builds, which break imports beside a CPU torch; text models
    # don't need them.
    "cpu": Lock(omit=("torch", "torchvision", "torchaudio", "torchcodec")),
    "build": Lock(same_as=("cpu",), must_agree=True),
    "dev": Lock(same_as=("cpu", "build"), must_agree=True, without=("cpu", "build")),
    "gpu": Lock(same_as=("cpu",), machines=("x86_64",)),
}


@dataclass
class Pin:
    """One package at one version: where it is needed, and the SHA-256 of each file that may be installed."""

    name: str
    version: str
    targets: set[Target] = field(default_factory=set)
    hashes: set[str] = field(default_factory=set)


def main() -> None:
    """Writes the locks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("locks", nargs="*", metavar="LOCK", help=f"one of {', '.join(LOCKS)} (default: all)")
    parser.add_argument("--upgrade", action="store_true", help="forget the present pins")
    options = parser.parse_args()
    if unknown := set(options.locks) - set(LOCKS):
        parser.error(f"no such lock: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as scratch:
        uv = install_uv(Path(scratch) / "venv")
        for name, lock in LOCKS.items():  # in this order: later locks follow earlier ones
            if not options.locks or name in options.locks:
                text = write_lock(uv, name, lock, options.upgrade, Path(scratch))
                (HERE / f"{name}.txt").write_text(text)


def install_uv(folder: Path) -> Path:
    """A throw-away environment with the resolver in it."""
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", UV], check=True)
    return folder / "bin" / "uv"


def write_lock(uv: Path, name: str, lock: Lock, upgrade: bool, scratch: Path) -> str:
    """The text of the lock ``name``."""
    pins: dict[tuple[str, str], Pin] = {}
    for target in lock.targets:
        print(f"{name}: Python {target[0]} on {target[1]}", file=sys.stderr)
        for package in resolve(uv, name, lock, target, upgrade, scratch):
            pin = pins.setdefault((package["name"], package["version"]), Pin(package["name"], package["version"]))
            pin.targets.add(target)
            pin.hashes |= usable_hashes(package)
    elsewhere = {pinned for other in lock.without for pinned in pinned_names(other)}
    lines = [f"# Written by `python requirements/lock.py {name}` from {name}.in; do not edit."]
    for pin in sorted(pins.values(), key=lambda pin: (pin.name, pin.version)):
        if pin.name not in elsewhere:
            lines.append(
                f"{pin.name}=={pin.version}{marker(pin.targets, lock)}"
                + "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(pin.hashes))
            )
    return "\n".join(lines) + "\n"


def resolve(uv: Path, name: str, lock: Lock, target: Target, upgrade: bool, scratch: Path) -> list[dict[str, Any]]:
    """The packages of one lock on one target, each with its files, as a pylock document lists them."""
    pins, files, excludes = scratch / "pins.txt", scratch / "pylock.toml", scratch / "excludes.txt"
    python, machine = target
    common = ["--quiet", "--no-config", "--no-python-downloads", "--python-version", python]
    common += ["--python-platform", f"{machine}-{GLIBC}"]
    excludes.write_text("\n".join(lock.omit))
    files.unlink(missing_ok=True)
    pins.write_text("" if upgrade else seeds(name, lock))  # versions found in the output file are kept if they fit
    asked = [str(HERE / f"{name}.in"), "--excludes", str(excludes), "--output-file", str(pins)]
    if lock.must_agree:
        asked += [part for other in lock.same_as for part in ("--constraint", str(HERE / f"{other}.txt"))]
    if upgrade:
        asked += ["--exclude-newer", COOLDOWN]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VIRTUAL_ENV")}
    compile_ = [str(uv), "pip", "compile", *common]
    subprocess.run([*compile_, *asked], check=True, stdout=subprocess.DEVNULL, env=environment)
    asked = [str(pins), "--no-deps", "--format", "pylock.toml", "--output-file", str(files)]
    subprocess.run([*compile_, *asked], check=True, stdout=subprocess.DEVNULL, env=environment)
    packages: list[dict[str, Any]] = tomllib.loads(files.read_text())["packages"]
    return packages


def seeds(name: str, lock: Lock) -> str:
    """The versions to keep: those of the present lock, then those of the locks that it follows."""
    pins: dict[str, str] = {}
    for source in (name, *lock.same_as):
        for pinned, version in pinned_versions(source):
            pins.setdefault(pinned, version)
    return "".join(f"{pinned}=={version}\n" for pinned, version in pins.items())


def pinned_versions(name: str) -> list[tuple[str, str]]:
    """Package and version of every pin in a lock; empty if there is no such lock yet."""
    path = HERE / f"{name}.txt"
    return re.findall(r"^([a-z0-9-]+)==([^\s;\\]+)", path.read_text(), re.M) if path.is_file() else []


def pinned_names(name: str) -> set[str]:
    """The packages in a lock."""
    return {pinned for pinned, _ in pinned_versions(name)}


def usable_hashes(package: dict[str, Any]) -> set[str]:
    """The hashes of a package's wheels for the target, or of its source if it has none."""
    files = package.get("wheels") or [package["sdist"]]
    return {file["hashes"]["sha256"] for file in files}


def marker(targets: set[Target], lock: Lock) -> str:
    """The environment marker that selects ``targets`` among the lock's targets."""
    pythons, machines = {python for python, _ in targets}, {machine for _, machine in targets}
    if targets != set(product(pythons, machines)):
        raise SystemExit(f"no simple marker selects {sorted(targets)}")
    clauses = [f'python_version == "{one}"' for one in pythons if len(pythons) < len(PYTHONS)]
    clauses += [f'platform_machine == "{one}"' for one in machines if len(machines) < len(lock.machines)]
    return f" ; {' and '.join(clauses)}" if clauses else ""


if __name__ == "__main__":
    main()
