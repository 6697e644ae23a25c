"""The process that reads inputs: ``python -m tests.fuzz TARGET SEED FIRST [COUNT]``.

It announces each input before it reads it, so that whoever started it knows which one killed it, and names those that
raised what they should not. Without COUNT it repeats one input, and shows what was done to the files and what came of
it.
"""

import faulthandler
import os
import resource
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.fuzz.mutations import Files
from tests.fuzz.targets import TARGETS, Target

from robodiff.errors import RobodiffError

SECONDS = 60
"""For one input of a few kilobytes, which takes milliseconds: longer takes only what never ends."""
MEMORY = 2 * 1024**3
FILE_SIZE = 256 * 1024**2


def main(name: str, seed: str, first: str, count: str = "1") -> None:
    """Read inputs ``first`` to ``first + count``; each is made of the target's name, the seed and its number alone."""
    target, repeated, refused = TARGETS[name], len(sys.argv) == 4, 0
    # Elsewhere, half of the time would be spent on removing files.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        base, place = Path(temporary) / "base", Path(temporary) / "input"
        os.environ["ROBODIFF_CACHE"] = str(Path(temporary) / "cache")
        files = _base(target, base)
        _limit()
        for number in range(int(first), int(first) + int(count)):
            print(f"input {number}", flush=True)
            changed, done = _mutated(files, target, Random(f"{name} {seed} {number}"))
            shutil.rmtree(place, ignore_errors=True)
            _write(changed, place)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                target.load(place)
            except RobodiffError as error:
                refused += 1
                if repeated:
                    print(f"{done}: {type(error).__name__}: {error}")
            except Exception as error:
                print(f"finding {number} {done}: {type(error).__name__}", flush=True)
                if repeated:
                    raise
            faulthandler.cancel_dump_traceback_later()
    print(f"done: {int(count) - refused} read, {refused} refused")


def _base(target: Target, folder: Path) -> Files:
    """The valid files; they are read once, so that what reading imports is there before memory is limited."""
    folder.mkdir()
    target.base(folder)
    target.load(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _mutated(files: Files, target: Target, random: Random) -> tuple[Files, str]:
    changed = dict(files)
    mutators = [random.choice(target.mutators) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    for mutate in mutators:
        mutate(changed, random)
    return changed, " ".join(mutate.__name__ for mutate in mutators)


def _write(files: Files, folder: Path) -> None:
    folder.mkdir()  # first, so that no mutated name can make a link of it
    for name, content in sorted(files.items(), key=lambda item: isinstance(item[1], Path)):  # links last: not followed
        path = folder / name
        with suppress(OSError):  # what was to be a file and is a folder, or the other way
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                path.symlink_to(content)
            else:
                path.write_bytes(content)


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, most in ((resource.RLIMIT_AS, used + MEMORY), (resource.RLIMIT_FSIZE, FILE_SIZE)):
        resource.setrlimit(limit, (most, most))


if __name__ == "__main__":
    faulthandler.enable()
    main(*sys.argv[1:])
