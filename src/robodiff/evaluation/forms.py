"""The forms of the JSON files that a run keeps: what those who read them rely on. More may be there."""

import reprlib
from pathlib import Path
from typing import Any

from robodiff.errors import RobodiffError
from robodiff.files import read_json

LARGEST = 1e15
"""No number is as large, which can be drawn and written out."""
_NUMBER = int | float
FACTS: Any = {"minutes": _NUMBER, "steps": int, "machine": str, "samples_per_second": _NUMBER | None}
EVALUATION: Any = {
    "success_rate": _NUMBER,
    "success_rate_ci95": (_NUMBER, _NUMBER),
    "mean_max_reward": _NUMBER,
    "non_finite_actions": int,
    "episodes": [{"seed": int, "success": bool, "max_reward": _NUMBER, "length": int}],
    "evaluated": {
        **dict.fromkeys(("policy", "environment", "environment_version", "success_means", "sampler", "device"), str),
        "steps": int,
    },
    "latency_ms": {"p50": _NUMBER, "p95": _NUMBER},
}
OFFLINE: Any = {
    "relative_to_hold": _NUMBER | None,
    "relative_to_mean": _NUMBER | None,
    "worst_dimension": int | None,
    "dimensions": [
        {
            "name": str,
            "unit": str | None,
            "moves": bool,
            **dict.fromkeys(("mae", "rmse", "hold", "mean", "spread"), _NUMBER),
        }
    ],
    "steps": [{"executed": bool, "mae": [_NUMBER], "hold": [_NUMBER]}],
    "evaluated": {"policy": str, "data": str, "which": str, "episodes": [int], "windows": int, "of_windows": int},
}


def read_formed(path: Path, form: Any, advice: str, **absent: Any) -> dict[str, Any]:
    """Read a JSON object of a form.

    Args:
        path: of the file.
        form: a dict of the keys that must be there, each with its form; a list with the form of all that it holds, at
            least one; a tuple with the forms of a list of that length; else a type.
        advice: what to do where it is not of that form.
        absent: what keys that older files have not stand for.

    Raises:
        RobodiffError: it is not of that form; the message names the first place.
    """
    found = {**absent, **read_json(path, advice)}

    def check(found: Any, form: Any, name: str) -> None:
        if isinstance(form, dict) and isinstance(found, dict):
            for key, part in form.items():
                place = f"{name}.{key}" if name else key
                if key not in found:
                    raise RobodiffError(f"{path}: has no {place!r}; {advice}")
                check(found[key], part, place)
        elif isinstance(form, list) and isinstance(found, list) and found:
            for place, part in enumerate(found):
                check(part, form[0], f"{name}[{place}]")
        elif isinstance(form, tuple) and isinstance(found, list) and len(found) == len(form):
            for place, (part, its_form) in enumerate(zip(found, form, strict=True)):
                check(part, its_form, f"{name}[{place}]")
        elif isinstance(form, dict | list | tuple) or not _is_value(found, form):
            raise RobodiffError(f"{path}: {name} cannot be {reprlib.repr(found)}; {advice}")

    check(found, form, "")
    return found


def _is_value(found: Any, kind: Any) -> bool:
    if isinstance(found, bool):
        return kind is bool
    return isinstance(found, kind) and (not isinstance(found, int | float) or -LARGEST < found < LARGEST)
