"""Compressed arrays, decoded once: into memory where they fit, else into a memory-mapped file."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.errors import RobodiffError
from robodiff.files import replacing


def cache_folder() -> Path:
    """Where decoded data is kept: ``ROBODIFF_CACHE``, or ``~/.cache/robodiff``."""
    return Path(os.environ.get("ROBODIFF_CACHE") or Path.home() / ".cache" / "robodiff")


def decoded(source: Path, key: str, array: Any) -> np.ndarray:
    """Decode a zarr array (N, ...), at most once for the same source.

    An array of more than a third of the memory that is free becomes a memory-mapped file in the cache folder, named by
    a fingerprint of its source, and is found there the next time.

    Args:
        source: the file or folder that holds it.
        key: which of its arrays it is.
        array: the zarr array.

    Raises:
        RobodiffError: it does not fit in memory, and the cache folder cannot take it.
    """
    if array.nbytes <= memory_free() / 3:
        return np.asarray(array[:])
    target = cache_folder() / f"{_fingerprint(source, key, array)}.npy"
    if not target.exists():
        try:
            _decode(array, target)
        except OSError as error:
            raise RobodiffError(
                f"{source}: {key} takes {array.nbytes / 1e9:.1f} GB, more than memory has room for, and cannot be "
                f"decoded to {target}: {error}; free some space, or set ROBODIFF_CACHE to a folder that has it"
            ) from None
    return np.load(target, mmap_mode="r", allow_pickle=False)


def _decode(array: Any, target: Path) -> None:
    with replacing(target) as temporary:
        file = np.lib.format.open_memmap(temporary, mode="w+", dtype=array.dtype, shape=array.shape)
        step = max(1, array.chunks[0])  # whole chunks, each decoded once
        for start in range(0, array.shape[0], step):
            file[start : start + step] = array[start : start + step]
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


def _fingerprint(source: Path, key: str, array: Any) -> str:
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    digest = hashlib.sha256(f"{source.resolve()}\n{key}\n{array.shape}\n{array.dtype}".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.relative_to(source)}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
