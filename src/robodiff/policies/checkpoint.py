"""A policy on disk: a folder with ``config.json`` and ``model.safetensors``. Nothing is ever unpickled."""

import hashlib
import json
import math
import shlex
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from robodiff import registry
from robodiff.data.alike import check_alike
from robodiff.data.episodes import Feature
from robodiff.documents import Above, Document, decode_json, plain, typed, write_json
from robodiff.errors import RobodiffError, UsageError, first_line, notice
from robodiff.files import is_repository, reading, replacing, standing
from robodiff.networks.layers import shape_misfits
from robodiff.policies.config import PolicyConfig, read_policy_config
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.discrete import VaeCodec
from robodiff.text import brief, listed

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TRIES, SECONDS_BETWEEN_TRIES = 10, 0.05
"""A policy is replaced in the time of two renames; a broken one is known when it is the same twice."""
MEANING = (
    "action_rotations",
    "action_relative_to",
    "canonicalize",
    "prediction_type",
    "num_train_timesteps",
    "beta_schedule",
)
"""Options that say what goes into the network and comes out of it, whatever its size."""
BETAS = ("beta_start", "beta_end")
"""Likewise, of the linear schedules."""
_REMEDY = "copy the whole folder again from where it comes from"


@dataclass(frozen=True, kw_only=True)
class PolicyFile(Document):
    """What ``config.json`` says of a policy."""

    format_version: int
    """``FORMAT_VERSION`` of the robodiff that wrote it."""
    config: dict[str, Any]
    """The fields of the configuration, and its ``class``: the name by which it is registered."""
    features: dict[str, Feature]
    """What each key holds."""
    fps: Annotated[float, Above(0)]
    """Frames per second of the recording."""
    weights_sha256: str | None = None
    """Of the file of the weights."""
    origin: registry.Origin | None = None
    """Where the configuration's class came from, or its sampler; None for those of robodiff."""


def save_policy(policy: DiffusionPolicy, folder: Path) -> None:
    """Write a policy to ``folder``, which takes the place of an earlier one only when it is whole.

    Raises:
        RobodiffError: it holds values that are not finite; an earlier policy in the folder stays.
    """
    weights = {key: value.detach().cpu().contiguous() for key, value in policy.state_dict().items()}
    if (broken := first_not_finite(weights)) is not None:
        raise RobodiffError(f"{folder}: not written: {broken} holds values that are not finite; the earlier one stays")
    tensors, name = save(weights), policy.config.registry_name
    values = {
        "format_version": FORMAT_VERSION,
        "config": {"class": name, **plain(policy.config)},
        "features": plain(policy.features),
        "fps": policy.fps,
        "weights_sha256": hashlib.sha256(tensors).hexdigest(),
    }
    origin = registry.origin("models", name) or registry.origin("samplers", policy.config.noise_scheduler_type)
    with replacing(Path(folder)) as temporary:
        temporary.mkdir()
        write_json(temporary / CONFIG_FILE, values | ({} if origin is None else {"origin": plain(origin)}))
        (temporary / WEIGHTS_FILE).write_bytes(tensors)


def load_policy(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    sampler: str | None = None,
    steps: int | None = None,
    spacing: str | None = None,
    revision: str | None = None,
) -> DiffusionPolicy:
    """Load a policy, ready to act (in evaluation mode).

    Args:
        path: a policy's folder, a run's folder (its best policy), or the repository id of one on the Hugging Face hub.
        device: where to put it.
        sampler: ddpm, ddim, dpmsolver++, flow, flowheun or a registered one in place of the one it was trained with.
        steps: denoising steps in place of its own.
        spacing: even, leading or trailing in place of its own.
        revision: of the hub repository.

    Raises:
        RobodiffError: no policy there, or one that is broken or of another format.
        UsageError: a sampler or a number of steps that does not fit the policy.
    """
    folder = find_policy(path, revision)
    stored = _read(folder)
    try:
        described, config = _described(folder / CONFIG_FILE, stored.config)
        with torch.device("meta"):  # weights take no memory, whatever sizes are asked for; constants are real
            policy = config.make_policy(described.features, described.fps)
    except UsageError as error:
        raise RobodiffError(f"{folder / CONFIG_FILE}: does not describe a policy: {error}") from None
    weights = _weights(folder / WEIGHTS_FILE, stored, policy, described.weights_sha256)
    policy.load_state_dict(weights, assign=True)
    try:
        torch.zeros((), device=device).item()  # fails on devices that are unknown or absent, and on meta
        policy.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!s}: {first_line(error)}") from None
    policy.policy_hash = stored.hash
    change_acting(policy, sampler=sampler, steps=steps, spacing=spacing)
    return policy


