"""HDF5 files: what is in one, without what its links and virtual storage lead to elsewhere."""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.arrays import Gap, kind_of
from robodiff.data.formats.encoded import LOOKED_AT, pictures_of
from robodiff.data.formats.pieces import Piece, check_room, steps
from robodiff.errors import RobodiffError
from robodiff.files import reading

SUFFIXES = (".hdf5", ".h5")
MOST_OBJECTS = 200_000
DEEPEST = 12
LARGEST_INFLATED = 2**28
"""Bytes to which a chunk may grow, whatever its dataset declares."""
_INFLATES = 1032
"""A byte of DEFLATE holds at most so many (https://zlib.net/zlib_tech.html)."""
MOST_ROWS = 10_000
"""Rows of chunks for each chunk that was written; where there are more, next to nothing was."""
_DEFLATE, _NO_COMPRESSORS = 1, (2, 3, 5, 6)
"""HDF5's filters (H5Zpublic.h): shuffle, checksum, n-bit and scale-offset do not compress without limit."""
_SOFT_LINK = 1
"""Links of higher types leave the file (H5Lpublic.h)."""
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SOUND: set[tuple[str, int, int, int]] = set()
"""Files, as they were when their links were looked at, all of which stay in them."""


def is_hdf5(path: Path) -> bool:
    """Tell by its first bytes whether a file is HDF5."""
    if not path.is_file():
        return False
    with reading(path, "a file"), path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file to read; errors name it.

    Raises:
        RobodiffError: it cannot be read, links to another file, or holds more objects than a recording has.
    """
    import h5py

    with reading(path, "an HDF5 file"), h5py.File(path, "r", locking="best-effort") as file:
        status = path.stat()
        state = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        if state not in _SOUND:
            _check_links(path, file)
            _SOUND.add(state)
        yield file


def _check_links(path: Path, file: Any) -> None:
    """Refuse links to other files before any is followed: they may lead to whatever the user can read, or never end."""
    seen = 0

    def visit(name: bytes, link: Any) -> str | None:
        nonlocal seen
        seen += 1
        if link.type > _SOFT_LINK:
            return f"{printed(name.decode(errors='replace'))} is a link to another file; copy the data into this one"
        return f"holds more than {MOST_OBJECTS} objects; a recording has fewer" if seen > MOST_OBJECTS else None

    if fault := file.id.links.visit(visit, info=True):
        raise RobodiffError(f"{path}: {fault}")


def pieces(path: Path, group: Any, skip: tuple[str, ...] = (), swap_channels: bool = False) -> dict[str, Piece]:
    """Return the arrays of a group that have frames, by their paths in it.

    Args:
        path: the file.
        group: of the open file.
        skip: names of groups to leave out.
        swap_channels: whether red and blue are swapped in encoded pictures.

    Raises:
        RobodiffError: groups that are deeper within one another than those of a recording.
    """
    import h5py

    listed: dict[str, Piece] = {}

    def walk(parent: Any, prefix: str, depth: int) -> None:
        if depth > DEEPEST:  # such as one that is linked to within itself
            raise RobodiffError(f"{path}: holds groups {DEEPEST} deep, at {printed(parent.name)}")
        for name in (name for name in parent if prefix or name not in skip):
            try:
                child = parent.get(name)
            except (KeyError, OSError, RuntimeError):  # links in a circle
                child = None
            if child is None:
                listed[f"{prefix}{name}"] = _broken(path, f"{parent.name}/{name}", "is a link to nothing in this file")
            elif isinstance(child, h5py.Group):
                walk(child, f"{prefix}{name}/", depth + 1)
            elif isinstance(child, h5py.Dataset) and (elsewhere(child) or child.ndim):
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


def elsewhere(dataset: Any) -> str:
    """Return that an array lies in other files, of which even the shape may have to be read; else nothing."""
    is_elsewhere = dataset.is_virtual or dataset.external
    return "lies in other files; copy the data into this one" if is_elsewhere else ""


def _piece(path: Path, dataset: Any, swap_channels: bool) -> Piece:
    place = dataset.name
    if fault := elsewhere(dataset):
        return _broken(path, place, fault)
    frames, shape, dtype = len(dataset), dataset.shape[1:], dataset.dtype
    blocks, gaps = partial(_blocks, path, place), gaps_in(dataset)
    piece = Piece(path, place, frames, shape, str(dtype), kind_of(shape, dtype), blocks, unwritten=gaps)
    return pictures_of(piece, swap_channels)


def _broken(path: Path, place: str, fault: str) -> Piece:
    return Piece(path, place, 0, (), "no array", "vector", lambda: iter(()), fault=fault)


def gaps_in(dataset: Any) -> list[Gap]:
    """Return the frames of an array that were never written in whole and read as its fill value."""
    whole = [(0, len(dataset))] if dataset.size else []
    if not dataset.chunks:
        return whole if dataset.id.get_storage_size() == 0 and dataset.dtype.itemsize else []
    grid = [-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    if not dataset.size or (written := dataset.id.get_num_chunks()) == math.prod(grid):
        return []
    if grid[0] > MOST_ROWS * (written + 1):
        return whole  # nearly
    rows = np.zeros(grid[0] + 2, np.int64)  # written chunks in each row of them, and none beside the rows
    for first, _ in _chunks(dataset):
        rows[first[0] // dataset.chunks[0] + 1] += 1
    is_gap = rows < math.prod(grid[1:])
    is_gap[[0, -1]] = False
    edges = np.flatnonzero(np.diff(is_gap.astype(np.int8))).reshape(-1, 2) * dataset.chunks[0]
    return [(first, min(end, len(dataset))) for first, end in edges.tolist()]


def _chunks(dataset: Any) -> list[tuple[tuple[int, ...], int]]:
    """Return the first element and the stored bytes of each chunk that was written."""
    chunks: list[tuple[tuple[int, ...], int]] = []
    dataset.id.chunk_iter(lambda chunk: chunks.append((chunk.chunk_offset, chunk.size)))
    return chunks


def _check_inflated(path: Path, dataset: Any) -> None:
    """Refuse chunks that inflate to more than the dataset declares: HDF5 takes what memory they ask for."""
    filters = dataset.id.get_create_plist()
    compressors = [
        code for n in range(filters.get_nfilters()) if (code := filters.get_filter(n)[0]) not in _NO_COMPRESSORS
    ]
    if len(compressors) > 1:
        raise RobodiffError(f"{path}: {printed(dataset.name)} is compressed twice; write it again with one filter")
    declared = math.prod(dataset.chunks) * dataset.dtype.itemsize
    for first, stored in _chunks(dataset) if _DEFLATE in compressors else ():
        if stored * _INFLATES > max(LARGEST_INFLATED, declared):
            inflater, data = zlib.decompressobj(), dataset.id.read_direct_chunk(first)[1]
            if len(inflater.decompress(data, declared + 1)) > declared:
                fault = f"the chunk at frame {first[0]} of {printed(dataset.name)} inflates to more than"
                raise RobodiffError(f"{path}: {fault} the {declared:,} bytes declared; copy it again")


def _blocks(path: Path, place: str) -> Iterator[np.ndarray]:
    with opened(path) as file:
        dataset = file[place]
        chunk = dataset.chunks or (1, *dataset.shape[1:])
        check_room(f"{path}: a chunk of {printed(place)}", chunk, dataset.dtype)
        if dataset.chunks:
            _check_inflated(path, dataset)
        is_fixed = dataset.dtype.kind != "O"  # else rows are of any length
        every = steps(len(dataset), dataset.shape[1:], dataset.dtype, chunk[0])
        for frames in every if is_fixed else (slice(n, n + LOOKED_AT) for n in range(0, len(dataset), LOOKED_AT)):
            yield dataset[frames]
