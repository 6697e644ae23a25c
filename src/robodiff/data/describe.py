"""What is at a path that no format recognises: every array with its likely role, and a recording.yaml to paste."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.data.formats import hdf5, mapped, pictures, sources, table
from robodiff.data.formats.pieces import Piece, by_number
from robodiff.data.measures import LAGS, lag_of
from robodiff.documents import dump_yaml
from robodiff.errors import RobodiffError
from robodiff.files import reading

MOST_LISTED = 10
MOST_NAMED = 8
"""Arrays in the text, and in the recording.yaml."""
MOST_FILES = 500
"""Files and folders of one folder that are looked at."""
MOST_EPISODES = 3
MOST_VALUES = 10**6
MOST_COMPARED = 24
"""Episodes, numbers of an array, and arrays that are read to see what they are."""
_ACTION = re.compile(r"(.*[._/])?(actions?|act|cmd|command|commands|control|ctrl|target|targets|u)", re.IGNORECASE)
_STATE = re.compile(r"(.*[._/])?(states?|qpos|q|joints?|joint_\w+|obs|observations?|proprio)", re.IGNORECASE)
_NO_OBSERVATION = re.compile(r"(.*[._/])?(rewards?|dones?|terminals?|terminated|truncated|success|\w*index|step|frame)",
                             re.IGNORECASE)  # fmt: skip
_NO_NAME = ("", "*", "rgb", "color", "image", "images", "data", "png", "jpg", "jpeg", "csv", "parquet", "npy", "mp4")
"""Parts of a source that do not tell what it is."""
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


def describe_unknown(path: Path) -> str:
    """Return in at most about 25 lines what is at a path, and the ``recording.yaml`` that would let it be read."""
    with reading(path, "a recording"):
        return _described(path, _survey(path))


def _described(path: Path, survey: _Survey) -> str:
    if not survey.episodes or not survey.episodes[0]:
        unreadable = f" ({survey.unreadable[0]})" if survey.unreadable else ""
        return (f"{path}: holds no recording that can be read{unreadable}; expected a zarr group, HDF5, a LeRobot "
                "data set, .npz, CSV or Parquet, or a folder of such files and pictures")  # fmt: skip
    listing = survey.episodes[0]
    shapes = {name: piece.shape for name, piece in listing.items()}
    alike = [each for each in survey.episodes if {name: piece.shape for name, piece in each.items()} == shapes]
    roles, notes, fps = _roles(alike)
    width = min(48, max(len(hdf5.printed(name)) for name in listing))
    lines = [
        f"  {hdf5.printed(name):{width}}  {piece!s:26}  {roles[name]}{notes.get(name, '')}"
        for name, piece in listing.items()
    ]
    hidden = len(lines) - MOST_LISTED
    more = [f"  and {hidden} more"] if hidden > 0 else []
    where = "in the first of" if "episodes" in survey.divided else "end to end,"
    of_first = "" if survey.count == 1 else f", {where} {survey.count} episodes"
    target = survey.folder / survey.file
    again = "the same path" if survey.file == mapped.NAME and survey.folder == path else str(target)
    return "\n".join(
        [
            f"{path}: is of no format that robodiff knows. It holds{of_first}:",
            *lines[:MOST_LISTED],
            *more,
            *survey.unreadable[:2],
            f"Save the lines below as {target}, mend what is wrong in them, and give {again}:",
            "",
            _yaml(survey, roles, fps),
        ]
    )


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
    order = ["action", "state", "camera", "numbers"]
    cameras = [source for source in listing if roles[source] == "camera"]
    for source in sorted((source for source in listing if roles[source] in order), key=lambda s: order.index(roles[s])):
        parts = [part for part in re.split(r"[:/.]", source) if part not in _NO_NAME] or [roles[source]]
        plain = re.sub(r"\W+", "_", parts[-1])
        name = {"action": ACTION, "state": "observation.state"}.get(roles[source], f"observation.{plain}")
        if roles[source] == "camera":
            name = "observation.image" if len(cameras) == 1 else f"observation.images.{plain}"
        while name in names.values():
            name += "_"
        if len(names) < MOST_NAMED:
            names[source] = name
    return names


def _roles(episodes: Sequence[Listing]) -> tuple[dict[str, str], dict[str, str], float | None]:
    """Return what each array likely is, why, and the frames per second that a clock says."""
    roles: dict[str, str] = {}
    notes: dict[str, str] = {}
    fps = None
    last = {name: re.split(r"[:/]", name)[-1] for name in episodes[0]}
    for name, piece in episodes[0].items():
        if piece.kind == "image":
            roles[name] = "camera" if piece.dtype == "uint8" else "depth or mask"
        elif piece.kind is None or piece.fault:
            roles[name] = "text" if re.match(r"<U|\|S|object|.*string", piece.dtype) else "not read"
        elif table.CLOCK.fullmatch(last[name]) and not piece.shape and (rate := table.rate_of(_values(episodes, name))):
            roles[name], notes[name], fps = "clock", f", {rate[0]:g} frames a second", fps or rate[0]
        elif any(pattern.fullmatch(last[name]) for pattern in (_NO_OBSERVATION, table.EPISODE, table.CLOCK)):
            roles[name] = "no observation"
        else:
            roles[name] = "numbers"
    vectors = [name for name, role in roles.items() if role == "numbers"]
    action = next((name for name in vectors if _ACTION.fullmatch(last[name])), None)
    state = next((name for name in vectors if name != action and _STATE.fullmatch(last[name])), None)
    if action is None or state is None:
        pair = _leading(episodes, [action] if action else vectors, [state] if state else vectors)
        action, state = pair or (action, state)
        notes |= {pair[0]: f", which leads {hdf5.printed(pair[1])}"} if pair else {}
    others = [name for name in vectors if name != state]
    if action is None and len(others) == 1:
        action = others[0]
    roles |= {name: role for name, role in ((action, "action"), (state, "state")) if name}
    if action:  # what has another length cannot be read beside it
        frames = episodes[0][action].frames
        odd = [name for name, piece in episodes[0].items() if piece.frames not in (frames, frames + 1)]
        roles |= dict.fromkeys(odd, "of another length than the action")
    return roles, notes, fps


def _leading(episodes: Sequence[Listing], actions: list[str], states: list[str]) -> tuple[str, str] | None:
    """Return action and state of equal widths where the one leads the other."""
    shapes = {name: piece.shape for name, piece in episodes[0].items() if piece.shape}
    values = {name: _values(episodes, name) for name in dict.fromkeys([*actions, *states][:MOST_COMPARED])}
    for action, state in itertools.permutations(values, 2):
        if action not in actions or state not in states or shapes.get(action, 0) != shapes.get(state, 1):
            continue
        lengths = [min(len(a), len(s)) for a, s in zip(values[action], values[state], strict=True)]
        a, s = (np.concatenate([v[:n].reshape(n, -1) for v, n in zip(values[name], lengths, strict=True)])
                for name in (action, state))  # fmt: skip
        starts = np.cumsum([0, *lengths[:-1]])
        frames = np.concatenate([start + np.arange(-LAGS[0], length - LAGS[-1] - 1)
                                 for start, length in zip(starts, lengths, strict=True)])  # fmt: skip
        lag = lag_of(s, a, frames.astype(np.int64))
        if lag is not None and lag <= 0:
            return action, state
    return None


def _values(episodes: Sequence[Listing], name: str) -> list[np.ndarray]:
    """Return the first numbers of an array in each episode that was listed."""
    pieces = [episode[name] for episode in episodes]
    return [piece.until(min(piece.frames, MOST_VALUES // max(1, int(np.prod(piece.shape))))).read() for piece in pieces]


def _survey(path: Path) -> _Survey:
    """Find the arrays at a path, and what divides them into episodes."""
    if not path.is_dir() or sources.is_zarr(path):
        survey = _Survey(path.parent, f"{path.stem}.yaml")
        return _survey_file(survey, path)
    survey = _Survey(path)
    data, folders, prefix = *_entries(path), ""
    while not data and len(folders) == 1 and not _pictures(folders[0]):  # such as runs/
        prefix = f"{prefix}{folders[0].name}/"
        data, folders = _entries(folders[0])
    if len(data) == 1 and not folders:
        return _survey_file(survey, data[0])
    alike = (
        _alike(data) if len(data) > 1 and not folders else _alike(folders) if len(folders) > 1 and not data else None
    )
    if alike is None:
        survey.episodes = [_list_folder(survey, path)]
        return survey
    members = data or folders
    survey.divided, survey.count = {"episodes": f"{prefix}{alike}"}, len(members)
    for member in members[:MOST_EPISODES]:
        survey.episodes.append(_list_folder(survey, member) if member.is_dir() else _list_file(survey, member))
    return survey


def _survey_file(survey: _Survey, path: Path) -> _Survey:
    """One file with all episodes: as groups of HDF5, or divided by an array, or one episode."""
    arrays = _list_file(survey, path)
    name = str(path.relative_to(survey.folder))
    groups: dict[str, dict[int, Listing]] = {}
    for key, piece in arrays.items():
        parts = key.split("/")
        for place, part in enumerate(parts[:-1]):
            if match := re.fullmatch(r"(.*?)(\d+)", part):
                pattern = "/".join([*parts[:place], f"{match[1]}*"])
                groups.setdefault(pattern, {}).setdefault(int(match[2]), {})["/".join(parts[place + 1 :])] = piece
                break
    for pattern, members in groups.items():
        if len(members) > 1 and sum(map(len, members.values())) > len(arrays) / 2 and hdf5.is_hdf5(path):
            survey.divided, survey.count = {"episodes": f"{name}:{pattern}"}, len(members)
            survey.episodes = [members[number] for number in sorted(members)[:MOST_EPISODES]]
            return survey
    for key, piece in arrays.items():
        last = re.split(r"[:/]", key)[-1]
        if piece.kind == "vector" and not piece.shape and piece.dtype.lstrip("u").startswith("int"):
            if "end" in last and (ends := piece.read()).size and any(p.frames == ends[-1] for p in arrays.values()):
                survey.divided, survey.count = {"episode_ends": f"{name}:{key}"}, piece.frames
            elif table.EPISODE.fullmatch(last):
                survey.divided = {"episode_numbers": f"{name}:{key}"}
                survey.count = 1 + int(np.count_nonzero(np.diff(piece.read())))
    named = set(survey.divided.values())
    listing = {f"{name}:{key}" if key else name: piece for key, piece in arrays.items()}
    survey.episodes = [{key: piece for key, piece in listing.items() if key not in named}]
    return survey


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files with arrays and the folders in a folder, by their numbers."""
    entries = itertools.islice((entry for entry in folder.iterdir() if not entry.name.startswith(".")), MOST_FILES)
    entries = sorted((entry for entry in entries if not entry.is_symlink()), key=lambda entry: by_number(entry.name))
    data = [entry for entry in entries if sources.is_zarr(entry) or (entry.is_file() and sources.holds_arrays(entry))]
    return data, [entry for entry in entries if entry.is_dir() and entry not in data]


