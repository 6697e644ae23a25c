"""Open a policy by its path or address: a run, a policy's folder, a hub repository, a server."""

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
    """Return a policy with its ``timing``, for a ``PolicyRunner``, the server or the real-time loop.

    Args:
        path: a run, a policy's folder, an exported policy, a repository id on the Hugging Face hub, or the address of a
            server, ``ws://host:port`` or ``wss://``, whose token is in the environment variable ROBODIFF_TOKEN.
        device: that computes it.
        sampler: in place of the policy's own.
        steps: of denoising, in place of the policy's own number.
        revision: of the hub repository.

    Raises:
        RobodiffError: there is no policy, or it is broken.
        UsageError: a sampler or a number of steps that does not fit.
    """
    if str(path).startswith(("ws://", "wss://")):
        from robodiff.deploy.client import RemotePolicy  # needs websockets

        if (sampler, steps, revision, device) != (None, None, None, "cpu"):
            options = "--sampler, --steps, --revision and --device"
            raise UsageError(f"{path}: a served policy is as its server has it; give {options} to robodiff serve")
        return RemotePolicy(str(path), os.environ.get("ROBODIFF_TOKEN"))
    if is_exported(path):
        policy = load_exported(path)
        policy.check_options(sampler, steps, device)
        return policy
    from robodiff.policies.checkpoint import load_policy  # needs torch

    return load_policy(path, device, sampler=sampler, steps=steps, revision=revision)
