"""Open whatever acts, by its path or address: a run, a policy, one of the Hugging Face hub, a server."""

import os
from pathlib import Path

from robodiff.deploy.artefact import is_exported
from robodiff.deploy.runtime import load_exported
from robodiff.errors import UsageError
from robodiff.policies.runtime import Runtime


def open_runtime(
    path: str | Path,
    device: str = "cpu",
    *,
    sampler: str | None = None,
    steps: int | None = None,
    revision: str | None = None,
) -> Runtime:
    """Return what acts, with its ``timing``; for a ``PolicyRunner``, the server and the real-time loop alike.

    Args:
        path: a run, a policy's folder, an exported policy, the repository id of one on the Hugging Face hub, or the
            address of a server, ``ws://host:port`` or ``wss://``, whose token is the environment variable
            ROBODIFF_TOKEN.
        device: where it computes.
        sampler: in place of its own.
        steps: of denoising, in place of its own number.
        revision: of the hub repository.

    Raises:
        RobodiffError: nothing there that acts, or it is broken.
        UsageError: a sampler or a number of steps that does not fit.
    """
    if str(path).startswith(("ws://", "wss://")):
        from robodiff.deploy.client import RemotePolicy  # needs websockets

        if (sampler, steps, revision) != (None, None, None):
            raise UsageError(f"{path}: what is served has its sampler; give these options to robodiff serve")
        return RemotePolicy(str(path), os.environ.get("ROBODIFF_TOKEN"))
    if is_exported(path):
        policy = load_exported(path)
        policy.check_sampling(sampler, steps)
        return policy
    from robodiff.policies.checkpoint import load_policy  # needs torch

    return load_policy(path, device, sampler=sampler, steps=steps, revision=revision)