def _alike(entries: Sequence[Path]) -> str | None:
    """Return a pattern that names all entries: such as run_*, or *.npz."""
    names = [entry.name for entry in entries]
    suffixes = {"" if entry.is_dir() else entry.suffix for entry in entries}
    if len(suffixes) > 1:
        return None
    if len({_shape_of(entry) for entry in entries if entry.is_dir()}) > 1:
        return None  # such as images/ and logs/
    (suffix,) = suffixes
    stems = {re.sub(r"\d+", "*", name.removesuffix(suffix)) for name in names}
    return f"{stems.pop() if len(stems) == 1 else '*'}{suffix}"


def _shape_of(folder: Path) -> tuple[str, ...]:
    """Return the names in a folder without their numbers."""
    entries = itertools.islice(folder.iterdir(), MOST_FILES)
    return tuple(sorted({re.sub(r"\d+", "*", entry.name) for entry in entries if not entry.name.startswith(".")}))


def _list_folder(survey: _Survey, folder: Path, prefix: str = "") -> Listing:
    """Return the arrays of all files in a folder, and in those in it."""
    listing: Listing = {}
    for suffix in _pictures(folder):
        try:
            listing[f"{prefix}*{suffix}"] = sources.picture_files(folder, f"*{suffix}")
        except RobodiffError as error:
            survey.unreadable.append(str(error))
    data, folders = _entries(folder)
    for file in data:
        arrays = _list_file(survey, file)
        listing |= {f"{prefix}{file.name}:{key}" if key else f"{prefix}{file.name}": p for key, p in arrays.items()}
    if prefix.count("/") < 3:
        for inner in folders:
            listing |= _list_folder(survey, inner, f"{prefix}{inner.name}/")
    return listing


def _list_file(survey: _Survey, file: Path) -> Listing:
    try:
        return sources.arrays_of(file)
    except RobodiffError as error:
        survey.unreadable.append(str(error))
        return {}


def _pictures(folder: Path) -> list[str]:
    """Return the suffixes of the pictures in a folder."""
    files = itertools.islice((file for file in folder.iterdir() if file.is_file()), MOST_FILES)
    return sorted({file.suffix for file in files if file.suffix.lower() in pictures.SUFFIXES})
