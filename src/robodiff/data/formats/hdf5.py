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

SUFFIXES = (".hdf5", ".h5")
MOST_OBJECTS = 200_000
DEEPEST = 12
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Tell by its first bytes whether a file is HDF5."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SIGNATURE)) == _SIGNATURE
    except OSError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file to read; errors name it."""
    import h5py

    with reading(path, "an HDF5 file"), h5py.File(path, "r", locking="best-effort") as file:
        yield file


def datasets(path: Path, group: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return every array in a group, by its path there.

    Args:
        path: the file, for messages.
        group: where to start.
        skip: names of groups in it to leave out.

    Raises:
        RobodiffError: links that lead out of the file or nowhere, or more objects than a recording has.
    """
    import h5py

    every: dict[str, Any] = {}
    seen = 0

    def walk(parent: Any, prefix: str, depth: int) -> None:
        nonlocal seen
        for name in parent:
            place, seen = f"{prefix}{name}", seen + 1
            if place in skip:
                continue
            child = None if isinstance(parent.get(name, getlink=True), h5py.ExternalLink) else parent.get(name)
            if child is None or child.file.filename != group.file.filename:
                raise RobodiffError(f"{path}: {printed(f'{parent.name}/{name}')} is a link that leads out of the file "
                                    "or nowhere; copy the data into the file")  # fmt: skip
            if seen > MOST_OBJECTS or depth > DEEPEST:
                raise RobodiffError(f"{path}: holds more than {MOST_OBJECTS} arrays and groups, or more than {DEEPEST} "
                                    "one within another; expected a recording")  # fmt: skip
            if isinstance(child, h5py.Dataset):
                every[place] = child
            elif isinstance(child, h5py.Group):
                walk(child, f"{place}/", depth + 1)

    walk(group, "", 0)
    return every


def pieces(path: Path, group: Any, skip: tuple[str, ...] = (), swap_channels: bool = False) -> dict[str, Piece]:
    """Return the arrays of a group that have frames, by their paths in it.

    Args:
        path: the file.
        group: of the open file.
        skip: names of groups to leave out.
        swap_channels: whether red and blue are swapped in encoded pictures.

    Raises:
        RobodiffError: arrays that lie outside of the file, or of which parts were never written.
    """
    found = datasets(path, group, skip)
    return {key: _piece(path, dataset, swap_channels) for key, dataset in found.items() if dataset.ndim}


def printed(name: Any) -> str:
    """Return a name that a file says, safe to print."""
    text = str(name).encode("unicode_escape").decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def _piece(path: Path, dataset: Any, swap_channels: bool) -> Piece:
    check_stored(path, dataset)
    place, frames, shape, dtype = dataset.name, len(dataset), dataset.shape[1:], dataset.dtype
    if frames and (size := _encoded(dataset)):
        blocks = partial(_pictures, path, place, size, swap_channels)
        return Piece(path, place, frames, (*size, 3), "uint8", "image", blocks, recipe=f"swap {swap_channels}")
    return Piece(path, place, frames, shape, str(dtype), kind_of(shape, dtype), partial(_blocks, path, place))


def check_stored(path: Path, dataset: Any) -> None:
    """Refuse arrays that lie in other files, and those that were made room for and never written, which read as zeros.

    Raises:
        RobodiffError: it is such an array.
    """
    name, advice = printed(dataset.name), "copy or record it again"
    if dataset.is_virtual or dataset.external:
        raise RobodiffError(f"{path}: {name} lies in other files; copy the data into this one")
    if not dataset.size:
        return
    if dataset.chunks:
        expected = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        if (written := dataset.id.get_num_chunks()) < expected:
            raise RobodiffError(f"{path}: {name} was not written in whole: {written} of {expected} chunks; {advice}")
        check_room(f"{path}: a chunk of {name}", dataset.chunks[0], dataset.chunks[1:], dataset.dtype)
    elif dataset.id.get_storage_size() == 0:
        raise RobodiffError(f"{path}: {name} was never written; {advice}")


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
            try:
                image = decode_picture(_row(dataset[frame]), size)
            except (OSError, ValueError, SyntaxError, RobodiffError) as error:
                raise RobodiffError(f"{path}: {place} cannot be decoded at frame {frame}: {error}; record it "
                                    "again, or leave the episode out with data.episodes") from None  # fmt: skip
            yield image[None, ..., ::-1] if swap_channels else image[None]


def _blocks(path: Path, place: str) -> Iterator[np.ndarray]:
    with opened(path) as file:
        dataset = file[place]
        chunk = dataset.chunks[0] if dataset.chunks else 1
        for frames in steps(len(dataset), dataset.shape[1:], dataset.dtype, chunk):
            yield dataset[frames]