def change_acting(policy: DiffusionPolicy, **asked: Any) -> None:
    """Make a policy act as ``PolicyConfig.acting`` is asked to, in what is not None.

    Raises:
        UsageError: what does not fit the policy.
    """
    if (config := policy.config.acting(**asked)) == policy.config:
        return
    if not hasattr(policy, "set_sampler"):
        raise UsageError("the policy has no sampler that could be changed")
    policy.set_sampler(config)


def load_vae(policy: DiffusionPolicy, path: str | Path) -> None:
    """Give a policy the VAE of discrete actions that another has, with the limits of its latent.

    Raises:
        RobodiffError: no policy there, or one that is broken.
        UsageError: it has no VAE, or one of other sizes.
    """
    codec = load_policy(path).codec
    assert isinstance(policy.codec, VaeCodec)
    if not isinstance(codec, VaeCodec):
        raise UsageError(f"model.vae_weights: the policy of {path} has no VAE")
    misfits = shape_misfits(codec.state_dict(), policy.codec.state_dict())
    if misfits or codec.classes != policy.codec.classes:
        problem = misfits[0] if misfits else f"classes {codec.classes}, needed are {policy.codec.classes}"
        raise UsageError(f"model.vae_weights: the VAE of {path} does not fit: {problem}")
    policy.codec.load_state_dict(codec.state_dict())


def load_weights(policy: DiffusionPolicy, path: str | Path) -> None:
    """Give a policy all weights that another has, its normalizer included.

    Raises:
        RobodiffError: no policy there, or one that is broken.
        UsageError: one that observes something else, or in another order, that predicts something else, or of other
            sizes; the message names the features or the options in which they differ.
    """
    other = load_policy(path)
    weights, problem = other.state_dict(), f"initial_weights: the policy of {path} does not fit"
    _check_observed(policy, other, problem)
    _check_meaning(policy, other, problem)
    features = other.features, policy.features
    vectors = [key for key in policy.features if all(each[key].kind == "vector" for each in features)]
    try:
        check_alike(*features, vectors, ("that policy", "this run"))
    except UsageError as error:
        raise UsageError(f"{problem}: {error}") from None
    if misfits := shape_misfits(weights, policy.state_dict()):
        own, others = plain(policy.config), plain(other.config)
        differing = [f"model.{name} {brief(value)}" for name, value in others.items() if own.get(name) != value]
        differing.reverse()  # those of the network itself come last
        raise UsageError(f"{problem}: {misfits[0]}\nit was trained with {listed(differing, 6)}")
    policy.load_state_dict(weights)
    own, others = (1 / each.config.timing(each.fps).spacing for each in (policy, other))
    if not math.isclose(own, others, rel_tol=1e-6):
        rates = f"was trained at {others:g} steps a second, and this run has {own:g}"
        notice(f"initial_weights: the policy of {path} {rates}: it begins with motions of another speed")


def _check_meaning(policy: DiffusionPolicy, other: DiffusionPolicy, problem: str) -> None:
    """Refuse a policy whose network is given something else, or predicts something else."""
    names = MEANING + BETAS * policy.config.beta_schedule.endswith("linear")
    own, others = ({name: plain(getattr(each.config, name)) for name in names} for each in (policy, other))
    if differing := [name for name in names if own[name] != others[name]]:
        pairs = [f"model.{name} {_word(others[name])}, and this run has {_word(own[name])}" for name in differing]
        remedy = " ".join(f"--model.{name} {shlex.quote(_word(others[name]))}" for name in differing)
        raise UsageError(f"{problem}: it was trained with {'; with '.join(pairs)}\ngive {remedy}")


