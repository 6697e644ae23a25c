"""Compressed sources, decoded once: into memory where they fit, else into a memory-mapped file.

A cache file is named by a fingerprint of its sources, and has its name only when it is whole. Until then it is
``.<name>.partial``: the array, and behind it one byte for each part, set when that part is decoded. Whoever goes on
with it decodes only what is missing, and holds a lock on it meanwhile: processes that start together decode once.
"""

import errno
import fcntl
import hashlib
import io
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from rich.console import Console

from robodiff.errors import RobodiffError
from robodiff.machine import cores
from robodiff.progress import bar, say


@dataclass(frozen=True)
class Part:
    """Consecutive frames of an array, decoded from one source by one thread."""

    source: Path
    """The file or folder that they come from."""
    frames: int
    """How many there are."""
    recipe: str
    """What of the source they are, and how they are made of it; another recipe is another cache."""
    decode: Callable[[], Iterator[np.ndarray]]
    """Yields them in order, in blocks (n, ...)."""


MOST_CHUNKS_PER_FRAME = 10_000
"""Absent chunks read as zeros, so that a broken shape can ask for any number of them."""


def cache_folder() -> Path:
    """Where decoded data is kept: ``ROBODIFF_CACHE``, or ``~/.cache/robodiff``."""
    return Path(os.environ.get("ROBODIFF_CACHE") or Path.home() / ".cache" / "robodiff")


def decoded(source: Path, key: str, array: Any, frames: int) -> np.ndarray:
    """Decode the first frames of a zarr array (N, ...), at most once for the same source.

    An array of more than a third of the memory that is free becomes a memory-mapped file in the cache folder.

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
    step = max(1, array.chunks[0])  # whole chunks, each decoded once

    def blocks() -> Iterator[np.ndarray]:
        return (np.asarray(array[start : min(start + step, frames)]) for start in range(0, frames, step))

    return assembled(f"{source}: {key}", [Part(source, frames, key, blocks)], array.shape[1:], array.dtype)


def assembled(
    what: str, parts: Sequence[Part], shape: tuple[int, ...], dtype: np.dtype, folder: Path | None = None
) -> np.ndarray:
    """Decode parts, several at once, into one memory-mapped array (N, *shape), at most once for the same sources.

    Args:
        what: what is decoded, for messages.
        parts: what the array consists of, in order.
        shape: of one frame.
        dtype: of its elements.
        folder: where the cache file goes; ``cache_folder()`` when None.

    Raises:
        RobodiffError: the folder cannot take it (told before decoding where the disk lacks the room), or a source
            cannot be decoded.
    """
    place, folder = ("ROBODIFF_CACHE", cache_folder()) if folder is None else ("data.cache_dir", folder)
    shape = (sum(part.frames for part in parts), *shape)
    target = folder / f"{_fingerprint(parts, shape, dtype)}.npy"
    if not target.exists():
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _make(what, parts, shape, dtype, size, target)
        except OSError as error:
            raise RobodiffError(
                f"{what}: takes {_gigabytes(size)} decoded, and {target} cannot be written: {error.strerror or error}; "
                f"free some space there, or set {place} to a folder that can take it"
            ) from None
    return np.load(target, mmap_mode="r", allow_pickle=False)


def _make(what: str, parts: Sequence[Part], shape: tuple[int, ...], dtype: np.dtype, size: int, target: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    start, end = header.tell(), header.tell() + size
    with _locked(target.with_name(f".{target.name}.partial")) as file:
        if target.exists():  # another process has made it while this one waited for the lock
            os.unlink(file.name)
            return
        status = os.stat(file.name)
        missing, free = end - status.st_blocks * 512, shutil.disk_usage(target.parent).free
        if missing > free:
            raise OSError(errno.ENOSPC, f"the disk has {_gigabytes(free)} free")
        if status.st_size < end + len(parts):  # new, or stopped before any part was begun
            file.write(header.getvalue())
            file.truncate(end + len(parts))
        file.seek(end)
        done = file.read(len(parts))
        console = Console(stderr=True)
        say(console, f"{what}: decoding once into {target} ({_gigabytes(size)})")
        _fill(Path(file.name), parts, done, start, size // max(shape[0], 1), end, console)
        file.truncate(end)
        os.fsync(file.fileno())
        os.replace(file.name, target)


def _fill(
    path: Path, parts: Sequence[Part], done: bytes, start: int, frame_size: int, end: int, console: Console
) -> None:
    """Decode the parts that are not done; on a fault or Ctrl-C the others stop at their next block."""
    first_frames = np.cumsum([0, *(part.frames for part in parts)])
    missing = [index for index in range(len(parts)) if not done[index]]
    decoded, stop = [0] * len(parts), Event()

    def work(index: int) -> None:
        # Written, not mapped: where the disk is full, a write says so, and a store to mapped memory kills the process.
        with path.open("r+b", buffering=0) as file:
            file.seek(start + int(first_frames[index]) * frame_size)
            for block in parts[index].decode():
                view = np.ascontiguousarray(block).data.cast("B")
                while view:
                    view = view[file.write(view) :]
                decoded[index] += len(block)
                if stop.is_set():
                    return
            assert decoded[index] == parts[index].frames
            os.fsync(file.fileno())
            file.seek(end + index)
            file.write(b"\1")

    def work_unless_stopped(index: int) -> None:
        try:
            if not stop.is_set():
                work(index)
        except BaseException:
            stop.set()
            raise

    with (
        ThreadPoolExecutor(cores()) as pool,
        bar(console, "frames", sum(parts[index].frames for index in missing)) as show,
    ):
        futures = [pool.submit(work_unless_stopped, index) for index in missing]
        try:
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                show(sum(decoded))
                for future in finished:
                    future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[io.FileIO]:
    """Open or create a file and lock it; waits while another process holds it."""
    while True:
        with open(path, "r+b", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_CREAT)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):  # not renamed by another process while this one waited
                yield file
                return


def _is_at(path: Path, file: io.FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def memory_free() -> int:
    """Bytes of memory that can be taken without pressing others out."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * 1024**3  # not Linux: assume a small laptop


def _fingerprint(parts: Sequence[Part], shape: tuple[int, ...], dtype: np.dtype) -> str:
    digest = hashlib.sha256(f"{shape}\n{dtype}\n".encode())
    for part in parts:
        digest.update(f"{part.frames}\n{part.recipe}\n{_state(part.source.resolve())}\n".encode())
    return digest.hexdigest()[:24]


def _state(source: Path) -> str:
    """What changes when a file, or one in a folder, does."""
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    states = [(file, file.stat()) for file in files]
    return "\n".join(f"{file}\n{status.st_size}\n{status.st_mtime_ns}" for file, status in states)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
