"""HDF5 files: what is in one, without what its links and virtual storage lead to elsewhere."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.episodes import kind_of
from robodiff.data.formats.pictures import decode_picture, is_picture, picture_size
from robodiff.data.formats.pieces import Piece, check_room, steps
from robodiff.errors import RobodiffError
from robodiff.files import reading
from robodiff.text import counted

SUFFIXES = (".hdf5", ".h5")
MOST_OBJECTS = 200_000
DEEPEST = 12
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Tell by its first bytes whether a file is HDF5."""
    if not path.is_file():
        return False
    with reading(path, "a file"), path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file to read; errors name it."""
    import h5py

    with reading(path, "an HDF5 file"), h5py.File(path, "r", locking="best-effort") as file:
        yield file


def pieces(path: Path, group: Any, skip: tuple[str, ...] = (), swap_channels: bool = False) -> dict[str, Piece]:
    """Return the arrays of a group that have frames, by their paths in it.

    Args:
        path: the file.
        group: of the open file.
        skip: names of groups to leave out.
        swap_channels: whether red and blue are swapped in encoded pictures.

    Raises:
        RobodiffError: links that lead out of the file or nowhere, or more objects than a recording has.
    """
    import h5py

    listed: dict[str, Piece] = {}
    seen = 0

    def walk(parent: Any, prefix: str, depth: int) -> None:
        nonlocal seen
        for name in (name for name in parent if prefix or name not in skip):
            seen += 1
            child = None if isinstance(parent.get(name, getlink=True), h5py.ExternalLink) else parent.get(name)
            if child is None or child.file.filename != group.file.filename:
                raise RobodiffError(f"{path}: {printed(f'{parent.name}/{name}')} is a link to nothing in this file")
            if seen > MOST_OBJECTS or depth > DEEPEST:
                raise RobodiffError(f"{path}: holds more than {MOST_OBJECTS} objects, or groups {DEEPEST} deep")
            if isinstance(child, h5py.Group):
                walk(child, f"{prefix}{name}/", depth + 1)
            elif isinstance(child, h5py.Dataset) and child.ndim:
                listed[f"{prefix}{name}"] = _piece(path, child, swap_channels)

    walk(group, "", 0)
    return listed


def file_pieces(path: Path, swap_channels: bool = False) -> dict[str, Piece]:
    """Return the arrays of a whole file, as ``pieces`` does."""
    with opened(path) as file:
        return pieces(path, file, swap_channels=swap_channels)


def printed(name: Any) -> str:
    """Return a name that a file says, safe to print."""
    text = str(name).encode("unicode_escape").decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def _piece(path: Path, dataset: Any, swap_channels: bool) -> Piece:
    place, frames, shape, dtype = dataset.name, len(dataset), dataset.shape[1:], dataset.dtype
    fault = storage_fault(dataset)
    if frames and not fault and (size := _encoded(dataset)):
        blocks = partial(_pictures, path, place, size, swap_channels)
        return Piece(path, place, frames, (*size, 3), "uint8", "image", blocks, recipe=f"swap {swap_channels}")
    kind = kind_of(shape, dtype)
    return Piece(path, place, frames, shape, str(dtype), kind, partial(_blocks, path, place), fault=fault)


def storage_fault(dataset: Any) -> str:
    """Return what is wrong with an array that lies in other files or was never written, and would read as zeros.

    Empty where nothing is.
    """
    if dataset.is_virtual or dataset.external:
        return "lies in other files; copy the data into this one"
    if dataset.size and dataset.chunks:
        expected = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        written = dataset.id.get_num_chunks()
        return f"was not written in whole: {written} of {counted(expected, 'chunk')}" if written < expected else ""
    return "was never written" if dataset.size and dataset.id.get_storage_size() == 0 else ""


def _encoded(dataset: Any) -> tuple[int, int] | None:
    """Return height and width of JPEG or PNG files, one a row; None where the rows are none."""
    is_bytes = dataset.ndim == 1 and dataset.dtype.kind in "SO"
    if not is_bytes and not (dataset.ndim == 2 and dataset.dtype == np.uint8):
        return None
    first = _row(dataset[0])
    return picture_size(first) if is_picture(first) else None


def _row(row: Any) -> bytes:
    if isinstance(row, np.ndarray):
        return row.tobytes() if row.dtype == np.uint8 else b""
    return row if isinstance(row, bytes) else b""


def _pictures(path: Path, place: str, size: tuple[int, int], swap_channels: bool) -> Iterator[np.ndarray]:
    with opened(path) as file:
        dataset = file[place]
        for frame in range(len(dataset)):
            image = decode_picture(f"{path}: {place} at frame {frame}", _row(dataset[frame]), size)
            yield image[None, ..., ::-1] if swap_channels else image[None]


def _blocks(path: Path, place: str) -> Iterator[np.ndarray]:
    with opened(path) as file:
        dataset = file[place]
        chunk = dataset.chunks or (1, *dataset.shape[1:])
        check_room(f"{path}: a chunk of {printed(place)}", chunk, dataset.dtype)
        for frames in steps(len(dataset), dataset.shape[1:], dataset.dtype, chunk[0]):
            yield dataset[frames]
