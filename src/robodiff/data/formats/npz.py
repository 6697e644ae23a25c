"""NumPy's files: one .npz with arrays over all frames and ``episode_ends``, or a folder with an .npz for each episode.

Nothing in them is unpickled, and memory is taken only for what an array says of its size where there is room for it.
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

from robodiff.data.arrays import check_ends, kind_of
from robodiff.data.formats.encoded import pictures_of
from robodiff.data.formats.pieces import Gathered, Piece, check_room, episode_files, files_of, names_of, steps
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.errors import RobodiffError
from robodiff.files import reading

SUFFIXES = (".npz",)
ENDS = "episode_ends"
WHAT = "a NumPy file"


@dataclass(frozen=True, kw_only=True)
class NpzConfig(DataConfig):
    """Demonstrations as NumPy's .npz: one file with episode_ends, or a folder with one file an episode."""

    path: str
    """The file, or the folder."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        path = self.place
        if path.is_file():
            arrays = pieces(path)
            if ENDS not in arrays:
                raise RobodiffError(f"{path}: has no {ENDS}; add it, or write one file for each episode into a folder")
            ends, fps = check_ends(self.path, arrays.pop(ENDS).read()), told_fps(arrays.pop("fps", None))
            return Gathered(self.path, [arrays], ends=ends, names=names_of(arrays), fps=fps).recording(self)
        numbers, files = episode_files(self, SUFFIXES)
        episodes = [pieces(file) for file in files]
        fps = min((told_fps(episode.pop("fps", None)) for episode in episodes), key=lambda rate: rate or math.inf)
        labels, table = [file.name for file in files], {"episode_index": numbers}
        return Gathered(self.path, episodes, labels, names_of(*episodes), fps, table).recording(self)


def pieces(path: Path) -> dict[str, Piece]:
    """Return the arrays of an .npz file by their names, or that of an .npy file.

    Raises:
        RobodiffError: no such file, or a broken one.
    """
    with reading(path, WHAT):
        if path.suffix.lower() == ".npy":
            return {"": _piece(path, "")}
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
        return {member.removesuffix(".npy"): _piece(path, member) for member in members}


def _piece(path: Path, member: str) -> Piece:
    with _opened(path, member) as (_, shape, _, dtype):
        kind, blocks = kind_of(shape[1:], dtype), partial(_blocks, path, member)
        fault = "is pickled, and a pickle may run any code; write it without" if dtype.hasobject else ""
        name = member.removesuffix(".npy")
        return pictures_of(Piece(path, name, shape[0], shape[1:], str(dtype), kind, blocks, fault=fault))


@contextmanager
def _opened(path: Path, member: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, np.dtype]]:
    """Open an array; yield the file after its head, and the shape, the order and the type that the head says."""
    with zipfile.ZipFile(path).open(member) if member else path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        yield file, shape or (1,), is_fortran, dtype


def _blocks(path: Path, member: str) -> Iterator[np.ndarray]:
    with reading(path, WHAT), _opened(path, member) as (file, shape, is_fortran, dtype):
        for frames in [slice(0, shape[0])] if is_fortran else steps(shape[0], shape[1:], dtype):
            block = (frames.stop - frames.start, *shape[1:])
            check_room(f"{path}: {member}", block, dtype)
            values = np.frombuffer(file.read(math.prod(block) * dtype.itemsize), dtype)
            yield values.reshape(block, order="F" if is_fortran else "C")


def told_fps(piece: Piece | None) -> float | None:
    """Return the frames per second that an array called fps tells, where it is a single number."""
    if piece is None or piece.kind != "vector" or (piece.frames, *piece.shape) != (1,):
        return None
    fps = float(piece.read()[0])
    return fps if 0 < fps < math.inf else None


def _recognise(path: Path) -> bool:
    if path.is_dir():
        return bool(files_of(path, SUFFIXES))
    if path.suffix.lower() not in SUFFIXES or not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with reading(path, WHAT), zipfile.ZipFile(path) as archive:
        return f"{ENDS}.npy" in archive.namelist()


FORMAT = Format("NumPy's .npz", NpzConfig, _recognise)
