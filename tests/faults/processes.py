"""Commands as processes of their own that can be killed, forked from one that has imported everything already."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tests.conftest import empty_panel

from robodiff.cli.main import main
from robodiff.report import figures

Trouble = Callable[[], None]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["robodiff.training.fit", "robodiff.evaluation.evaluate", "robodiff.data.formats.lerobot", "robodiff.report.run",
     "robodiff.envs.pusht", "robodiff.envs.pusht.expert", "robodiff.data.formats.zarr", "robodiff.cli.fit", "av",
     "gym_pusht", "cv2", "tests.faults.processes"]
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What was seen of a process: its exit code (minus the signal that ended it), and what it printed."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *parts: str) -> "Seen":
        """Check that it ended in one or two lines that hold all of ``parts``."""
        assert self.code == code, self
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.strip().splitlines() if ": decoding once into " not in line]  # what is done
        assert 1 <= len(lines) <= 2, self.err
        for part in parts:
            assert part in self.err, self.err
        return self

    def done(self) -> "Seen":
        """Check that it went well."""
        assert self.code == 0, self
        return self

    def killed(self) -> "Seen":
        """Check that it was killed."""
        assert self.code < 0, self
        return self


class Running:
    """A function, or ``robodiff`` with arguments, in a process of its own.

    Args:
        what: the function, or the arguments.
        trouble: is called first, in that process.
    """

    def __init__(self, *what: Any, trouble: Trouble | None = None) -> None:
        self._folder = TemporaryDirectory()
        work = what[0] if callable(what[0]) else partial(main, [str(part) for part in what])
        self.process = _context.Process(target=_run, args=(work, Path(self._folder.name), trouble))
        self.process.start()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Wait until something is so, while the process runs."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), self.end()
            assert time.monotonic() < end, f"it hangs: {self.kill()}"
            time.sleep(0.01)

    def kill(self) -> Seen:
        """kill -9."""
        self.process.kill()
        return self.end()

    def end(self, seconds: float = 300) -> Seen:
        """Wait for its end."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it hangs"
        with self._folder:
            out, err = ((Path(self._folder.name) / name).read_text() for name in ("out", "err"))
        return Seen(self.process.exitcode, out, err)


def run(*what: Any, trouble: Trouble | None = None) -> Seen:
    """Run a function, or ``robodiff`` with arguments, to its end."""
    return Running(*what, trouble=trouble).end()


def _run(work: Callable[[], Any], folder: Path, trouble: Trouble | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes are born deaf to it
    torch.set_num_threads(1)
    figures.panel = empty_panel  # pyright: ignore[reportAttributeAccessIssue]
    if trouble is not None:
        trouble()
    work()


def full_disk(largest_file: int) -> Trouble:
    """Let no file become larger than so many bytes: writing fails as on a full disk, and needs no privilege."""
    return partial(_limit, largest_file, signal.SIG_IGN)


def killed_in_a_write(largest_file: int) -> Trouble:
    """Kill the process when it has written so many bytes to a file."""
    return partial(_limit, largest_file, signal.SIG_DFL)


def _limit(largest_file: int, on_more: Any) -> None:
    signal.signal(signal.SIGXFSZ, on_more)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def killed_at(change: int, folder: Path) -> Trouble:
    """kill -9 just before the ``change``-th change of the file system within a folder (0 is the first)."""
    return partial(_kill_at, change, str(folder))


def _kill_at(change: int, folder: str) -> None:
    def before(event: str, arguments: tuple) -> None:
        nonlocal change
        writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
            event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        )
        if writes and str(arguments[0]).startswith(folder):
            if change == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            change -= 1

    sys.addaudithook(before)
