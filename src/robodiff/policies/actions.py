"""What the network sees of an action, and back: rotations as six numbers, poses relative to the current state.

Ranges that are discrete are left out here, for they are encoded together: ``policies.discrete``.

A recording holds a rotation as axis-angle: three numbers, whose direction is the axis and whose length is the angle in
radians. The network sees the first two rows of its matrix, for which ``rotations`` tells the reasons.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from robodiff.data.episodes import ACTION, Feature
from robodiff.data.normalize import Statistics, hold_still, is_still, parse_range
from robodiff.data.windows import Windows
from robodiff.errors import UsageError, nearest
from robodiff.policies import rotations as so3
from robodiff.policies.config import PolicyConfig


class ActionRepresentation(nn.Module):
    """A map from recorded actions to those that are learnt, and back: a part of the policy, without parameters.

    Every range of dimensions is encoded where it stands, so (position, axis-angle, gripper) of 3 + 3 + 1 numbers become
    3 + 6 + 1. A normalizer of encoded actions counts these dimensions: ``{"0:3": "limits", "3:9": "identity", "9:10":
    "identity"}``; the six numbers lie within [-1, 1] and are best left as they are.

    A recorded dimension that is still in training is given back as it was recorded, whatever is decoded: of what is
    encoded as it is, the normalizer sees to that; of the rest, ``fit`` keeps the range.

    Args:
        dim: dimensions of a recorded action.
        rotations: ranges of it that hold axis-angle in radians, as ``"3:6"``.
        relative_to: ranges of it that are taken relative to the current observation, each with the observation,
            ``{"0:3": "observation.robot0_eef_pos"}`` or ``{"0:3": "observation.state[0:3]"}``. A range of numbers
            becomes action - observation. A range of ``rotations`` becomes the action's rotation as seen from the
            observed one, R_observation^T R_action, the observation being axis-angle (3 numbers) or a quaternion
            x, y, z, w (4 numbers of any length above 0, as robosuite and robomimic write it).
        observations: dimensions of every vector that is observed.
        discrete: ranges of it that hold class values, with these, ``{"6:7": (0, 1)}``.

    Raises:
        UsageError: a range that is not one, is outside of the action or overlaps another; a rotation that is not 3
            numbers; an observation that there is not, or of the wrong number of dimensions.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        dim: int,
        rotations: Sequence[str] = (),
        relative_to: Mapping[str, str] | None = None,
        observations: Mapping[str, int] | None = None,
        discrete: Mapping[str, tuple[float, ...]] | None = None,
    ) -> None:
        super().__init__()
        rotated = [_range(text, dim, "rotations") for text in rotations]
        for start, stop in rotated:
            if stop - start != 3:
                raise UsageError(f"rotations: axis-angle is 3 numbers; the range {start}:{stop} has {stop - start}")
        relative = [(_range(text, dim, "relative_to"), source) for text, source in (relative_to or {}).items()]
        classes = {_range(text, dim, "discrete"): values for text, values in (discrete or {}).items()}
        ranges = sorted([*rotated, *(range_ for range_, _ in relative if range_ not in rotated), *classes])
        for (a, b), (c, d) in pairwise(ranges):
            if c < b:
                raise UsageError(f"rotations, relative_to and discrete: the ranges {a}:{b} and {c}:{d} overlap")
        vectors = observations or {}
        references = {range_: _reference(source, range_, range_ in rotated, vectors) for range_, source in relative}
        edges = sorted({0, dim, *(edge for range_ in ranges for edge in range_)})
        self._parts = [
            _Part(*range_, range_ in rotated, references.get(range_), classes.get(range_, ()))
            for range_ in pairwise(edges)
        ]
        self.dim = dim
        self.classes = {dim: part.classes for part in self._parts if part.classes for dim in part.dimensions}
        """The class values of each discrete dimension, by its number."""
        self.encoded_dim = sum(part.encoded_dim for part in self._parts)
        self.reference_keys = sorted({reference.key for reference in references.values()})
        """Observations that ``encode`` and ``decode`` need; none when every action is absolute."""
        self.is_identity = not ranges
        if not self.is_identity:
            for name, value in (("low", -1.0), ("high", 1.0)):  # real on the meta device: older files lack them
                self.register_buffer(name, torch.full((dim,), value, device="cpu"))

    def fit(self, actions: Statistics) -> None:
        """Keep the range of the recorded actions of the training episodes."""
        if not self.is_identity:
            self.low.copy_(torch.from_numpy(actions.min))
            self.high.copy_(torch.from_numpy(actions.max))

    def encode(self, actions: Tensor, reference: Mapping[str, Tensor]) -> Tensor:
        """Represent recorded actions as they are learnt.

        Args:
            actions: (B, T, dim) as recorded.
            reference: per key of ``reference_keys`` the current observation as recorded, (B, D): that of step
                n_obs_steps - 1 of the window. All T steps are taken relative to it.

        Returns:
            (B, T, encoded_dim), not normalised, without the discrete dimensions.
        """
        return torch.cat([part.encode(actions[..., part.start : part.stop], reference) for part in self._parts], -1)

    def discrete(self, values: Tensor) -> Tensor:
        """Return the discrete dimensions (..., D) of recorded actions, or of their weights, (..., dim)."""
        return values[..., [*self.classes]]

    def decode(self, encoded: Tensor, reference: Mapping[str, Tensor], discrete: Tensor | None = None) -> Tensor:
        """Invert ``encode``, (B, T, encoded_dim) to (B, T, dim), and hold still what was.

        Six numbers that are no rotation give the one that Gram and Schmidt make of them. Angles come out in [0, pi],
        but of an axis-angle of which some numbers are still: the way round that is nearer to these. What is discrete
        is taken from ``discrete`` (B, T, D), where there is any.
        """
        pieces = encoded.split([part.encoded_dim for part in self._parts], -1)
        parts = [part.decode(piece, reference) for part, piece in zip(self._parts, pieces, strict=True)]
        if self.classes:
            assert discrete is not None
            sizes = [part.stop - part.start if part.classes else 0 for part in self._parts]
            values = discrete.split(sizes, -1)
            parts = [
                value if part.classes else each for part, each, value in zip(self._parts, parts, values, strict=True)
            ]
        if self.is_identity:
            return torch.cat(parts, -1)
        for place, part in enumerate(self._parts):
            if part.is_rotation:
                low, high = (bound[part.start : part.stop] for bound in (self.low, self.high))
                parts[place] = so3.nearer_way_round(parts[place], low, is_still(low, high))
        return hold_still(torch.cat(parts, -1), self.low, self.high)

    def distance(self, actions: Tensor, others: Tensor) -> Tensor:
        """Measure how far recorded actions are from others, (..., dim) each, to (..., E): what ``distances`` lists.

        Of a number that is the size of the difference, of a class whether it is another (0 or 1), of a rotation the
        angle that leads from one to the other, in radians: differences between axis-angles mean nothing where the axis
        flips.
        """
        return torch.cat([part.distance(actions, others) for part in self._parts], -1)

    @property
    def distances(self) -> list[tuple[int, ...]]:
        """The dimensions that each number of ``distance`` is about: one, or the three of a rotation."""
        return [dims for part in self._parts for dims in part.distances]

    def mean(self, actions: Tensor) -> Tensor:
        """Return the mean (dim,) of recorded actions (F, dim).

        Of rotations what Gram and Schmidt make of it, of classes the most frequent.
        """
        means = []
        for part in self._parts:
            if part.classes:
                means.append(actions[:, part.start : part.stop].mode(0).values)
                continue
            absolute = replace(part, reference=None)
            encoded = absolute.encode(actions[None, :, part.start : part.stop], {})  # (1, F, encoded_dim)
            means.append(absolute.decode(encoded.mean(1, keepdim=True), {})[0, 0])
        return torch.cat(means)

    def variance(self, actions: Tensor) -> Tensor:
        """Return the mean squared ``distance`` (E,) of recorded actions (F, dim) from their ``mean``."""
        return self.distance(actions, self.mean(actions)).square().mean(0)

    def encode_weights(self, weights: Tensor) -> Tensor:
        """Return how far numbers are known, 0 to 1, (B, T, dim) to (B, T, encoded_dim); of a rotation the least of
        its three."""
        return torch.cat([part.encode_weights(weights[..., part.start : part.stop]) for part in self._parts], -1)


