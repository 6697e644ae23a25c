"""Whatever a file holds, it is read or refused: no other error, no crash, no hang, no memory without bound.

Thousands of damaged inputs are made of a few small valid files: ``mutations.py`` lists what can happen to files,
``targets.py`` the readers, and ``__main__.py`` is the process that reads one input after another within limits of
memory and time. An input is made of the target's name, the seed and its number alone, so that each failure prints the
command that repeats it. To find more than these inputs do: ``make fuzz``, with another seed each time. To cover a new
format, add a target; when a fault slips through that a mutation would have found, add the mutation.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SEED = os.environ.get("ROBODIFF_FUZZ_SEED", "0")
TIMES = int(os.environ.get("ROBODIFF_FUZZ_TIMES", "1"))
INPUTS = {
    "zarr2": 200,
    "zarr3": 200,
    "zip": 150,
    "hdf5": 150,
    "aloha": 100,
    "maniskill": 100,
    "npz": 100,
    "csv": 100,
    "parquet": 100,
    "mapped": 100,
    "lerobot2": 150,
    "lerobot3": 100,
    "policy": 100,
    "config": 150,
}
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", INPUTS)
def test_every_input_is_read_or_refused(target: str) -> None:
    inputs = INPUTS[target] * TIMES
    command = [sys.executable, "-m", "tests.fuzz", target, SEED]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, "0", str(inputs)], capture_output=True, text=True, errors="replace", cwd=ROOT, env=environment
    )
    numbers = re.findall(r"^input (\d+)$", run.stdout, re.MULTILINE)
    assert numbers, f"{target}: the valid files are not read\n{run.stderr}"
    findings = re.findall(r"^finding (\d+) ", run.stdout, re.MULTILINE)
    outcome = re.search(r"^done: (\d+) read, (\d+) refused$", run.stdout, re.MULTILINE)
    if outcome is None:  # a crash, or a hang: faulthandler tells where
        findings.append(numbers[-1])
    repeat = [f"python -m tests.fuzz {target} {SEED} {number}" for number in findings]
    assert not findings, f"{len(findings)} findings; repeat each with\n" + "\n".join(repeat) + "\n" + run.stderr[-3000:]
    assert outcome is not None
    assert run.returncode == 0
    assert len(numbers) == inputs
    assert min(int(count) for count in outcome.groups()) > 0.02 * inputs  # else nothing would be tested
