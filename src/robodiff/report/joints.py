"""The joints of a recording: which dimensions of its vectors move, and which of a state and an action are one."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from robodiff.data.episodes import ACTION, SMALLEST_RANGE, Episodes, Feature, same_unit
from robodiff.text import shortened

_EPISODES_MEASURED = 64
_LONGEST_NAME = 120
_NOT_ALIKE = 10
"""A state and an action whose range is so many times smaller than that of both are not drawn over each other."""
STATE = "observation.state"
Joint = dict[str, int]
"""Per key the dimension of one joint, coordinate or other quantity; the state before the action."""


@dataclass(frozen=True)
class Group:
    """The dimensions of one key, or of a state and an action, that move."""

    keys: tuple[str, ...]
    """The state before the action."""
    joints: list[Joint]
    """Those that move most, in the order of the recording."""
    moving: int
    """How many move."""
    resting: list[str]
    """Those that never move."""


def groups(episodes: Episodes, most: int) -> list[Group]:
    """Return the dimensions of every vector, up to ``most`` of each group, those of a state and an action together."""
    parts: dict[tuple[str, ...], list[Joint]] = {}
    for joint in _joints(episodes):
        parts.setdefault(tuple(joint), []).append(joint)
    return [_group(episodes, keys, joints, most) for keys, joints in parts.items()]


def _group(episodes: Episodes, keys: tuple[str, ...], joints: list[Joint], most: int) -> Group:
    ranges = {key: np.ptp(_limits(episodes, key), axis=0) for key in keys}
    rests = np.array([all(ranges[key][d] < SMALLEST_RANGE for key, d in joint.items()) for joint in joints])
    moves = {key: move_within_episodes(episodes, key) for key in keys}
    moved = np.array([max(moves[key][d] for key, d in joint.items()) for joint in joints])
    moving = int((~rests).sum())
    places = sorted(most_moving(np.where(rests, -1, moved), min(most, moving)))
    resting = [title(episodes, joint) for joint, rest in zip(joints, rests, strict=True) if rest]
    return Group(keys, [joints[place] for place in places], moving, resting)


def dimension_names(feature: Feature) -> tuple[str, ...]:
    """Return what each dimension of a vector is called: its number where it has no name."""
    return feature.names or tuple(map(str, range(feature.shape[0])))


def move_within_episodes(episodes: Episodes, key: str) -> np.ndarray:
    """Return how far each dimension of a vector moves within episodes, (D,): its mean deviation in some of them."""
    some = map(episodes.slice, spread(len(episodes), _EPISODES_MEASURED))
    return np.mean([episodes.arrays[key][each].std(axis=0, dtype=np.float64) for each in some], axis=0)


def most_moving(moves: np.ndarray, most: int) -> list[int]:
    """Return up to ``most`` of the dimensions that move so far, (D,), from the one that moves most on."""
    return np.argsort(-moves, kind="stable")[:most].tolist()


def title(episodes: Episodes, joint: Joint) -> str:
    """Return what a joint is called, with its unit."""
    name, unit = named(episodes, joint)
    return f"{name} ({unit})" if unit else name


def named(episodes: Episodes, joint: Joint) -> tuple[str, str]:
    """Return what a joint is called, with its place where others have its name, and its unit if one is known."""
    key, dimension = next(iter(joint.items()))
    feature = episodes.features[key]
    name = feature.names[dimension] if feature.names else f"dimension {dimension}"
    place = f" [{dimension}]" * (feature.names is not None and feature.names.count(name) > 1)
    return shortened(name, _LONGEST_NAME) + place, shortened(feature.units[dimension], _LONGEST_NAME)


def _joints(episodes: Episodes) -> Iterator[Joint]:
    """Yield the dimensions of all vectors, each alone or, of a state and its action, two that are one."""
    features = dict(of_kind(episodes, "vector"))
    joined: set[tuple[str, int]] = set()
    for key in sorted(features, key=lambda key: not key.endswith(STATE)):
        action = key.removesuffix(STATE) + ACTION
        pairs = _pairs(episodes, key, action) if key.endswith(STATE) and action in features else {}
        for dimension in range(features[key].shape[0]):
            if dimension in pairs:
                joined.add((action, pairs[dimension]))
                yield {key: dimension, action: pairs[dimension]}
            elif (key, dimension) not in joined:
                yield {key: dimension}


def _pairs(episodes: Episodes, state: str, action: str) -> dict[int, int]:
    """Return which dimension of the action each of the state is: by name; by place where not both have names, or
    both the same."""
    one, other = episodes.features[state], episodes.features[action]
    if not same_unit(one.unit, other.unit):
        return {}
    if one.names and other.names and one.names != other.names:
        pairs = same_name(one.names, other.names)
    else:
        pairs = {place: place for place in range(one.shape[0]) if one.shape == other.shape}
    of_state, of_action = _limits(episodes, state), _limits(episodes, action)
    return {s: a for s, a in pairs.items() if _alike(of_state[:, s], of_action[:, a])}


def same_name(one: Sequence[Hashable], other: Sequence[Hashable]) -> dict[int, int]:
    """Return by the places in one list of names those of the same names in another; a name that several of a list have
    says nothing."""
    places = {name: place for place, name in enumerate(other) if other.count(name) == 1}
    return {place: places[name] for place, name in enumerate(one) if name in places and one.count(name) == 1}


def _limits(episodes: Episodes, key: str) -> np.ndarray:
    """Return the smallest and the largest value of each dimension, (2, D)."""
    return np.stack([episodes.arrays[key].min(0), episodes.arrays[key].max(0)]).astype(np.float64)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether two ranges (low, high) can be read on one axis."""
    both = max(one[1], other[1]) - min(one[0], other[0])
    spans = (span for span in (np.ptp(one), np.ptp(other)) if span >= SMALLEST_RANGE)
    return all(span >= both / _NOT_ALIKE for span in spans)


def of_kind(episodes: Episodes, kind: str) -> list[tuple[str, Feature]]:
    """Return the keys that hold images or vectors, each with what it holds."""
    return [(key, feature) for key, feature in episodes.features.items() if feature.kind == kind]


def spread(count: int, most: int) -> list[int]:
    """Return up to ``most`` of ``count`` numbers, evenly spread, neither the first nor the last where they are many."""
    return np.unique(((np.arange(min(most, count)) + 0.5) * count / min(most, count)).astype(int)).tolist()
