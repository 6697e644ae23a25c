"""Files that are either whole or absent, folders that one process at a time writes to, and lines that are whole."""

import csv
import errno
import glob
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robodiff.errors import RobodiffError, UsageError

LOCK_FILE = ".lock"
_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that Git LFS left in the place of one that it has not fetched."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What network file systems without locks say."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it is synced to disk and takes the target's place.

    The caller may make a file or a folder of it. If the body raises, the temporary is removed and an earlier target is
    left as it was. What a process that was killed here left behind is cleared up by the next that writes the target.

    A rename cannot replace a folder that holds something, so an earlier one is moved aside first. A process killed
    between the two renames leaves no target: those who read folders ask ``standing`` where the last whole one is.
    """
    if target.name in ("", ".."):
        raise RobodiffError(f"{target}: is not the name of a file; choose another path")
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with naming(target):
            yield temporary
            for path in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
                _sync(path)
            if temporary.is_dir() and target.exists():
                target.rename(_aside(target))
            os.replace(temporary, target)
            _sync(target.parent)
    finally:
        _clear_up(target)


def standing(target: Path) -> Path:
    """Return ``target``, or where its predecessor is if a process was killed between the two renames."""
    return _aside(target) if not target.exists() and _aside(target).exists() else target


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make errors of the operating system in the body name ``path``: a full disk is met by a write, which does not.

    Where one is within another, the inner names it.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error.__cause__, OSError):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Name the file in whatever goes wrong while it is read: none of the libraries that read files does.

    For a damaged file they raise anything: an AttributeError for metadata that is JSON but no object, a SystemError for
    a Blosc chunk of a negative size, a SyntaxError for a PNG, exceptions of their own.

    Args:
        path: of the file.
        what: it should be, such as "a video".

    Raises:
        RobodiffError: the file is missing, is not ``what``, or is damaged.
    """
    check_file(path)
    try:
        yield
    except BlockingIOError:
        raise RobodiffError(f"{path}: another process is writing to it; wait until it has ended") from None
    except (RobodiffError, ImportError):  # they say enough
        raise
    except Exception as error:
        for inner in path.rglob("*") if path.is_dir() else ():
            check_file(inner)
        text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
        problem = (
            f"is not {what}, or a broken one: {text.splitlines()[0][:200]}" if os.path.exists(path) else "is missing"
        )
        raise RobodiffError(f"{path}: {problem}; copy or download it again") from None


def with_home(path: str) -> str:
    """Return a path with the home folder in place of ``~`` or ``~user``.

    Raises:
        UsageError: there is no such user.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UsageError(f"{path}: there is no such user; write ./{path} if the name begins with ~")
    return expanded


def is_repository(path: str) -> bool:
    """Tell whether a path names a repository of the Hugging Face hub: written owner/name, and nothing is there."""
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).exists()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make ``folder``, if need be, and hold it for this process alone.

    The kernel gives it back when the process ends, however it ends. Where a file system knows no locks, nothing is
    held.

    Raises:
        RobodiffError: another process holds it.
        UsageError: it is a file.
    """
    from filelock import FileLock, Timeout  # takes longer than --help may

    if folder.is_file():
        raise UsageError(f"{folder}: is a file, which stays as it is; name a folder to write to")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RobodiffError(f"{folder}: another process is writing to it; wait until it ends, or stop it") from None
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        (folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()


def read_rows(path: Path, needed: str) -> list[dict[str, str]]:
    """Return the whole lines of a CSV file that is appended to, without what a killed process wrote of another.

    Bytes that are no text become replacement characters: one of them is no reason to lose the other lines.

    Raises:
        RobodiffError: its head has not the column that is needed.
    """
    with reading(path, "a CSV file"):
        text = path.read_text(errors="replace") if path.exists() else ""
        rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
        if rows.fieldnames is not None and needed not in rows.fieldnames:
            raise RobodiffError(f"{path}: has no column {needed!r}; mend its first line, or move it elsewhere")
        return [row for row in rows if None not in row and None not in row.values()]


def check_file(path: Path) -> None:
    """Refuse what has no end, a device or a pipe, and what only stands for a file.

    Raises:
        RobodiffError: it is neither a file nor a folder, or a pointer of Git LFS.
    """
    try:
        status = path.stat()  # once: what is read may be replaced meanwhile
        is_small_file = stat.S_ISREG(status.st_mode) and status.st_size < 1024
        content = path.read_bytes() if is_small_file else b""
    except (OSError, ValueError):  # which those who read it tell
        return
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise RobodiffError(f"{path}: is neither a file nor a folder; remove it")
    check_pointer(path, content)


def check_pointer(path: Path, content: bytes) -> None:
    """Refuse a file that is a pointer of Git LFS, by how it begins."""
    if content.startswith(_POINTER):
        advice = "fetch what it stands for with git lfs pull, in its repository"
        raise RobodiffError(f"{path}: is a pointer of Git LFS, not the file itself; {advice}")


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _clear_up(target: Path) -> None:
    """Put back what was moved aside and not replaced, and remove what ended processes, or this one, left."""
    if not target.exists() and _aside(target).exists():
        _aside(target).rename(target)
    _remove(_aside(target))
    for temporary in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        process = temporary.name.split(".")[-2]
        if process.isdigit() and (int(process) == os.getpid() or not _is_alive(int(process))):
            _remove(temporary)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
