"""The cache of decoded arrays: decoded once, shared between processes, refused before and while it fills."""

import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.faults.processes import run

from robodiff.data import cache
from robodiff.data.cache import Part, assembled
from robodiff.data.episodes import Finding, RecordingError
from robodiff.errors import RobodiffError

UINT8 = np.dtype(np.uint8)


class Source:
    """Three parts of 4 frames (3, 2), each frame full of its number; counts how often each part is decoded."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "source"
        self.file.write_text("a video")
        self.decoded = [0, 0, 0]
        self.fail: tuple[int, Exception] | None = None

    def parts(self) -> list[Part]:
        return [Part(self.file, 4, f"part {index}", lambda index=index: self.decode(index)) for index in range(3)]

    def decode(self, index: int) -> Iterator[np.ndarray]:
        self.decoded[index] += 1
        for start in (0, 3):
            numbers = np.arange(4)[start : start + 3] + 4 * index
            yield np.broadcast_to(numbers[:, None, None], (len(numbers), 3, 2)).astype(np.uint8)
            if self.fail is not None and self.fail[0] == index:
                raise self.fail[1]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})  # one thread, so that parts come in order
    return Source(tmp_path)


def make(source: Source, folder: Path) -> np.ndarray:
    return assembled("the camera", source.parts(), (3, 2), UINT8, folder)


def check(array: np.ndarray) -> None:
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    assert (array.shape, array.dtype) == ((12, 3, 2), np.uint8)
    np.testing.assert_array_equal(array[:, 0, 0], np.arange(12))
    assert (array == array[:, :1, :1]).all()


def test_decoded_once_until_a_source_or_a_recipe_changes(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "deep"
    check(make(source, folder))
    check(make(source, folder))
    assert source.decoded == [1, 1, 1]
    assert [p.suffix for p in folder.iterdir()] == [".npy"]  # nothing else is left
    source.file.write_text("another video")
    check(make(source, folder))
    assert source.decoded == [2, 2, 2]
    parts = [Part(p.source, p.frames, f"{p.recipe}, resized", p.decode) for p in source.parts()]
    check(assembled("the camera", parts, (3, 2), UINT8, folder))
    assert source.decoded == [3, 3, 3]


STALE = pytest.mark.kind("an image cache that is out of date")


@STALE
@pytest.mark.parametrize("edit", ["same size and time", "another file", "a link", "a linked folder"])
def test_what_is_another_source_is_decoded_anew(source: Source, tmp_path: Path, edit: str) -> None:
    folder, file = tmp_path / "cache", source.file
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    other = tmp_path / "other" / file.name
    other.parent.mkdir()
    other.write_text("A VIDEO")  # of the same size
    os.utime(other, ns=times)
    if edit == "a link":
        source.file = tmp_path / "link"
        source.file.symlink_to(file)
    elif edit == "a linked folder":
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / file.name).write_text("a video")
        os.utime(tmp_path / "here" / file.name, ns=times)
        (tmp_path / "folder").symlink_to(tmp_path / "here")
        source.file = tmp_path / "folder"
    check(make(source, folder))
    check(make(source, folder))
    assert source.decoded == [1, 1, 1]
    if edit == "same size and time":
        file.write_text("A VIDEO")
        os.utime(file, ns=times)
    elif edit == "another file":
        other.replace(file)
    else:
        source.file.unlink()
        source.file.symlink_to(other if edit == "a link" else other.parent)
    check(make(source, folder))
    assert source.decoded == [2, 2, 2]


@pytest.mark.kind("a picture whose size changes")
@pytest.mark.parametrize(
    ("block", "words"),
    [
        (np.zeros((1, 4, 2), np.uint8), r"frame 1 is uint8 \(4, 2\); expected 4 of uint8 \(3, 2\)"),
        (np.zeros((1, 3, 2), np.float32), "frame 1 is float32"),
        (np.zeros((4, 3, 2), np.uint8), r"frame 1 is uint8 \(3, 2\); expected 4"),
        (np.zeros((2, 3, 2), np.uint8), "only 3 of 4 frames"),
    ],
    ids=["shape", "type", "too many", "too few"],
)
def test_no_part_shifts_the_frames_of_another(source: Source, tmp_path: Path, block: np.ndarray, words: str) -> None:
    parts = source.parts()
    parts[1] = replace(parts[1], decode=lambda: iter([np.zeros((1, 3, 2), np.uint8), block]))
    with pytest.raises(RobodiffError, match=words):
        assembled("the camera", parts, (3, 2), UINT8, tmp_path / "cache")


def test_all_that_is_wrong_with_a_recording_is_told(source: Source, tmp_path: Path) -> None:
    def broken(episode: int) -> Iterator[np.ndarray]:
        raise RecordingError("set", [Finding("fatal", "images", f"{episode} is broken", "mend it", "key", episode)])
        yield

    parts = [replace(part, decode=partial(broken, 2 - n)) if n != 1 else part for n, part in enumerate(source.parts())]
    with pytest.raises(RecordingError, match=r"^set: 0 is broken; mend it") as caught:
        assembled("the camera", parts, (3, 2), UINT8, tmp_path / "cache")
    assert [finding.episode for finding in caught.value.findings] == [0, 2]
    assert source.decoded == [0, 1, 0]


@pytest.mark.parametrize("fault", [RobodiffError("video 1 is broken"), KeyboardInterrupt()])
def test_what_was_stopped_leaves_nothing(source: Source, tmp_path: Path, fault: Exception) -> None:
    source.fail = (1, fault)
    with pytest.raises(type(fault)):
        make(source, tmp_path / "cache")
    assert source.decoded == [1, 1, 0]
    assert not [path for path in (tmp_path / "cache").iterdir() if path.stat().st_size]
    source.fail = None
    check(make(source, tmp_path / "cache"))


def test_a_full_disk_is_told_beforehand(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10))
    told = r"^the camera: decoding takes 0 MB, and .*\.npy cannot be written: the disk has 0 MB free; free some space "
    with pytest.raises(RobodiffError, match=f"{told}there, or set data.cache_d"):
        make(source, tmp_path / "cache")
    assert source.decoded == [0, 0, 0]


def test_a_disk_that_fills_up_meanwhile(source: Source, tmp_path: Path) -> None:
    source.fail = (2, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RobodiffError, match=r"cannot be written: No space left on device; free some space there"):
        make(source, tmp_path / "cache")
    source.fail = None
    check(make(source, tmp_path / "cache"))


def test_a_folder_that_cannot_be_written(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RobodiffError, match=r"cannot be written: Not a directory; .* set data\.cache_dir"):
        make(source, source.file / "cache")
    monkeypatch.setenv("ROBODIFF_CACHE", str(source.file / "cache"))
    with pytest.raises(RobodiffError, match=r"cannot be written: Not a directory; .* set ROBODIFF_CACHE to a folder"):
        assembled("the camera", source.parts(), (3, 2), UINT8)


def test_those_who_start_together_decode_once(source: Source, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    decode = source.decode

    def slow(index: int) -> Iterator[np.ndarray]:
        begun.set()
        go_on.wait()
        yield from decode(index)

    source.decode = slow  # type: ignore[method-assign]
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(make(source, tmp_path / "cache"))) for _ in range(3)]
    threads[0].start()
    begun.wait()
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert source.decoded == [1, 1, 1]
    for array in found:
        check(array)
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".npy"]


def numbered(killed: bool) -> list[Part]:
    """Three parts of 5 frames; the process that decodes the second may be killed."""

    def decode(index: int) -> Iterator[np.ndarray]:
        if killed and index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield np.full((5, 3), index, np.uint8)

    return [Part(Path(__file__), 5, str(index), partial(decode, index)) for index in range(3)]


def is_killed(folder: Path) -> None:
    os.sched_getaffinity = lambda _: {0}
    assembled("x", numbered(killed=True), (3,), UINT8, folder)


def test_a_killed_process_leaves_nothing_that_is_in_the_way(tmp_path: Path) -> None:
    run(partial(is_killed, tmp_path)).killed()
    again = assembled("x", numbered(killed=False), (3,), UINT8, tmp_path)
    assert again[:, 0].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_the_folder_is_the_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path))
    assert cache.cache_folder() == tmp_path
    monkeypatch.delenv("ROBODIFF_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache.cache_folder() == tmp_path / ".cache" / "robodiff"
