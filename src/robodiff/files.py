"""Files that are either whole or absent: written beside their target, then renamed onto it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it is synced to disk and takes the target's place.

    The caller may make a file or a folder of it. If the body raises, the temporary is removed and an earlier target is
    left as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        for path in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
            _sync(path)
        if temporary.is_dir() and target.exists():  # a rename cannot replace a folder that holds something
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            target.rename(old)
            temporary.rename(target)
            _remove(old)
        else:
            os.replace(temporary, target)
        _sync(target.parent)
    finally:
        _remove(temporary)


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all; NaN and infinity are refused (they are not JSON)."""
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


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