def make_representation(config: PolicyConfig, features: Mapping[str, Feature]) -> ActionRepresentation:
    """Return how a policy represents its actions; without the range that ``fit`` keeps.

    Args:
        config: of the policy.
        features: what it observes, and ``action``.

    Raises:
        UsageError: ranges that do not go with these.
    """
    dims = {key: feature.shape[0] for key, feature in features.items() if feature.kind == "vector"}
    how = config.action_rotations, config.action_relative_to
    return ActionRepresentation(dims.pop(ACTION), *how, observations=dims, discrete=config.discrete_classes)


@dataclass(frozen=True)
class _Reference:
    """Dimensions of one observation: numbers, axis-angle or a quaternion."""

    key: str
    start: int
    stop: int

    def numbers(self, observations: Mapping[str, Tensor]) -> Tensor:
        return observations[self.key][:, None, self.start : self.stop]  # (B, 1, d): the same for every step

    def matrix(self, observations: Mapping[str, Tensor]) -> Tensor:
        to_matrix = so3.quaternion_to_matrix if self.stop - self.start == 4 else so3.axis_angle_to_matrix
        return to_matrix(self.numbers(observations))  # (B, 1, 3, 3)


@dataclass(frozen=True)
class _Part:
    """A range of the recorded action that is encoded as one."""

    start: int
    stop: int
    is_rotation: bool
    reference: _Reference | None
    classes: tuple[float, ...] = ()
    """Its values, where it is discrete."""

    @property
    def dimensions(self) -> range:
        return range(self.start, self.stop)

    @property
    def encoded_dim(self) -> int:
        return 0 if self.classes else 6 if self.is_rotation else self.stop - self.start

    @property
    def distances(self) -> list[tuple[int, ...]]:
        return [tuple(self.dimensions)] if self.is_rotation else [(dim,) for dim in self.dimensions]

    def distance(self, actions: Tensor, others: Tensor) -> Tensor:
        a, b = actions[..., self.start : self.stop], others[..., self.start : self.stop]
        if self.classes:
            return (a != b).to(a.dtype)
        return so3.angle_between(a, b).unsqueeze(-1) if self.is_rotation else (a - b).abs()

    def encode(self, action: Tensor, observations: Mapping[str, Tensor]) -> Tensor:
        if self.classes:
            return action[..., :0]
        if not self.is_rotation:
            return action - self.reference.numbers(observations) if self.reference else action
        matrix = so3.axis_angle_to_matrix(action)  # (B, T, 3, 3)
        if self.reference:
            matrix = so3.product(self.reference.matrix(observations).mT, matrix)
        return so3.matrix_to_rotation_6d(matrix)

    def encode_weights(self, weights: Tensor) -> Tensor:
        if self.classes:
            return weights[..., :0]
        return weights.amin(-1, keepdim=True).expand(*weights.shape[:-1], 6) if self.is_rotation else weights

    def decode(self, encoded: Tensor, observations: Mapping[str, Tensor]) -> Tensor:
        if not self.is_rotation:
            return encoded + self.reference.numbers(observations) if self.reference else encoded
        matrix = so3.rotation_6d_to_matrix(encoded)  # (B, T, 3, 3)
        if self.reference:
            matrix = so3.product(self.reference.matrix(observations), matrix)
        return so3.matrix_to_axis_angle(matrix)


