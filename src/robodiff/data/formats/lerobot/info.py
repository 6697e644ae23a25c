"""``meta/info.json`` of a LeRobot data set, formats v2.1 and v3.0: read, and checked before anything relies on it.

Data sets come from others. A number of theirs may ask for any memory, and a path of theirs lead anywhere.
"""

import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Annotated, Any

import msgspec

from robodiff.data.episodes import Feature
from robodiff.documents import Above, Between, convert, read_json
from robodiff.errors import RobodiffError

VERSIONS = {"v2.1": ("episode_chunk", "episode_index"), "v3.0": ("chunk_index", "file_index")}
"""What is read, each with the numbers in its paths."""
MOST_PIXELS = 2**16
"""Along a side of an image."""
Count = Annotated[int, Between(0, 10**9)]
"""Of episodes, frames, files in a folder, numbers along an axis."""
Some = Annotated[int, Between(1, 10**9)]
"""Likewise, and at least one."""
_NUMBERS = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
            "float16", "float32", "float64")  # fmt: skip
_ADVICE = "copy or download the data set again"


class FeatureInfo(msgspec.Struct):
    """What is said of one key."""

    dtype: str
    shape: list[Some]
    names: Any = None
    unit: Any = None
    info: Any = None
    video_info: Any = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Recorded height and width of a camera's images."""
        height, width = self.shape[1:] if self.shape[0] == 3 and self.shape[2] != 3 else self.shape[:2]  # older: CHW
        return height, width

    @property
    def feature(self) -> Feature | None:
        """What robodiff makes of it; None where it is neither numbers nor colour images (depth is not read)."""
        if self.dtype in ("image", "video"):
            more = [part for part in (self.info, self.video_info) if isinstance(part, dict)]
            depth = any(part.get("is_depth_map") or part.get("video.is_depth_map") for part in more)
            colour = len(self.shape) == 3 and 3 in self.shape and not depth
            return Feature("image", (3, *self.image_size), "uint8") if colour else None
        if self.dtype not in _NUMBERS:
            return None
        width, names = math.prod(self.shape), _names(self.names)
        names = names if names is not None and len(names) == width else None
        return Feature("vector", (width,), "float32", names, self.unit if isinstance(self.unit, str) else None)


class Info(msgspec.Struct):
    """What it says."""

    codebase_version: str
    total_episodes: Some
    """How many count: more in ``meta/`` are of an episode that was being saved when the recording stopped."""
    fps: Annotated[float, Above(0)]
    features: dict[str, FeatureInfo]
    data_path: str
    video_path: str | None = None
    chunks_size: Some = 1000
    """Episodes in a folder, in v2.1."""
    robot_type: Any = None

    @property
    def cameras(self) -> list[str]:
        """The keys whose images are in videos."""
        return [key for key, feature in self.features.items() if feature.dtype == "video"]

    def place(self, root: Path, template: str, **fields: Any) -> str:
        """Return the path, relative to the data set's folder, that a template makes of these fields.

        Raises:
            RobodiffError: it leads out of that folder.
        """
        place = PurePosixPath(getattr(self, template).format(**fields))
        if place.is_absolute() or ".." in place.parts:
            path = root / "meta" / "info.json"
            raise RobodiffError(f"{path}: {template} leads out of the data set, to {str(place)[:80]!r}")
        return str(place)


class _Version(msgspec.Struct):
    codebase_version: Any = None


def read_info(root: Path) -> Info:
    """Read and check it.

    Raises:
        RobodiffError: no data set there, another version, or something that is not as LeRobot writes it.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise RobodiffError(f"{root}: is not a LeRobot data set (it has no meta/info.json)")
    version = read_json(path, _Version, _ADVICE).codebase_version
    if version not in [*VERSIONS]:
        raise RobodiffError(f"{root}: has format {reprlib.repr(version)}; robodiff reads {' and '.join(VERSIONS)}; "
                            "convert it with LeRobot's own converters")  # fmt: skip
    info = read_json(path, Info, _ADVICE)
    for key, feature in info.features.items():
        if feature.dtype in ("image", "video") and max(feature.shape, default=0) > MOST_PIXELS:
            raise RobodiffError(f"{path}: {key} has the shape {feature.shape}; expected at most {MOST_PIXELS} pixels")
    _check_template(path, "data_path", info.data_path, VERSIONS[version])
    if info.cameras:
        _check_template(path, "video_path", info.video_path, (*VERSIONS[version], "video_key"))
    return info


def entry(path: Path, row: Mapping[str, Any], name: str, kind: Any) -> Any:
    """Return one value of a row of ``meta/``, of its type.

    Raises:
        RobodiffError: it is missing, or of another type or out of bounds.
    """
    if name not in row:
        raise RobodiffError(f"{path}: has no {name!r}")
    value = row[name]
    if isinstance(value, float) and value.is_integer():  # pandas makes whole numbers floats where some are missing
        value = int(value)
    try:
        return convert(value, kind)
    except ValueError as error:
        raise RobodiffError(f"{path}: {name}: {error}") from None


def _names(names: Any) -> tuple[str, ...] | None:
    """Return LeRobot's names of dimensions, a list, a list in a list or a dictionary of lists, as one tuple."""
    if isinstance(names, dict):
        names = list(names.values())
    if not isinstance(names, list):
        return None
    flat = [name for part in names for name in (part if isinstance(part, list) else [part])]
    return tuple(map(str, flat)) if all(isinstance(name, str | int | float) for name in flat) else None


def _check_template(path: Path, name: str, template: str | None, known: tuple[str, ...]) -> None:
    """Allow these fields alone: others could reach into objects, and a width ask for any memory."""
    try:
        parts = list(Formatter().parse(template or ""))
    except ValueError:  # a brace that is not closed
        parts = [("", "", None, None)]
    for _, field, width, conversion in parts:
        plain = width == "" if field == "video_key" else re.fullmatch(r"(0?[1-9])?d?", width or "")
        if not template or (field is not None and (field not in known or conversion or not plain)):
            raise RobodiffError(f"{path}: {name} must be a path with the fields {', '.join(known)}, as in "
                                f"{{{known[0]}:03d}}; found {reprlib.repr(template)}")  # fmt: skip