def _word(value: Any) -> str:
    """Return the value of an option as a command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _check_observed(policy: DiffusionPolicy, other: DiffusionPolicy, problem: str) -> None:
    """Refuse a policy that observes other keys, or has them in another order, in which they are embedded."""
    own, others = policy.observation_keys, other.observation_keys
    if own == others:
        return
    more, less = ([key for key in one if key not in two] for one, two in ((others, own), (own, others)))
    words = [f"it observes {listed(more)}, which this run does not"] if more else []
    words += [f"it does not observe {listed(less)}, which this run does"] if less else []
    words = words or [f"it observes {', '.join(others)} in this order, this run {', '.join(own)}"]
    remedy = f"give --model.observation_keys '[{', '.join(others)}]' to observe what it does"
    remedy += ", if it was recorded; --data.key_map renames keys" * bool(more)
    raise UsageError(f"{problem}: {'; '.join(words)}\n{remedy}")


def find_policy(path: str | Path, revision: str | None = None) -> Path:
    """Return the folder of the policy that ``path`` names: itself, a run's best policy, or a download from the hub."""
    folder = Path(path)
    for candidate in (folder, folder / "policy") * 3:  # one that is being replaced is there again at once
        if (standing(candidate) / CONFIG_FILE).is_file():
            return candidate
        time.sleep(SECONDS_BETWEEN_TRIES / 10)
    expected = f"no policy here; expected {CONFIG_FILE} and {WEIGHTS_FILE}, or policy/ with them"
    if runs := sorted(str(inside.parents[1]) for inside in folder.glob(f"*/policy/{CONFIG_FILE}")):
        expected = f"no policy here, but inside; name one: {listed(runs)}"
    if not is_repository(str(path)):
        raise RobodiffError(f"{path}: {expected if folder.exists() else 'no such folder'}")
    return download(str(path), revision, [CONFIG_FILE, WEIGHTS_FILE])


def download(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """Return the folder that files of a repository of the Hugging Face hub were downloaded to.

    Raises:
        RobodiffError: there is none, or no network.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises many kinds: no network, no repository, no permission
        raise RobodiffError(
            f"{repository}: no such folder, and the Hugging Face hub says: {first_line(error)}"
        ) from None


def policy_hash(folder: Path) -> str:
    """Return a short fingerprint of a policy's weights and configuration."""
    return _read(folder).hash


@dataclass(frozen=True)
class _Stored:
    """The bytes of a policy, both of one time."""

    config: bytes
    weights: bytes

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.config + self.weights).hexdigest()[:16]

    @cached_property
    def weights_sha256(self) -> str:
        return hashlib.sha256(self.weights).hexdigest()

    @property
    def belong_together(self) -> bool:
        """Whether the configuration holds the hash of the weights; what is broken is told by those who read it."""
        return self.weights_sha256.encode() in self.config


def _read(folder: Path) -> _Stored:
    """Read a policy; one that is being replaced by the next, as a run's is, is read again."""
    stored: _Stored | None = None
    for attempt in range(TRIES):
        last, place = stored, standing(folder)
        try:
            stored = _Stored(*(_bytes(place / name) for name in (CONFIG_FILE, WEIGHTS_FILE)))
            if stored.belong_together or stored == last:
                return stored
        except RobodiffError:
            if attempt == TRIES - 1:
                raise
            stored = None
        time.sleep(SECONDS_BETWEEN_TRIES)
    raise RobodiffError(f"{folder}: is being written to; load it again when that has ended")


def _bytes(path: Path) -> bytes:
    with reading(path, "a file of a policy"):
        return path.read_bytes()


def _described(path: Path, content: bytes) -> tuple[PolicyFile, PolicyConfig]:
    values = decode_json(path, content, dict[str, Any], _REMEDY)
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise RobodiffError(f"{path}: format_version {version!r}, this robodiff reads {FORMAT_VERSION}; update it")
    described = typed(PolicyFile, values)
    return described, read_policy_config(described.config, described.origin)


def _weights(path: Path, stored: _Stored, outline: nn.Module, sha256: str | None) -> dict[str, Tensor]:
    """Return the weights in a file: whole, finite, saved with config.json, and stored as ``outline`` lays them out."""
    with reading(path, "a safetensors file"):
        weights = load(stored.weights)
    outlines = outline.state_dict()
    weights = {key: value for key, value in outlines.items() if not value.is_meta} | weights  # of later versions
    if misfits := shape_misfits(weights, outlines):
        raise RobodiffError(f"{path}: does not fit {CONFIG_FILE}: {misfits[0]}; {_REMEDY}")
    if (broken := first_not_finite(weights)) is not None:
        raise RobodiffError(f"{path}: {broken} holds values that are not finite; train again or take an earlier policy")
    if sha256 not in (None, stored.weights_sha256):
        raise RobodiffError(f"{path}: is not the file that was saved with {CONFIG_FILE}: another sha256; {_REMEDY}")
    # A file keeps no memory format, and channels last convolve faster.
    return {
        key: torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(weights[key])
        for key, like in outlines.items()
    }


def first_not_finite(weights: dict[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds values that are not finite; None where there is none."""
    return next((k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all()), None)
