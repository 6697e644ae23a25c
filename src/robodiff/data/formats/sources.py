"""Every array of a file or folder, whatever it is: for ``recording.yaml``, and to describe what is unknown."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robodiff.data.arrays import kind_of
from robodiff.data.formats import hdf5, npz, pictures, table
from robodiff.data.formats.encoded import pictures_of
from robodiff.data.formats.pieces import Piece, by_number, inside
from robodiff.errors import RobodiffError
from robodiff.files import reading

if TYPE_CHECKING:
    from robodiff.data.formats.zarr_store import BoundedStore

ZARR = ("zarr.json", ".zgroup", ".zarray")
"""Files that a zarr group or array has in its folder."""
SUFFIXES = (*hdf5.SUFFIXES, ".npz", ".npy", *table.SUFFIXES, *pictures.VIDEOS)
"""How the names of other files with arrays end."""


def holds_arrays(path: Path) -> bool:
    """Tell whether a file, or a folder that is one of zarr, is one array or a group of them."""
    return is_zarr(path) if path.is_dir() else path.suffix.lower() in SUFFIXES or hdf5.is_hdf5(path)


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a zarr group or array."""
    return any((path / name).is_file() for name in ZARR)


def arrays_of(path: Path) -> dict[str, Piece]:
    """Return the arrays of a file, or of a folder that is a zarr group or holds pictures, by their names in it.

    Raises:
        RobodiffError: a broken file, or one that holds no arrays.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _zarr(path) if is_zarr(path) else {"": picture_files(path, "*")}
    if hdf5.is_hdf5(path):
        return hdf5.file_pieces(path)
    if suffix in (".npz", ".npy"):
        return npz.pieces(path)
    if suffix in table.SUFFIXES:
        return table.pieces(path, table.read_table(path))
    if suffix in pictures.VIDEOS:
        return {"": pictures.video_piece(path)[0]}
    raise RobodiffError(f"{path}: holds no arrays; expected HDF5, zarr, .npz, .npy, CSV, Parquet, pictures or a video")


def picture_files(folder: Path, pattern: str) -> Piece:
    """Return the pictures in a folder that a pattern names, in the order of their numbers.

    Raises:
        RobodiffError: there are none, or they lead out of the folder.
    """
    with reading(folder, "a folder of pictures"):
        files = [file for file in folder.glob(pattern) if file.suffix.lower() in pictures.SUFFIXES]
    if not files:
        raise RobodiffError(f"{folder}: no pictures {pattern} found; expected .png or .jpg")
    files = sorted((inside(folder, file) for file in files), key=lambda file: by_number(file.relative_to(folder)))
    return pictures.files_piece(pattern, files)


def _zarr(path: Path) -> dict[str, Piece]:
    import zarr

    from robodiff.data.formats.zarr_store import opening

    with opening(path) as store:
        node = zarr.open(store, mode="r", use_consolidated=False)
        members = [("", node)] if isinstance(node, zarr.Array) else sorted(node.members(max_depth=8))
        arrays = {name: array for name, array in members if isinstance(array, zarr.Array) and array.ndim}
        return {name: _zarr_piece(store, name, array) for name, array in arrays.items()}


def _zarr_piece(store: "BoundedStore", name: str, array: Any) -> Piece:
    from robodiff.data.formats.zarr_reader import decode, fault_of, find_gaps

    def blocks() -> Iterator[np.ndarray]:
        yield decode(store.path, name, array, array.shape[0])

    frame, dtype, gaps = array.shape[1:], array.dtype, []
    if not (fault := fault_of(store, array)):
        gaps, fault = find_gaps(store, array)
    kind = kind_of(frame, dtype)
    piece = Piece(store.path, name, array.shape[0], frame, str(dtype), kind, blocks, fault=fault, unwritten=gaps)
    return pictures_of(piece)
