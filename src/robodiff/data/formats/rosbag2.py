"""Read ROS 2 recordings: rosbag2 as MCAP or SQLite, one bag per episode, or a folder of bags.

A ``JointState`` is ``observation.state`` or, if the topic's name suggests commands, the action, as are a
``JointTrajectory`` and a ``Float64MultiArray``; several commands are concatenated into one action.
``/<camera>/color/image_raw`` is ``observation.images.<camera>``.

Each topic has its own rate; frames are sampled at a common one. A frame observes the newest message at its time, as a
policy does when it acts; its action is the newest command before the next frame, which is the response to that
observation. An episode starts once every topic has sent a message, and ends when the first observed topic falls silent.
The time of a message is when it was recorded.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from robodiff.data.arrays import episode_numbers
from robodiff.data.episodes import ACTION
from robodiff.data.formats.pieces import Gathered, Piece, by_number, inside
from robodiff.data.formats.rosbag2_topics import Topic, read_images, read_topics
from robodiff.data.naming import find_key
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.data.resample import LONGEST, rate_of
from robodiff.errors import UsageError, notice
from robodiff.text import listed

METADATA = "metadata.yaml"
STATE = "observation.state"
_STARTS = {".mcap": b"\x89MCAP0\r\n", ".db3": b"SQLite format 3\0"}
_CAMERA_WORDS = {"image", "image_raw", "image_color", "image_rect", "image_rect_color", "color", "rgb", "compressed"}
"""Parts of topic names that only say that there are images."""
SLACK = 1e-6
"""Seconds; more than the rounding error of times since 1970 in float64."""
Names = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Rosbag2Config(DataConfig):
    """Demonstrations in ROS 2 bags (MCAP or SQLite), one per episode."""

    path: str
    """The bag, or a folder of bags."""
    joints: list[str] | None = None
    """Joints to read from JointState and JointTrajectory messages, in this order; when null, all, in the order of the
    topic's first message."""
    action_from: Literal["commands", "next_state"] | None = None
    """Source of the action: the newest command, or the state of the next frame. When null, the former if a bag has
    commands; goals of ROS 2 actions are not recorded."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        root = self.place
        paths = bags(root)
        numbers = episode_numbers(self.path, self.episodes, len(paths))
        chosen = [inside(root, paths[number]) for number in numbers]
        episodes = [read_topics(path, self.joints or ()) for path in chosen]
        topics = {name: topic for episode in episodes for name, topic in episode.items()}
        if unknown := {*(self.joints or ())} - {joint for topic in topics.values() for joint in topic.joints}:
            raise UsageError(
                f"{self.path}: joints: no topic has {listed(sorted(unknown))}; all are read without joints"
            )
        has_commands = any(topic.is_command and (topic.values or topic.fault) for topic in topics.values())
        from_state = self.action_from == "next_state" or (self.action_from is None and not has_commands)
        if from_state and self.action_from is None:
            notice(f"{self.path}: has no commands; actions are next states (data.action_from)")
        names = _names(topics, from_state)
        if self.key_map is not None:
            names = {find_key(names, key) or key: name for key, name in self.key_map.items()}
        if self.keys is not None:  # what is not read neither begins nor ends an episode
            names = {key: name if name in (ACTION, *self.keys) else None for key, name in names.items()}
        fps = self.fps or _rate(self.path, episodes, names)
        pieces = [_pieces(*each, names, fps, from_state) for each in zip(chosen, episodes, strict=True)]
        labels, table = [path.name for path in chosen], {"episode_index": numbers}
        return Gathered(self.path, pieces, labels, names, fps, table).recording(self)


def bags(root: Path) -> list[Path]:
    """Return the bags at a path, in the order of their numbers: it is one, or a folder of them."""
    if _is_bag(root) or not root.is_dir():
        return [root]
    entries = [entry for entry in root.iterdir() if not entry.name.startswith(".") and _is_bag(entry)]
    return sorted(entries, key=lambda entry: by_number(entry.name))


def _is_bag(path: Path) -> bool:
    """Tell whether a path is one bag: a folder with metadata, or a file of one."""
    file = path / METADATA if path.is_dir() else path
    start = b"rosbag2_bagfile_information" if path.is_dir() else _STARTS.get(path.suffix)
    if start is None or not file.is_file():
        return False
    with file.open("rb") as content:
        return start in content.read(4096)


def _names(topics: Mapping[str, Topic], from_state: bool) -> Names:
    """Return what topics are called here; None for those that are not read by themselves. ``action`` among them stands
    for all commands together, where there are several, or for next states."""
    names: dict[str, str | None] = dict.fromkeys(topics)
    readable = [topic for topic in sorted(topics.values(), key=lambda topic: len(topic.name)) if not topic.unread]
    commands = [topic.name for topic in readable if topic.is_command]
    names[commands[0] if len(commands) == 1 and not from_state else ACTION] = ACTION
    for topic in readable:  # short names first: a raw image before a compressed one
        if topic.is_image:
            parts = topic.name.strip("/").split("/")
            key = f"observation.images.{'_'.join([part for part in parts if part not in _CAMERA_WORDS] or parts[:1])}"
            names[topic.name] = None if key in names.values() else key
        elif not topic.is_command:
            key = f"observation.{topic.name.strip('/').replace('/', '_')}"
            names[topic.name] = key if STATE in names.values() else STATE
    return names


def _rate(source: str, episodes: Sequence[Mapping[str, Topic]], names: Names) -> float | None:
    """Return the frames per second of the slowest topic that is observed; None where none tells."""
    rates: dict[float, str] = {}
    for name, key in names.items():
        times = [np.array(topics[name].times) for topics in episodes if name in topics]
        if key and key != ACTION and (rate := rate_of(times, "time_s")):
            rates[rate.fps] = name
    if not rates:
        return None
    fps = min(rates)
    notice(f"{source}: {fps:.4g} frames a second are taken, the rate of {rates[fps]}; data.fps asks for another")
    return fps


def _pieces(
    path: Path, topics: Mapping[str, Topic], names: Names, fps: float | None, from_state: bool
) -> dict[str, Piece]:
    """Return the arrays of one bag, by topic, and ``action`` where it is made of several."""
    read = [topics[name] for name, key in names.items() if key and name in topics]
    commands = [topic for _, topic in sorted(topics.items()) if topic.is_command and (topic.values or topic.fault)]
    joined = commands if ACTION in names and not from_state else []
    ticks = _ticks([*read, *joined], fps)
    pieces = {name: _piece(path, topic, ticks, topic in read) for name, topic in sorted(topics.items())}
    state = next((name for name, key in names.items() if key == STATE), None)
    if from_state and state in pieces:
        following = partial(_following, pieces[state])
        pieces[ACTION] = replace(pieces[state], place=ACTION, blocks=following)
    elif joined:
        values = np.concatenate([_values(topic, ticks) for topic in joined], axis=1)
        joints = tuple(joint for topic in joined for joint in topic.joints)
        fault = next((f"({topic.name}) {topic.fault}" for topic in joined if topic.fault), "")
        pieces[ACTION] = _vector(path, ACTION, values, joints, fault)
    return pieces


def _following(states: Piece) -> Iterator[np.ndarray]:
    values = states.read()
    yield np.concatenate([values[1:], values[-1:]])


def _ticks(topics: Sequence[Topic], fps: float | None) -> np.ndarray:
    """Return the seconds of each frame and of the one that would follow, (L + 1,); (1,) where there is none."""
    spoken = [topic.times for topic in topics if topic.times]
    observed = [topic.times for topic in topics if topic.times and not topic.is_command] or spoken
    start, end = max((times[0] for times in spoken), default=0.0), min((times[-1] for times in observed), default=-1.0)
    frames = int((end - start + SLACK) * (fps or 0)) + 1 if end >= start else 0
    return start + np.arange(frames + 1) / (fps or 1)


def _newest(topic: Topic, ticks: np.ndarray) -> np.ndarray:
    """Return which message of a topic each frame has, (L,): of a command the one in force when the frame ends."""
    times = ticks[1:] - SLACK if topic.is_command else ticks[:-1] + SLACK
    return (np.searchsorted(np.array(topic.times), times, side="right") - 1).clip(0)


def _values(topic: Topic, ticks: np.ndarray) -> np.ndarray:
    """Return the numbers of each frame, (L, D); (L, 0) where none could be read."""
    return np.stack(topic.values)[_newest(topic, ticks)] if topic.values else np.zeros((len(ticks) - 1, 0))


def _piece(path: Path, topic: Topic, ticks: np.ndarray, is_read: bool) -> Piece:
    if topic.unread:
        return Piece(path, topic.name, 0, (), topic.unread, None, lambda: iter(()))
    fault = topic.fault or (_silence(topic, ticks) if is_read else "")
    if not topic.is_image:
        return _vector(path, topic.name, _values(topic, ticks), topic.joints, fault)
    newest = _newest(topic, ticks)
    blocks, recipe = partial(read_images, path, topic, Counter(newest.tolist())), f"{ticks[:2]} {len(ticks)}"
    return Piece(path, topic.name, len(newest), topic.shape, "uint8", "image", blocks, recipe=recipe, fault=fault)


def _vector(path: Path, place: str, values: np.ndarray, joints: tuple[str, ...], fault: str = "") -> Piece:
    frames, shape, blocks = len(values), values.shape[1:], lambda: iter([values])
    unit = ("rad",) * len(joints) or None
    names = joints if len(joints) == values.shape[1] else None
    return Piece(path, place, frames, shape, "float64", "vector", blocks, names, unit, fault=fault)


def _silence(topic: Topic, ticks: np.ndarray) -> str:
    """Return where an observed topic was silent, so that old messages would be taken for new ones."""
    times = np.array([time for time in topic.times if ticks[0] <= time <= ticks[-1]])
    spacing = np.diff(times)
    if topic.is_command or not len(spacing) or spacing.max() <= max(LONGEST, 10 * np.median(spacing)):
        return ""
    first = int(np.argmax(spacing))
    return f"is silent for {spacing[first]:.2f} s from {times[first] - ticks[0]:.2f} s on"


FORMAT = Format("a rosbag2 recording of ROS 2", Rosbag2Config, lambda path: any(map(_is_bag, bags(path))))
