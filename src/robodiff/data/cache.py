"""Compressed arrays, decoded once: into memory where they fit, else into a memory-mapped file."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

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
    """
    if array.nbytes <= memory_free() / 3:
        return np.asarray(array[:])
    target = cache_folder() / f"{_fingerprint(source, key, array)}.npy"
    if not target.exists():
        with replacing(target) as temporary:
            file = np.lib.format.open_memmap(temporary, mode="w+", dtype=array.dtype, shape=array.shape)
            step = max(1, array.chunks[0])
            for start in range(0, len(array), step):
                file[start : start + step] = array[start : start + step]
            file.flush()
    return np.load(target, mmap_mode="r", allow_pickle=False)


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
