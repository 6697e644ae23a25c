"""``meta/info.json`` of a LeRobot data set, formats v2.1 and v3.0: read, and checked before anything relies on it.

Data sets come from others. A number of theirs may ask for any memory, and a path of theirs lead anywhere.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from robodiff.data.arrays import CHANNELS, kind_of
from robodiff.data.episodes import LARGEST, Feature, texts_of
from robodiff.documents import Above, Between, convert, read_json
from robodiff.errors import RobodiffError
from robodiff.files import reading

Count = Annotated[int, Between(0, 10**9)]
"""Of episodes, frames, files in a folder."""
Some = Annotated[int, Between(1, 10**9)]
"""Likewise, and at least one."""
Template = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([^{}]|\{(episode_chunk|episode_index|chunk_index|file_index)(:(0?[1-9])?d?)?\}|\{video_key\})+$"
    ),
]
"""A path with these fields alone: others could reach into objects, and a width ask for any memory."""
DEEP = re.compile(r"gray(f|9|1\d)")
"""How FFmpeg calls grey pictures of more than a byte a value, which hold distances."""
_NUMBERS = "bool|u?int(8|16|32|64)|float(16|32|64)"
_ADVICE = "robodiff reads LeRobot's v2.1 and v3.0; convert it with LeRobot's own converters, or download it again"


class FeatureInfo(msgspec.Struct):
    """What is said of one key."""

    dtype: str
    shape: list[Annotated[int, Between(1, LARGEST)]]
    names: Any = None
    unit: Any = None
    info: Any = None
    video_info: Any = None

    @property
    def is_coded(self) -> bool:
        """Whether it is pictures or video, not an array of numbers."""
        return self.dtype in ("image", "video")

    @property
    def is_depth(self) -> bool:
        """Whether pictures or video are said to hold distances, or more than a byte a value."""
        more = [part for part in (self.info, self.video_info) if isinstance(part, dict)]
        said = {name.removeprefix("video."): value for part in more for name, value in part.items()}
        return bool(said.get("is_depth_map")) or bool(DEEP.match(str(said.get("pix_fmt"))))

    @property
    def feature(self) -> Feature | None:
        """What robodiff makes of it; None where it is neither numbers nor images (depth is not read)."""
        shape = tuple(self.shape)
        if self.is_coded:
            is_grey = len(shape) == 2
            is_colour = len(shape) == 3 and {shape[0], shape[2]} & {*CHANNELS}
            is_image = (is_grey or is_colour) and not self.is_depth
            kind = "image" if is_image else None
        else:
            kind = kind_of(shape, np.dtype(self.dtype)) if re.fullmatch(_NUMBERS, self.dtype) else None
        if kind == "image":
            shape = (*shape, 1) if len(shape) == 2 else shape
            channels_first = shape[2] not in CHANNELS or (shape[0] == 3 and shape[2] != 3)  # as older ones have it
            channels, *size = shape if channels_first else (shape[2], *shape[:2])
            return Feature("image", (min(channels, 3), *size), "uint8")
        if kind is None:
            return None
        width, names = math.prod(shape), _names(self.names)
        names = names if names is not None and len(names) == width else None
        unit = self.unit if isinstance(self.unit, str) else texts_of(self.unit, width)
        return Feature("vector", (width,), "float32", names, unit)


class Info(msgspec.Struct):
    """What it says."""

    total_episodes: Some
    """How many count: more in ``meta/`` are of an episode that was being saved when the recording stopped."""
    fps: Annotated[float, Above(0)]
    features: dict[str, FeatureInfo]
    data_path: Template
    codebase_version: Literal["v2.1", "v3.0"] | None = None
    video_path: Template | None = None
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
            RobodiffError: it leads out of that folder, or has other fields.
        """
        path = root / "meta" / "info.json"
        with reading(path, "LeRobot's info.json"):
            place = PurePosixPath(getattr(self, template).format(**fields))
        if place.is_absolute() or ".." in place.parts:
            raise RobodiffError(f"{path}: {template} leads out of the data set, to {str(place)[:80]!r}")
        return str(place)


def read_info(root: Path) -> Info:
    """Read and check it.

    Raises:
        RobodiffError: no data set there, another version, or something that is not as LeRobot writes it.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise RobodiffError(f"{root}: is not a LeRobot data set (it has no meta/info.json)")
    info = read_json(path, Info, _ADVICE)
    if info.codebase_version is None:
        version = "v3.0" if (root / "meta" / "episodes").is_dir() else "v2.1"
        advice = f'by the files beside it, add "codebase_version": "{version}"'
        raise RobodiffError(f"{path}: does not say which of LeRobot's formats it has; {advice}")
    return info


def entry(path: Path, row: Mapping[str, Any], name: str, kind: Any) -> Any:
    """Return one value of a row of ``meta/``, of its type.

    Raises:
        RobodiffError: it is missing, or of another type or out of bounds.
    """
    value = row.get(name)
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
