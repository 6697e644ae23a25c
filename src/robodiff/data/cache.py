"""Compressed sources, decoded once: into memory where they fit, else into a memory-mapped file.

A cache file is named by a fingerprint of its sources, and has its name only when it is whole. Processes that start
together decode once: one does, and the others wait for it.
"""

import errno
import hashlib
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

from robodiff.data.episodes import RecordingError
from robodiff.errors import RobodiffError
from robodiff.files import replacing, with_home
from robodiff.machine import cores, memory_free


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
    """Yields them in order, in blocks (n, ...); a ``RecordingError`` does not keep other parts from being decoded, so
    that all that is wrong is told."""


MOST_CHUNKS_PER_FRAME = 10_000
"""Absent chunks read as zeros, so that a broken shape can ask for any number of them."""


def cache_folder() -> Path:
    """Return where decoded data is kept: ``ROBODIFF_CACHE``, or ``~/.cache/robodiff``."""
    return Path(os.environ.get("ROBODIFF_CACHE") or Path.home() / ".cache" / "robodiff")


def folder_of(cache_dir: str | None) -> Path | None:
    """Return the folder that ``DataConfig.cache_dir`` names."""
    return None if cache_dir is None else Path(with_home(cache_dir))


def decoded(
    source: Path,
    key: str,
    array: Any,
    frames: int,
    make: Callable[[np.ndarray, int], np.ndarray] | None = None,
    cache: Path | None = None,
) -> np.ndarray:
    """Decode the first frames of a zarr array (N, ...), at most once for the same source.

    An array of more than a third of the memory that is free becomes a memory-mapped file in the cache folder.

    Args:
        source: the file or folder that holds it.
        key: which of its arrays it is.
        array: the zarr array.
        frames: how many of its N frames are wanted.
        make: makes of a block (n, ...) and its first frame what is kept of it; it names itself for the cache. All as it
            is when None.
        cache: the cache folder; ``cache_folder()`` when None.

    Raises:
        RobodiffError: a chunk does not fit in memory, frames are cut into too many, or the array does not fit in
            memory and the cache folder cannot take it. This is found out before any memory is taken.
    """
    chunk, free, itemsize = array.shards or array.chunks, memory_free(), array.dtype.itemsize
    chunks = math.prod(-(-length // part) for length, part in zip(array.shape[1:], array.chunks[1:], strict=True))
    what = f"{source}: {key} has the shape {array.shape} in chunks of {chunk}"
    if math.prod(chunk) * itemsize > free:
        raise RobodiffError(f"{what}, more than memory has room for; write it again with smaller ones")
    if chunks > MOST_CHUNKS_PER_FRAME:
        raise RobodiffError(f"{what}: {chunks} chunks a frame; write it again with larger ones")
    starts = range(0, frames, max(1, array.chunks[0]))  # whole chunks, each decoded once

    def block(start: int) -> np.ndarray:
        values = np.asarray(array[start : min(start + starts.step, frames)])
        return values if make is None else make(values, start)

    if frames * math.prod(array.shape[1:]) * itemsize <= free / 3:
        return np.asarray(array[:frames]) if make is None else np.concatenate([*map(block, starts)])
    first, recipe = block(0), f"{key} {getattr(make, 'recipe', '')}".strip()
    part = Part(source, frames, recipe, lambda: map(block, starts))
    return assembled(f"{source}: {key}", [part], first.shape[1:], first.dtype, cache)


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
    shape = (sum(part.frames for part in parts), *shape)
    name = _fingerprint(parts, shape, dtype)
    return cached(f"{what}: decoding", name, shape, dtype, lambda path: _fill(parts, shape, dtype, path), folder)


def cached(
    doing: str,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    write: Callable[[Path], None],
    folder: Path | None = None,
) -> np.ndarray:
    """Return the array that the cache has under a name, memory-mapped; it is written first where there is none.

    Args:
        doing: what is done to make it, for messages.
        name: a fingerprint of all that it is made of.
        shape: of the array.
        dtype: of its elements.
        write: writes it to a path, as a .npy file.
        folder: where the cache file goes; ``cache_folder()`` when None.

    Raises:
        RobodiffError: the folder cannot take it; told before anything is made where the disk lacks the room.
    """
    from filelock import FileLock
    from rich.console import Console

    from robodiff.progress import say

    place, folder = ("ROBODIFF_CACHE", cache_folder()) if folder is None else ("data.cache_dir", folder)
    target = folder / f"{name}.npy"
    size = math.prod(shape) * dtype.itemsize
    lock = target.with_name(f".{target.name}.lock")
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):
                if not target.exists():  # else another process made it while this one waited
                    if size > (free := shutil.disk_usage(folder).free):
                        raise OSError(errno.ENOSPC, f"the disk has {_gigabytes(free)} free")
                    say(Console(stderr=True), f"{doing} once into {target} ({_gigabytes(size)})")
                    with replacing(target) as temporary:
                        write(temporary)
                lock.unlink(missing_ok=True)
    except OSError as error:
        failure = f"takes {_gigabytes(size)}, and {target} cannot be written: {error.strerror or error}"
        advice = f"free some space there, or set {place} to a folder that can take it"
        raise RobodiffError(f"{doing} {failure}; {advice}") from None
    return np.load(target, mmap_mode="r", allow_pickle=False)


def _fill(parts: Sequence[Part], shape: tuple[int, ...], dtype: np.dtype, path: Path) -> None:
    """Write all parts; on an error or Ctrl-C the others stop at their next block.

    Each part writes its own frames, of the one shape: another would shift all that come after it.
    """
    from rich.console import Console

    from robodiff.progress import bar

    header = np.lib.format.open_memmap(path, "w+", dtype, shape).offset
    frame_size = math.prod(shape[1:]) * dtype.itemsize
    starts = header + np.cumsum([0, *(part.frames for part in parts)]) * frame_size
    done, stop = [0] * len(parts), Event()
    faults: list[RecordingError] = []

    def work(index: int, part: Part) -> None:
        # Written, not mapped: where the disk is full, a write says so, and a store to mapped memory kills the process.
        with stopping_others(), path.open("r+b") as file:
            file.seek(int(starts[index]))
            blocks = part.decode()
            while not stop.is_set() and (block := next(blocks, None)) is not None:
                if (block.shape[1:], block.dtype) != (shape[1:], dtype) or done[index] + len(block) > part.frames:
                    form = f"{block.dtype} {block.shape[1:]}; expected {part.frames} of {dtype} {shape[1:]}"
                    raise RobodiffError(f"{part.source}: frame {done[index]} is {form}")
                file.write(np.ascontiguousarray(block).data)
                done[index] += len(block)
            if done[index] < part.frames and not stop.is_set():
                raise RobodiffError(f"{part.source}: only {done[index]} of {part.frames} frames can be decoded")

    @contextmanager
    def stopping_others() -> Iterator[None]:
        try:
            yield
        except RecordingError as error:
            faults.append(error)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(cores()) as pool, bar(Console(stderr=True), "frames", shape[0]) as show, stopping_others():
        pending = {pool.submit(work, index, part) for index, part in enumerate(parts)}
        while pending:
            finished, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
            show(sum(done))
            for future in finished:
                future.result()
    if faults:
        findings = sorted((each for error in faults for each in error.findings), key=lambda each: each.episode or 0)
        raise RecordingError(next(error.source for error in faults if findings[0] in error.findings), findings)


def _fingerprint(parts: Sequence[Part], shape: tuple[int, ...], dtype: np.dtype) -> str:
    digest = hashlib.sha256(f"{shape}\n{dtype}\n".encode())
    for part in parts:
        digest.update(f"{part.frames}\n{part.recipe}\n{_state(part.source.resolve())}\n".encode())
    return digest.hexdigest()[:24]


def _state(source: Path) -> str:
    """Return what changes when a file, or one in a folder, does."""
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    return "\n".join(map(file_state, files))


def file_state(file: Path) -> str:
    """Return what changes when a file is written, or a link comes to lead to another.

    The inode changes where a file takes the place of another, and ``st_ctime`` with every write: nobody can set it
    back, as he can ``st_mtime``.
    """
    status = file.stat()
    return f"{file}\n{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