def encoded_statistics(
    representation: ActionRepresentation,
    arrays: Mapping[str, np.ndarray],
    windows: Windows,
    steps: slice,
    chunk: int = 4096,
) -> Statistics:
    """Return what the encoded actions of the training episodes hold, for the normalizer.

    Absolute actions count once a frame. What a relative one is depends on the window, so these count as training sees
    them: every step that is denoised of every window, edge frames that pad it included.

    Args:
        representation: how actions are encoded.
        arrays: of all frames, ``action`` (N, dim) and per key of ``reference_keys`` (N, D).
        windows: of the training episodes.
        steps: those of a window that are denoised.
        chunk: windows (or frames) that are encoded at a time; it bounds the memory.

    Returns:
        Four arrays (encoded_dim,) float64.
    """
    low, high = np.full(representation.encoded_dim, np.inf), np.full(representation.encoded_dim, -np.inf)
    count, mean, squares = 0, np.zeros_like(low), np.zeros_like(low)
    for frames, now in training_steps(windows, steps if representation.reference_keys else None, chunk):
        current = {key: torch.from_numpy(arrays[key][now]) for key in representation.reference_keys}
        encoded = representation.encode(torch.from_numpy(arrays[ACTION][frames]), current)  # (B, n, encoded_dim)
        values = encoded.flatten(0, 1).numpy().astype(np.float64)
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        # Moments of blocks are merged around their means (Chan, Golub and LeVeque 1983): sums of squares would cancel.
        total, shift = count + len(values), values.mean(0) - mean
        squares += values.var(0) * len(values) + shift**2 * (count * len(values) / total)
        mean += shift * (len(values) / total)
        count = total
    return Statistics(low, high, mean, np.sqrt(squares / count))


def training_steps(windows: Windows, steps: slice | None, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the frames of actions (B, n) and the current frame of each row (B,); every frame once without steps."""
    if steps is None:
        every = windows.episode_frames
        for first in range(0, len(every), chunk):
            frames = every[first : first + chunk]
            yield frames[:, None], frames
        return
    for first in range(0, len(windows), chunk):
        chosen = np.arange(first, min(first + chunk, len(windows)))
        yield windows.frames(chosen)[0][:, steps], windows.now[chosen]


def _range(text: str, dim: int, where: str) -> tuple[int, int]:
    start, stop = parse_range(text, where)
    if not 0 <= start < stop <= dim:
        raise UsageError(f"{where}: the range {text} is not within the dimensions 0:{dim}")
    return start, stop


def _reference(text: str, range_: tuple[int, int], is_rotation: bool, observations: Mapping[str, int]) -> _Reference:
    """Read ``observation.state`` or ``observation.state[0:3]``, what a range of the action is relative to."""
    where = f"relative_to {range_[0]}:{range_[1]}"
    match = re.fullmatch(r"([^\[\]]+)(?:\[(.*)\])?", text)
    key, dims = match.groups() if match else (text, None)
    if key not in observations:
        hint = nearest(key, observations)
        raise UsageError(f"{where}: {key} is no observed vector; there are: {', '.join(observations)}.{hint}")
    whole, size = observations[key], range_[1] - range_[0]
    start, stop = (0, whole) if dims is None else _range(dims, whole, f"{where}: {key}")
    wanted = "3 numbers (axis-angle) or 4 (quaternion x, y, z, w)" if is_rotation else f"{size} numbers"
    if stop - start not in ((3, 4) if is_rotation else (size,)):
        raise UsageError(f"{where}: expected {wanted}; {text} has {stop - start}; a part is written '{key}[0:3]'")
    return _Reference(key, start, stop)
