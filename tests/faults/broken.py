"""Training that diverges, and policies on disk that are broken."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.faults.catalogue import Place, fault
from tests.faults.processes import Seen, run

from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.diffusion import DiffusionPolicy


@fault("model.learning_rate set to 1e9 in config.yaml, and fit --resume",
       "the policies and the checkpoint of before; with the old rate fit --resume goes on")  # fmt: skip
def diverging_training(place: Place) -> Seen:
    """a loss that is not finite."""
    place.with_run()
    config = place.run / "config.yaml"
    text, kept = config.read_text(), _contents(place.run, "policy", "policy-last", "checkpoints")
    described = yaml.safe_load(text)
    described["model"]["init_args"]["learning_rate"] = 1e9
    config.write_text(yaml.safe_dump(described))
    seen = run(*place.resume(40)).refused(1, "training diverged", "at step ", "(epoch 0, batch ", "below 1e+09")
    assert _contents(place.run, "policy", "policy-last", "checkpoints") == kept
    config.write_text(text)
    run(*place.resume(8)).done()
    return seen


def _contents(folder: Path, *parts: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for part in parts for path in (folder / part).rglob("*") if path.is_file()}


def broken_policy(name: str, cause: str, *message: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Put what a function does to a policy's folder into the catalogue, and what is said of it."""

    def add(damage: Callable[[Path], None]) -> Callable[[Path], None]:
        def happen(place: Place) -> Seen:
            place.with_run()
            damage(place.policy)
            load_policy(place.run / "policy-last")
            return run(*place.eval()).refused(1, *message)

        happen.__doc__ = name
        fault(cause, "the run's other policies")(happen)
        return damage

    return add


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "config.json"
    described = json.loads(file.read_text())
    change(described)
    file.write_text(json.dumps(described))


@broken_policy("weights that are not finite", "a weight of model.safetensors set to NaN",
               "model.safetensors: denoiser.", "holds values that are not finite")  # fmt: skip
def nan_weights(policy: Path) -> None:
    weights = load_file(policy / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] * torch.nan}, policy / "model.safetensors")


@broken_policy("weights cut short", "the last 100 bytes of model.safetensors removed",
               "model.safetensors: is not a safetensors file", "copy or download it again")  # fmt: skip
def truncated_weights(policy: Path) -> None:
    file = policy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _take_weights_of_another(policy: Path, **changes: Any) -> None:
    own = load_policy(policy)
    other = DiffusionPolicy(dataclasses.replace(own.config, **changes), own.features, own.fps)
    save_policy(other, policy.parent.parent / "OTHER")
    shutil.copy(policy.parent.parent / "OTHER" / "model.safetensors", policy)


@broken_policy("weights of a policy of another size", "model.safetensors of a policy with other down_dims",
               "does not fit config.json: denoiser.", " should be (", ", is (")  # fmt: skip
def weights_of_another_size(policy: Path) -> None:
    _take_weights_of_another(policy, down_dims=(16, 32))


@broken_policy("weights of another policy", "model.safetensors of a policy of the same sizes",
               "is not the file that was saved with config.json", "sha256")  # fmt: skip
def weights_of_another_policy(policy: Path) -> None:
    _take_weights_of_another(policy)


@broken_policy("weights without one tensor", "a tensor removed from model.safetensors",
               "does not fit config.json: denoiser.", "is absent")  # fmt: skip
def weights_without_one_tensor(policy: Path) -> None:
    weights = load_file(policy / "model.safetensors")
    del weights[next(iter(weights))]
    save_file(weights, policy / "model.safetensors")


@broken_policy("no weights", "model.safetensors removed", "model.safetensors: is missing")
def no_weights(policy: Path) -> None:
    (policy / "model.safetensors").unlink()


@broken_policy("options that this version does not know", "config.json with two more options",
               "unknown option config.horizn. Did you mean 'horizon'?", "config.attention")  # fmt: skip
def unknown_options(policy: Path) -> None:
    _edit(policy, lambda described: described["config"].update(horizn=8, attention=True))


@broken_policy("a newer format", "format_version 2 in config.json",
               "format_version 2, this robodiff reads 1")  # fmt: skip
def newer_format(policy: Path) -> None:
    _edit(policy, lambda described: described.update(format_version=2))


@broken_policy("an option of the wrong type", 'horizon "16" in config.json',
               "config.json: does not describe a policy", "config.horizon: expected int", "found '16'")  # fmt: skip
def wrong_type(policy: Path) -> None:
    _edit(policy, lambda described: described["config"].update(horizon="16"))


@broken_policy("features that the weights do not have", "a key of the features renamed in config.json",
               "does not fit config.json: normalizer.maps.observation/joints", "is absent")  # fmt: skip
def other_features(policy: Path) -> None:
    def rename(described: dict[str, Any]) -> None:
        described["features"]["observation.joints"] = described["features"].pop("observation.state")
        described["config"]["observation_keys"] = ["observation.joints", "observation.environment_state"]

    _edit(policy, rename)


@broken_policy("features of the wrong form", "the shape of a feature is a word in config.json",
               "config.json: does not describe a policy", "features: action: shape: expected list")  # fmt: skip
def wrong_features(policy: Path) -> None:
    _edit(policy, lambda described: described["features"]["action"].update(shape="two"))


@broken_policy("a configuration cut short", "the second half of config.json removed",
               "config.json: cannot be read as JSON", "copy the whole folder again")  # fmt: skip
def truncated_config(policy: Path) -> None:
    text = (policy / "config.json").read_text()
    (policy / "config.json").write_text(text[: len(text) // 2])
