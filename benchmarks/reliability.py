"""Cause every fault of tests/faults, count what tests try of each kind, and write it to docs/reliability.md.

python -m benchmarks.reliability
"""

import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.faults import broken, full, inputs, killed
from tests.faults.catalogue import FAULTS, Fault, Place, prepare
from tests.faults.processes import Seen

from benchmarks.common import markdown

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
HEAD = """# Reliability

Every fault in these tables is caused for real, in a process of its own, and what is said to be kept is checked; the
same is done by `make test-all`. The tables are made by `python -m benchmarks.reliability`. `RUN` is a run's folder,
`OUT` what `--out` names, `DATA` a recording.

How it is done: files are written beside their target, synced and renamed; folders, too, and a reader finds the last
whole one even where a process was killed between two renames. What killed processes left is cleared up by the next that
writes the same file. A run, an evaluation's folder and a recording are held by one process at a time, with a lock that
the kernel gives back. Weights that are not finite are never saved. `config.json` holds the hash of the weights that
were saved with it, a checkpoint its own hash as the comment of the zip archive that it is: so there is no moment at
which a file and its hash could differ.
"""
KINDS = """## Silently wrong, elsewhere or once

Each kind below gave wrong results without a word, or refused what is right, in bug reports of toolkits like this one or
in an earlier version of it. A try is one input of that kind in a test marked with it (`pytest -m kind`), of which the
right answer, or the refusal in a line or two, is checked.

"""
TABLES = {"Killed, and two at one place": killed, "Full disks": full, "Broken": broken, "Bad input": inputs}


def main() -> None:
    parts = [HEAD]
    with TemporaryDirectory() as folder:
        (Path(folder) / "finished").mkdir()
        finished = prepare(Path(folder) / "finished")
        for title, module in TABLES.items():
            faults = [fault for fault in FAULTS if fault.module == module.__name__]
            rows = [row(fault, Path(folder) / str(FAULTS.index(fault)), finished) for fault in faults]
            parts.append(f"## {title}\n\n{markdown(rows)}\n")
    PAGE.write_text("\n".join([*parts, KINDS + markdown(kinds()) + "\n"]))


class Tries:
    """Count, as a plugin of pytest, what became of the tests of each kind."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.outcomes: dict[str, Counter[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note of which kind each test is."""
        self.kinds = {item.nodeid: mark.args[0] for item in items if (mark := item.get_closest_marker("kind"))}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that was called, or was not."""
        if report.when == "call" or report.outcome == "skipped":
            self.outcomes.setdefault(self.kinds[report.nodeid], Counter())[report.outcome] += 1


def kinds() -> list[dict[str, str]]:
    """Run the tests that are marked with a kind."""
    tries = Tries()
    pytest.main(["-m", "kind", "-n", "0", "-q"], plugins=[tries])
    return [
        {
            "kind": kind,
            "tries": str(outcomes.total() - outcomes["skipped"]),
            "right": str(outcomes["passed"]),
            "not tried": str(outcomes["skipped"]),
        }
        for kind, outcomes in sorted(tries.outcomes.items())
    ]


def row(fault: Fault, folder: Path, finished: Path) -> dict[str, str]:
    """Cause one fault."""
    print(fault.name, flush=True)
    folder.mkdir()
    try:
        seen = said(fault.happen(Place(folder, finished)), folder, finished)
    except pytest.skip.Exception as reason:
        seen = f"not caused: {reason}"
    return {
        "fault": fault.name,
        "how it is caused": fault.cause,
        "what the user sees": seen,
        "what is kept": fault.kept,
    }


def said(seen: Seen, *folders: Path) -> str:
    """What a process printed, without the paths and process ids of this machine."""
    if seen.code < 0:
        return "the process is gone"
    if not seen.err:
        return f"nothing (exit code {seen.code})"
    text = seen.err.strip()
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    text = (
        re.sub(r"process \d+", "process 12345", re.sub(r"\w+\.npy", "FILE.npy", text))
        .replace("|", "\\|")
        .replace("\n", "`<br>`")
    )
    return f"`{text}` (exit code {seen.code})"


if __name__ == "__main__":
    main()
