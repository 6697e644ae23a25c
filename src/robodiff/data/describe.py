"""What is at a path that no format recognises: every array with its likely role, and a recording.yaml to paste."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.data.formats import hdf5, mapped, pictures, sources, table
from robodiff.data.formats.npz import told_fps
from robodiff.data.formats.pieces import Piece, by_number
from robodiff.data.measures import LAGS, lag_of
from robodiff.data.resample import CLOCK, rate_of
from robodiff.errors import RobodiffError
from robodiff.files import reading
from robodiff.yaml_text import dump_yaml

MOST_LISTED = 10
MOST_NAMED = 8
"""Arrays in the text, and in the recording.yaml."""
MOST_FILES = 500
"""Files and folders of one folder that are looked at."""
DEEPEST = 3
"""Folders within one another that are looked into."""
MOST_EPISODES = 3
MOST_VALUES = 10**6
MOST_COMPARED = 24
"""Episodes, numbers of an array, and arrays that are read to see what they are."""
_ACTION = re.compile(r"(.*[._/])?(actions?|act|cmd|command|commands|control|ctrl|target|targets|u)", re.IGNORECASE)
_STATE = re.compile(r"(.*[._/])?(states?|qpos|q|joints?|joint_\w+|obs|observations?|proprio)", re.IGNORECASE)
_NO_OBSERVATION = re.compile(
    r"(.*[._/])?(rewards?|dones?|terminals?|terminated|truncated|success|\w*index|step|frame)", re.IGNORECASE
)
_RATE = "frames a second"
"""What a single number called fps is."""
_NO_NAME = ("", "*", "rgb", "color", "image", "images", "data", "png", "jpg", "jpeg", "csv", "parquet", "npy", "mp4")
"""Parts of a source that do not tell what it is."""
EXPECTED = "zarr, HDF5, a LeRobot data set, .npz, CSV, Parquet, or a folder of such files and pictures"
Listing = dict[str, Piece]
"""The arrays of an episode, by what recording.yaml calls them."""


@dataclass
class _Survey:
    """What was found of a recording, and how it is divided."""

    folder: Path
    """Where its recording.yaml goes."""
    file: str = mapped.NAME
    divided: dict[str, str] = field(default_factory=dict)
    """``episodes``, ``episode_ends`` or ``episode_numbers`` of the recording.yaml."""
    count: int = 1
    """Episodes."""
    episodes: list[Listing] = field(default_factory=list)
    """The first of them."""
    unreadable: list[str] = field(default_factory=list)

    def list(self, path: Path, prefix: str = "", depth: int = 0) -> Listing:
        """Return the arrays of a file, or of the files in a folder and those in it, and note what cannot be read."""
        if sources.holds_arrays(path):
            arrays = self._read(sources.arrays_of, path)
            return {":".join(filter(None, (prefix, key))): piece for key, piece in arrays.items()}
        if not path.is_dir():
            return {}
        listing: Listing = {}
        if not path.is_dir():
            return listing
        data, folders, suffixes = _entries(path)
        for pattern in (f"*{suffix}" for suffix in suffixes):
            pictures = self._read(lambda pattern: {pattern: sources.picture_files(path, pattern)}, pattern)
            listing |= {f"{prefix}{pattern}": piece for piece in pictures.values()}
        for file in data:
            listing |= self.list(file, f"{prefix}{file.name}")
        for inner in folders if depth < DEEPEST else ():
            listing |= self.list(inner, f"{prefix}{inner.name}/", depth + 1)
        return listing

    def _read(self, read: Callable[[Any], Listing], source: Any) -> Listing:
        try:
            return read(source)
        except RobodiffError as error:
            self.unreadable.append(str(error))
            return {}


def describe_unknown(path: Path) -> str:
    """Return in at most about 25 lines what is at a path, and the ``recording.yaml`` that would let it be read."""
    with reading(path, "a recording"):
        survey = _survey(path)
        if not any(survey.episodes[:1]):
            reason = f" ({survey.unreadable[0]})" if survey.unreadable else ""
            return f"{path}: holds no recording that can be read{reason}; expected {EXPECTED}"
        listing = survey.episodes[0]
        if all(piece.kind is None or piece.fault for piece in listing.values()):
            unread = ", ".join(
                f"{hdf5.printed(name)} ({piece.fault or piece.dtype})" for name, piece in listing.items()
            )
            return f"{path}: holds neither numbers nor images that can be read: {unread[:200]}; expected {EXPECTED}"
        shapes = {name: piece.shape for name, piece in listing.items()}
        roles, fps = _roles(
            [each for each in survey.episodes if {n: piece.shape for n, piece in each.items()} == shapes]
        )
    width = min(48, max(len(hdf5.printed(name)) for name in listing))
    arrays = [f"  {hdf5.printed(name):{width}}  {piece!s:26}  {roles[name]}" for name, piece in listing.items()]
    if len(arrays) > MOST_LISTED:
        arrays[MOST_LISTED:] = [f"  and {len(arrays) - MOST_LISTED} more"]
    where = "in the first of" if "episodes" in survey.divided else "end to end,"
    of_first = "" if survey.count == 1 else f", {where} {survey.count} episodes"
    target = survey.folder / survey.file
    again = "the same path" if target == path / mapped.NAME else str(target)
    lines = [
        f"{path}: is of no format that robodiff knows. It holds{of_first}:",
        *arrays,
        *survey.unreadable[:2],
        f"Save the lines below as {target}, mend what is wrong in them, and give {again}:",
        "",
        _yaml(survey, roles, fps),
    ]
    return "\n".join(lines)


def _yaml(survey: _Survey, roles: Mapping[str, str], fps: float | None) -> str:
    names = _names(survey.episodes[0], roles)
    document = {**survey.divided, "fps": round(fps or 10, 3), "arrays": {name: key for key, name in names.items()}}
    text = dump_yaml(document).rstrip()
    if fps is None:
        text = re.sub(r"^fps: .*$", r"\g<0>  # a guess: no array says it", text, count=1, flags=re.MULTILINE)
    if ACTION not in names.values():
        text += "\n  # action: SOURCE   which of the arrays the robot was told is not clear"
    return text


def _names(listing: Listing, roles: Mapping[str, str]) -> dict[str, str]:
    """Return by their sources what arrays are called in the recording.yaml."""
    names: dict[str, str] = {}
    kinds = {source: roles[source].partition(",")[0] for source in listing}
    chosen = [
        source for kind in ("action", "state", "camera", "numbers") for source in listing if kinds[source] == kind
    ]
    is_only_camera = [*kinds.values()].count("camera") == 1
    for source in chosen[:MOST_NAMED]:
        kind = kinds[source]
        parts = [part for part in re.split(r"[:/.]", source) if part not in _NO_NAME] or [kind]
        plain = re.sub(r"\W+", "_", parts[-1])
        camera = "observation.image" if is_only_camera else f"observation.images.{plain}"
        fixed = {"action": ACTION, "state": "observation.state", "camera": camera}
        name = fixed.get(kind, f"observation.{plain}")
        while name in names.values():
            name += "_"
        names[source] = name
    return names


def _roles(episodes: Sequence[Listing]) -> tuple[dict[str, str], float | None]:
    """Return what each array likely is, and why, and the frames per second that a number or a clock says."""
    roles: dict[str, str] = {}
    fps = None
    last = {name: re.split(r"[:/]", name)[-1] for name in episodes[0]}
    for name, piece in episodes[0].items():
        if piece.kind == "image":
            roles[name] = "camera" if piece.dtype == "uint8" else "depth or mask"
        elif piece.kind is None or piece.fault:
            roles[name] = "text" if re.match(r"<U|\|S|object|.*string", piece.dtype) else "not read"
        elif last[name] == "fps" and (told := told_fps(piece)):
            roles[name], fps = _RATE, told
        elif CLOCK.fullmatch(last[name]) and not piece.shape and (rate := rate_of(_values(episodes, name), last[name])):
            roles[name], fps = f"clock, {rate[0]:g} frames a second", fps or rate[0]
        elif any(pattern.fullmatch(last[name]) for pattern in (_NO_OBSERVATION, table.EPISODE, CLOCK)):
            roles[name] = "no observation"
        else:
            roles[name] = "numbers"
    vectors = [name for name, role in roles.items() if role == "numbers"]
    action = next((name for name in vectors if _ACTION.fullmatch(last[name])), None)
    state = next((name for name in vectors if name != action and _STATE.fullmatch(last[name])), None)
    reason = ""
    if action is None or state is None:
        pair = _leading(episodes, [action] if action else vectors, [state] if state else vectors)
        action, state = pair or (action, state)
        reason = f", which leads {hdf5.printed(state)}" if pair else ""
    others = [name for name in vectors if name != state]
    action = others[0] if action is None and len(others) == 1 else action
    if state:
        roles[state] = "state"
    if action:  # what has another length cannot be read beside it
        roles[action], frames = f"action{reason}", episodes[0][action].frames
        odd = [
            name
            for name, piece in episodes[0].items()
            if piece.frames not in (frames, frames + 1) and roles[name] != _RATE
        ]
        roles |= dict.fromkeys(odd, "of another length than the action")
    return roles, fps


def _leading(episodes: Sequence[Listing], actions: list[str], states: list[str]) -> tuple[str, str] | None:
    """Return action and state of equal widths where the one leads the other."""
    shapes = {name: piece.shape for name, piece in episodes[0].items() if piece.shape}
    values = {name: _values(episodes, name) for name in dict.fromkeys([*actions, *states][:MOST_COMPARED])}
    for action, state in itertools.permutations(values, 2):
        if action not in actions or state not in states or shapes.get(action, 0) != shapes.get(state, 1):
            continue
        lengths = [min(len(a), len(s)) for a, s in zip(values[action], values[state], strict=True)]
        a, s = (
            np.concatenate([v[:n].reshape(n, -1) for v, n in zip(values[name], lengths, strict=True)])
            for name in (action, state)
        )
        ends = zip(np.cumsum(lengths), lengths, strict=True)
        frames = np.concatenate([np.arange(end - n - LAGS[0], end - LAGS[-1] - 1, dtype=np.int64) for end, n in ends])
        lag = lag_of(s, a, frames)
        if lag is not None and lag <= 0:
            return action, state
    return None


def _values(episodes: Sequence[Listing], name: str) -> list[np.ndarray]:
    """Return the first numbers of an array in each episode that was listed."""
    pieces = [episode[name] for episode in episodes]
    return [piece.until(min(piece.frames, MOST_VALUES // max(1, math.prod(piece.shape)))).read() for piece in pieces]


def _survey(path: Path) -> _Survey:
    """Find the arrays at a path, and what divides them into episodes."""
    if sources.holds_arrays(path) or not path.is_dir():
        return _survey_file(_Survey(path.parent, f"{path.stem}.yaml"), path)
    survey, folder = _Survey(path), path
    data, folders, _ = _entries(folder)
    while not data and len(folders) == 1 and not _entries(folders[0])[2]:  # such as runs/
        folder = folders[0]
        data, folders, _ = _entries(folder)
    if len(data) == 1 and not folders:
        return _survey_file(survey, data[0])
    members = data or folders
    pattern = _alike(members) if len(members) > 1 and not (data and folders) else None
    if pattern is None:
        survey.episodes = [survey.list(path)]
    else:
        survey.divided = {"episodes": str(folder.relative_to(path) / pattern)}
        survey.count, survey.episodes = len(members), [survey.list(member) for member in members[:MOST_EPISODES]]
    return survey


def _survey_file(survey: _Survey, path: Path) -> _Survey:
    """One file with all episodes: as groups of HDF5, or divided by an array, or one episode."""
    name = str(path.relative_to(survey.folder))
    arrays = survey.list(path)
    groups: dict[str, dict[int, Listing]] = {}
    for key, piece in arrays.items():
        if match := re.match(r"(.*?)(\d+)/(.+)", key):
            groups.setdefault(f"{match[1]}*", {}).setdefault(int(match[2]), {})[match[3]] = piece
    for pattern, members in groups.items():
        if len(members) > 1 and sum(map(len, members.values())) > len(arrays) / 2 and hdf5.is_hdf5(path):
            survey.divided, survey.count = {"episodes": f"{name}:{pattern}"}, len(members)
            survey.episodes = [members[number] for number in sorted(members)[:MOST_EPISODES]]
            return survey
    listing = survey.list(path, name)
    for key, piece in listing.items():
        last = re.split(r"[:/]", key)[-1]
        if piece.kind == "vector" and not piece.shape and piece.dtype.lstrip("u").startswith("int"):
            if "end" in last and (ends := piece.read()).size and any(p.frames == ends[-1] for p in arrays.values()):
                survey.divided, survey.count = {"episode_ends": key}, piece.frames
            elif table.EPISODE.fullmatch(last):
                survey.divided = {"episode_numbers": key}
                survey.count = 1 + int(np.count_nonzero(np.diff(piece.read())))
    survey.episodes = [{key: piece for key, piece in listing.items() if key not in survey.divided.values()}]
    return survey


def _entries(folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Return the files with arrays and the folders in a folder, by their numbers, and the suffixes of its pictures."""
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith(".") and not entry.is_symlink())
    entries = sorted(itertools.islice(visible, MOST_FILES), key=lambda entry: by_number(entry.name))
    data = [entry for entry in entries if sources.holds_arrays(entry)]
    suffixes = sorted({entry.suffix for entry in entries if entry.suffix.lower() in pictures.SUFFIXES})
    return data, [entry for entry in entries if entry.is_dir() and entry not in data], suffixes


def _alike(entries: Sequence[Path]) -> str | None:
    """Return a pattern that names all entries: such as run_*, or *.npz; None where they differ in kind or content."""
    kinds = {_unnumbered(entry) if entry.is_dir() else entry.suffix for entry in entries}
    if len(kinds) > 1:  # such as images/ and logs/
        return None
    suffix = "" if entries[0].is_dir() else entries[0].suffix
    stems = {re.sub(r"\d+", "*", entry.name.removesuffix(suffix)) for entry in entries}
    return f"{stems.pop() if len(stems) == 1 else '*'}{suffix}"


def _unnumbered(folder: Path) -> tuple[str, ...]:
    """Return the names in a folder without their numbers."""
    names = [entry.name for entry in itertools.islice(folder.iterdir(), MOST_FILES)]
    return tuple(sorted({re.sub(r"\d+", "*", name) for name in names if not name.startswith(".")}))
