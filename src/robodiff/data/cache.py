"""Compressed arrays, decoded once: into memory where they fit, else into a memory-mapped file."""

import hashlib
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.errors import RobodiffError
from robodiff.files import replacing

MOST_CHUNKS_PER_FRAME = 10_000
"""Absent chunks read as zeros, so that a broken shape can ask for any number of them."""


def cache_folder() -> Path:
    """Where decoded data is kept: ``ROBODIFF_CACHE``, or ``~/.cache/robodiff``."""
    return Path(os.environ.get("ROBODIFF_CACHE") or Path.home() / ".cache" / "robodiff")


def decoded(source: Path, key: str, array: Any, frames: int) -> np.ndarray:
    """Decode the first frames of a zarr array (N, ...), at most once for the same source.

    What takes more than a third of the memory that is free becomes a memory-mapped file in the cache folder, named by
    a fingerprint of its source, and is found there the next time.

    Args:
        source: the file or folder that holds it.
        key: which of its arrays it is.
        array: the zarr array.
        frames: how many of its N frames are wanted.

    Raises:
        RobodiffError: a chunk does not fit in memory, frames are cut into too many, or the array does not fit in
            memory and the cache folder cannot take it. This is found out before any memory is taken.
    """
    shape, chunk = (frames, *array.shape[1:]), array.shards or array.chunks
    size, free = math.prod(shape) * array.dtype.itemsize, memory_free()
    if math.prod(chunk) * array.dtype.itemsize > free:
        raise RobodiffError(f"{source}: a chunk of {key} has the shape {chunk}, more than memory has room for; "
                            "write it again with smaller chunks")  # fmt: skip
    chunks_per_frame = math.prod(-(-length // part) for length, part in zip(shape[1:], array.chunks[1:], strict=True))
    if chunks_per_frame > MOST_CHUNKS_PER_FRAME:
        raise RobodiffError(f"{source}: {key} has the shape {array.shape} in chunks of {array.chunks}: "
                            f"{chunks_per_frame} chunks a frame; write it again with larger chunks")  # fmt: skip
    if size <= free / 3:
        return np.asarray(array[:frames])
    target = cache_folder() / f"{_fingerprint(source, key, array, frames)}.npy"
    if not target.exists():
        try:
            _decode(array, frames, target)
        except OSError as error:
            raise RobodiffError(
                f"{source}: {key} takes {size / 1e9:.1f} GB, more than memory has room for, and cannot be "
                f"decoded to {target}: {error}; free some space, or set ROBODIFF_CACHE to a folder that has it"
            ) from None
    return np.load(target, mmap_mode="r", allow_pickle=False)


def _decode(array: Any, frames: int, target: Path) -> None:
    with replacing(target) as temporary:
        file = np.lib.format.open_memmap(temporary, mode="w+", dtype=array.dtype, shape=(frames, *array.shape[1:]))
        if shutil.disk_usage(temporary).free < file.nbytes:  # a mapped file that outgrows its disk kills the process
            raise OSError("the disk has no room for it")
        step = max(1, array.chunks[0])  # whole chunks, each decoded once
        for start in range(0, frames, step):
            stop = min(start + step, frames)
            file[start:stop] = array[start:stop]
        file.flush()


def memory_free() -> int:
    """Bytes of memory that can be taken without pressing others out."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * 1024**3  # not Linux: assume a small laptop


def _fingerprint(source: Path, key: str, array: Any, frames: int) -> str:
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    digest = hashlib.sha256(f"{source.resolve()}\n{key}\n{(frames, *array.shape[1:])}\n{array.dtype}".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.relative_to(source)}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
