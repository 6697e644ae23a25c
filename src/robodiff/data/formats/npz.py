"""NumPy's files: one .npz with arrays over all frames and ``episode_ends``, or a folder with an .npz for each episode.

Nothing in them is unpickled, and what an array says of its size is compared with the file before memory is taken.
"""

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from robodiff.data.episodes import check_ends, episode_numbers, kind_of
from robodiff.data.formats.pieces import Gathered, Piece, check_room, files_of, inside, names_of, steps
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.errors import RobodiffError
from robodiff.files import reading

SUFFIXES = (".npz",)
ENDS = "episode_ends"


@dataclass(frozen=True, kw_only=True)
class NpzConfig(DataConfig):
    """Demonstrations as NumPy's .npz: one file with episode_ends, or a folder with one file an episode."""

    path: str
    """The file, or the folder."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        root = Path(self.path).expanduser()
        if root.is_file():
            return self._whole(root)
        files = files_of(root, SUFFIXES)
        if not files:
            raise RobodiffError(f"{root}: no .npz files found; expected one for each episode")
        numbers = episode_numbers(self.path, self.episodes, len(files))
        episodes = [pieces(inside(root, files[number])) for number in numbers]
        fps = min((_pop_fps(episode) for episode in episodes), key=lambda rate: rate or math.inf)
        labels = [files[number].name for number in numbers]
        table = {"episode_index": numbers}
        return Gathered(self.path, episodes, labels, names_of(*episodes), fps, table).recording(self)

    def _whole(self, path: Path) -> Recording:
        arrays = pieces(path)
        if ENDS not in arrays:
            raise RobodiffError(f"{path}: has no {ENDS}, which says after which frame each episode ends; add it, or "
                                "write one file for each episode into a folder")  # fmt: skip
        ends = check_ends(self.path, arrays.pop(ENDS).read())
        fps = _pop_fps(arrays)
        return Gathered(self.path, [arrays], ends=ends, names=names_of(arrays), fps=fps).recording(self)


def pieces(path: Path) -> dict[str, Piece]:
    """Return the arrays of an .npz file, by their names.

    Raises:
        RobodiffError: no such file, a broken one, or an array that says it is larger than what the file holds.
    """
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        return {
            member.filename.removesuffix(".npy"): _piece(path, member.filename, member.file_size) for member in members
        }


def npy_piece(path: Path) -> Piece:
    """Return the array of an .npy file."""
    with reading(path, "an .npy file"):
        return _piece(path, "", path.stat().st_size)


def _piece(path: Path, member: str, size: int) -> Piece:
    with _opened(path, member) as file:
        shape, _, dtype = _header(file)
    shape = shape or (1,)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size:
        raise RobodiffError(f"{path}: {member or 'it'} says its shape is {shape}, more than the file holds; copy or "
                            "record it again")  # fmt: skip
    kind = kind_of(shape[1:], dtype)
    return Piece(
        path, member.removesuffix(".npy"), shape[0], shape[1:], str(dtype), kind, partial(_blocks, path, member)
    )


@contextmanager
def _opened(path: Path, member: str) -> Iterator[IO[bytes]]:
    if not member:
        with path.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            yield file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _blocks(path: Path, member: str) -> Iterator[np.ndarray]:
    with reading(path, "a NumPy file"), _opened(path, member) as file:
        shape, is_fortran, dtype = _header(file)
        shape = shape or (1,)
        if dtype.hasobject:
            raise RobodiffError(f"{path}: {member} is pickled, and a pickle may run any code; write it without")
        for frames in [slice(0, shape[0])] if is_fortran else steps(shape[0], shape[1:], dtype):
            count = frames.stop - frames.start
            check_room(f"{path}: {member}", count, shape[1:], dtype)
            values = np.frombuffer(_bytes(file, count * math.prod(shape[1:]) * dtype.itemsize), dtype)
            yield values.reshape((count, *shape[1:]), order="F" if is_fortran else "C")


def _bytes(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("ends early")
    return data


def _pop_fps(arrays: dict[str, Piece]) -> float | None:
    """Take out a single number called fps, and return it."""
    piece = arrays.pop("fps", None)
    if piece is None or piece.kind != "vector" or (piece.frames, *piece.shape) != (1,):
        return None
    fps = float(piece.read()[0])
    return fps if 0 < fps < math.inf else None


def _recognise(path: Path) -> bool:
    if path.is_dir():
        return bool(files_of(path, SUFFIXES))
    if path.suffix.lower() != ".npz" or not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        return f"{ENDS}.npy" in archive.namelist()


FORMAT = Format("NumPy's .npz", NpzConfig, _recognise)
