"""A disk that is full, or that nobody may write to."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faults.catalogue import Place, fault, no_traces
from tests.faults.processes import Seen, full_disk, run
from tests.readers import read_zarr

from robodiff.files import read_rows
from robodiff.policies.checkpoint import load_policy

LARGEST_FILE = "no file may become larger than {} (RLIMIT_FSIZE)".format


@fault(LARGEST_FILE("2 kB"), "every whole demonstration; the same command goes on")
def full_while_collecting(place: Place) -> Seen:
    """disk full while demonstrations are collected."""
    run(*place.collect(1, "--corrections", 0)).done()
    command = place.collect(2, "--corrections", 0)
    seen = run(*command, trouble=full_disk(2_000)).refused(1, "OUT: File too large", "the same command")
    assert len(read_zarr(place.out)) == 1
    run(*command).done()
    assert len(read_zarr(place.out)) == 2
    return seen


@fault(LARGEST_FILE("300 kB"), "the checkpoint before and every policy; fit --resume goes on")
def full_while_a_checkpoint_is_written(place: Place) -> Seen:
    """disk full while a checkpoint is written."""
    place.with_run()
    checkpoint = place.run / "checkpoints" / "last.ckpt"
    before = checkpoint.read_bytes()
    seen = run(*place.resume(8), trouble=full_disk(300_000)).refused(1, "last.ckpt: File too large", "--resume")
    assert checkpoint.read_bytes() == before
    no_traces(place.run)
    run(*place.resume(8)).done()
    return seen


@fault(LARGEST_FILE("50 kB"), "the policy and the checkpoint before; fit --resume goes on")
def full_while_a_policy_is_saved(place: Place) -> Seen:
    """disk full while a policy is saved."""
    place.with_run()
    seen = run(*place.resume(8), trouble=full_disk(50_000)).refused(1, "RUN/policy: File too large", "--resume")
    for policy in ("policy", "policy-last"):
        load_policy(place.run / policy)
    no_traces(place.run)
    run(*place.resume(8)).done()
    return seen


@fault(LARGEST_FILE("3 kB"), "the whole lines before; fit --resume goes on")
def full_while_metrics_are_written(place: Place) -> Seen:
    """disk full while a line of metrics is written."""
    command = place.fit("--trainer.max_steps", 40, "--data.val_split", 0)
    seen = run(*command, trouble=full_disk(3_000)).refused(1, "metrics.csv: File too large", "--resume")
    assert len(read_rows(place.run / "metrics.csv", "global_step")) > 5
    run("fit", "--resume", place.run).done()
    assert [int(row["global_step"]) for row in read_rows(place.run / "metrics.csv", "global_step")] == [*range(1, 41)]
    return seen


@fault(LARGEST_FILE("6 kB"), "metrics.csv; fit --resume goes on")
def full_while_tensorboard_writes(place: Place) -> Seen:
    """disk full while TensorBoard's log is written."""
    command = place.fit("--trainer.max_steps", 100, "--data.val_split", 0, "--trainer.tensorboard", "true")
    seen = run(*command, trouble=full_disk(6_000)).refused(1, "RUN: File too large", "--resume")
    assert read_rows(place.run / "metrics.csv", "global_step")
    return seen


@fault(LARGEST_FILE("10 kB"), "metrics.json, which comes first; the same command measures again")
def full_while_videos_are_written(place: Place) -> Seen:
    """disk full while videos are written."""
    place.with_run()
    seen = run(*place.eval("--videos", 1), trouble=full_disk(10_000))
    seen.refused(1, "failure-100000.mp4: File too large", "the same command")
    assert (place.out / "metrics.json").exists()
    assert not list(place.out.rglob("*.mp4"))
    no_traces(place.out)
    return seen


@fault("a file system of 600 kB that fills up (skipped where none may be mounted)",
       "what was saved before; with more space fit --resume goes on")  # fmt: skip
def full_small_disk(place: Place) -> Seen:
    """disk full, truly."""
    with small_disk(place.folder / "DISK") as disk:
        place.run = disk / "RUN"
        seen = run(*place.fit("--trainer.max_steps", 4)).refused(1, "No space left on device", "free space")
        load_policy(place.run / "policy-last")
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        run("fit", "--resume", place.run).done()
    return seen


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 600 kB, in memory."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@fault("--out below a file", "what was there; nothing was begun")
def not_a_place_to_write_to(place: Place) -> Seen:
    """nowhere to write to."""
    (place.folder / "FILE").write_text("")
    return run("collect", "pusht", "--episodes", 1, "--out", place.folder / "FILE" / "OUT").refused(
        1, "FILE/OUT: Not a directory", "choose another path"
    )
