"""What a script says that needs no cluster: one JSON object, on the last line of its stdout, and its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from synth_ray.core.errors import StorageError, SynthRayError


def answered(work: Callable[[], Mapping[str, Any]]) -> int:
    """Prints what ``work`` returns, or why it failed; returns the exit code."""
    answer: dict[str, Any]
    try:
        answer, code = {"ok": True, "result": dict(work())}, 0
    except SynthRayError as error:
        answer, code = _failure(error), error.exit_code
    except OSError as error:
        answer, code = _failure(StorageError.of(error)), StorageError.exit_code
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


def _failure(error: SynthRayError) -> dict[str, Any]:
    return {"ok": False, "error": error.as_dict(), "exit_code": error.exit_code}
