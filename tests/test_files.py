"""Whole files, whole lines, and folders that one process holds."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import filelock
import pytest

from robodiff.data.recordings import open_path
from robodiff.documents import read_json, write_json
from robodiff.errors import RobodiffError, UsageError
from robodiff.files import locked, naming, read_rows, reading, replacing, standing


def folder_of(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "a").write_text(text)


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    folder_of(tmp_path / "f", "old")
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "f") as temporary:
        shutil.copytree(tmp_path, temporary / "within").write_text("a folder")
    assert (tmp_path / "f" / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_what_killed_processes_left_is_cleared_up_and_what_others_write_is_not(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above the largest process id
    left, others, anything = (tmp_path / f".f.{process}.tmp" for process in (dead, os.getppid(), "draft"))
    for path in (left, others, anything):
        path.write_text("half")
    write_json(tmp_path / "f", {})
    assert not left.exists()
    assert others.exists()
    assert anything.exists()


def test_a_folder_whose_replacement_was_killed_halfway_still_stands(tmp_path: Path) -> None:
    folder_of(tmp_path / "f", "old")
    (tmp_path / "f").rename(tmp_path / ".f.old")  # where a process stops between the two renames
    assert (standing(tmp_path / "f") / "a").read_text() == "old"
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "f"):
        raise ZeroDivisionError
    assert standing(tmp_path / "f") == tmp_path / "f"
    assert (tmp_path / "f" / "a").read_text() == "old"
    folder_of(tmp_path / "f", "new")
    assert (tmp_path / "f" / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["f"]


def test_errors_of_the_system_name_what_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device: 'inner'"), naming(Path("outer")), naming(Path("inner")):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(OSError, match=f"{tmp_path}/full'") as caught, replacing(tmp_path / "full"):
        Path("/dev/full").write_text("x")
    assert caught.value.errno == errno.ENOSPC


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        with (
            pytest.raises(RobodiffError, match="run: another process is writing to it"),
            locked(tmp_path / "run"),
        ):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "run"):
        pass
    assert os.listdir(tmp_path / "run") == []
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UsageError, match="file: is a file, which stays as it is"), locked(tmp_path / "file"):
        pass


def test_where_a_file_system_knows_no_locks_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_only_whole_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    assert read_rows(file, "step") == []
    file.write_text("step,loss\n1,0.5\n2,0.")
    assert read_rows(file, "step") == [{"step": "1", "loss": "0.5"}]
    file.write_text("step,loss\n1,0.5\n23,0.25\n3,0.1\n2,0.4,7\n4\n")
    assert [row["step"] for row in read_rows(file, "step")] == ["1", "23", "3"]
    file.write_bytes(b"step,loss\n1,0.\xff5\n2,0.25\n")
    assert [row["step"] for row in read_rows(file, "step")] == ["1", "2"]
    for content, message in (("stop,loss\n1,0.5\n", "has no column 'step'"), ("step\n" + "1" * 200_000 + "\n", "CSV")):
        file.write_text(content)
        with pytest.raises(RobodiffError, match=rf"metrics\.csv: .*{message}"):
            read_rows(file, "step")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.kind("a pointer of Git LFS in the place of a file")
@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.npz", "x.npy", "x.h5", "x.zarr.zip", "x.mp4", "x.png", "x"])
def test_pointers_of_git_lfs_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(RobodiffError, match=rf"{name}: is a pointer of Git LFS, .* git lfs pull"):
        open_path(str(tmp_path / name))


@pytest.mark.kind("a pointer of Git LFS in the place of a file")
def test_a_pointer_deep_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "set/data").mkdir(parents=True)
    (tmp_path / "set/data/0.0").write_text(POINTER)
    with pytest.raises(RobodiffError, match=r"data/0\.0: is a pointer of Git LFS"), reading(tmp_path / "set", "x"):
        raise ValueError("a chunk of the wrong length")
    with pytest.raises(RobodiffError, match="is a pointer of Git LFS"):
        read_json(tmp_path / "set/data/0.0", dict, "")
