"""``meta/info.json`` of a LeRobot data set, formats v2.1 and v3.0: read, and checked before anything relies on it.

Data sets come from others. A number of theirs may ask for any memory, and a path of theirs lead anywhere.
"""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from robodiff.errors import RobodiffError
from robodiff.files import reading

VERSIONS = ("v2.1", "v3.0")
MOST = 10**9
"""Of episodes, of an episode's frames, of the files in a folder, of the numbers along an axis."""
MOST_PIXELS = 2**16
"""Along a side of an image."""
_NUMBERED = {"v2.1": ("episode_chunk", "episode_index"), "v3.0": ("chunk_index", "file_index")}


@dataclass(frozen=True)
class Said:
    """What a JSON object, or a row of a table, says; raises ``RobodiffError`` for what is not as it must be."""

    path: Path
    """Of the file, for messages."""
    values: Mapping[str, Any]
    what: str = "it"

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping):
            raise RobodiffError(f"{self.path}: {self.what} must be a JSON object; found {reprlib.repr(self.values)}")

    def entry(self, name: str) -> Any:
        """Anything that is there."""
        if name not in self.values:
            raise RobodiffError(f"{self.path}: has no {name!r}")
        return self.values[name]

    def whole(self, name: str, least: int = 0) -> int:
        """A whole number, of at most ``MOST``."""
        return _whole(self.path, name, self.entry(name), least, MOST)

    def number(self, name: str) -> float:
        """A finite number that is not negative."""
        found = self.entry(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
            raise RobodiffError(f"{self.path}: {name} must be a number and not negative; found {reprlib.repr(found)}")
        return float(found)


@dataclass(frozen=True)
class Info:
    """What it says."""

    path: Path
    """Of the file."""
    version: str
    episodes: int
    """How many count: more in ``meta/`` are of an episode that was being saved when the recording stopped."""
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    """Per key LeRobot's ``dtype``, ``shape``, ``names`` and more; the first two are checked."""
    cameras: list[str]
    """The keys whose images are in videos."""
    chunks_size: int
    """Episodes in a folder, in v2.1."""
    templates: Mapping[str, str]
    """``data_path``, and with cameras ``video_path``."""
    robot_type: str | None

    def place(self, template: str, **fields: Any) -> str:
        """The path, relative to the data set's folder, that a template makes of these fields.

        Raises:
            RobodiffError: it leads out of that folder.
        """
        place = PurePosixPath(self.templates[template].format(**fields))
        if place.is_absolute() or ".." in place.parts:
            raise RobodiffError(f"{self.path}: {template} leads out of the data set, to {str(place)[:80]!r}")
        return str(place)


def read_info(root: Path) -> Info:
    """Read and check it.

    Raises:
        RobodiffError: no data set there, another version, or something that is not as LeRobot writes it.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise RobodiffError(f"{root}: is not a LeRobot data set (it has no meta/info.json)")
    with reading(path, "a JSON file"):
        info = Said(path, json.loads(path.read_text()))
        version = info.values.get("codebase_version")
        if version not in VERSIONS:
            raise RobodiffError(f"{root}: has format {reprlib.repr(version)}; robodiff reads {' and '.join(VERSIONS)}; "
                                "convert it with LeRobot's own converters")  # fmt: skip
        episodes, chunks_size, fps = info.whole("total_episodes", 1), info.whole("chunks_size", 1), info.number("fps")
        if fps == 0:
            raise RobodiffError(f"{path}: fps must be above 0; found 0")
        features = Said(path, info.entry("features"), "features")
        checked = {key: _feature(path, key, features.entry(key)) for key in features.values}
        cameras = [key for key, said in checked.items() if said["dtype"] == "video"]
        templates = {"data_path": _template(info, "data_path", _NUMBERED[version])}
        if cameras:
            templates["video_path"] = _template(info, "video_path", (*_NUMBERED[version], "video_key"))
        robot = info.values.get("robot_type")
    return Info(path, version, episodes, fps, checked, cameras, chunks_size, templates,
                robot if isinstance(robot, str) else None)  # fmt: skip


def _feature(path: Path, key: str, found: Any) -> dict[str, Any]:
    said = Said(path, found, f"feature {key!r}")
    dtype, shape = said.entry("dtype"), said.entry("shape")
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise RobodiffError(f"{path}: feature {key!r} must have a name as its dtype and a list as its shape; found "
                            f"{reprlib.repr(dtype)} and {reprlib.repr(shape)}")  # fmt: skip
    most = MOST_PIXELS if dtype in ("image", "video") else MOST
    return {**found, "shape": [_whole(path, f"a size in the shape of {key!r}", size, 1, most) for size in shape]}


def _whole(path: Path, name: str, found: Any, least: int, most: int) -> int:
    if isinstance(found, bool) or not isinstance(found, int | float) or not least <= found <= most or found % 1:
        raise RobodiffError(
            f"{path}: {name} must be a whole number from {least} to {most}; found {reprlib.repr(found)}"
        )
    return int(found)


def _template(info: Said, name: str, fields: tuple[str, ...]) -> str:
    """A template with these fields alone: others could reach into objects, and a width ask for any memory."""
    template = info.entry(name)
    for _, field, width, conversion in Formatter().parse(template):
        plain = width == "" if field == "video_key" else re.fullmatch(r"(0?[1-9])?d?", width or "")
        if field is not None and (field not in fields or conversion or not plain):
            raise RobodiffError(f"{info.path}: {name} must be a path with the fields {', '.join(fields)}, as in "
                                f"{{{fields[0]}:03d}}; found {reprlib.repr(template)}")  # fmt: skip
    return template
