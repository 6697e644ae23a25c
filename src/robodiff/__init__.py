"""robodiff: from recorded robot demonstrations to a measured diffusion policy."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robodiff.policies.checkpoint import load_policy
    from robodiff.policies.runner import PolicyRunner, Team
    from robodiff.registry import register

# Torch's threads wait for each other by spinning, and beside a second program they spin while that one has the core:
# training and acting then take up to 100 times as long. Threads that sleep after a short spin lose nothing alone and
# little in company (benchmarks/busy.py). Read when torch is imported; what the user says is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # of GNU's library, which torch has on Linux; others do not read it

__version__ = "0.2.0"
__all__ = ["PolicyRunner", "Team", "load_policy", "register"]

_PUBLIC = {
    "load_policy": "robodiff.policies.checkpoint",
    "PolicyRunner": "robodiff.policies.runner",
    "Team": "robodiff.policies.runner",
    "register": "robodiff.registry",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``import robodiff`` takes no time."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'robodiff' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
