"""kill -9 while something is recorded, trained, written or measured; and two processes at one place."""

import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from tests.faults.catalogue import Place, fault, no_traces
from tests.faults.processes import Running, Seen, killed_at, killed_in_a_write, run
from tests.readers import read_zarr

from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.documents import write_json
from robodiff.errors import RobodiffError
from robodiff.files import read_rows, standing
from robodiff.policies.checkpoint import find_policy, load_policy, policy_hash, save_policy
from robodiff.text import counted


@fault("kill -9 after the first demonstrations",
       "every whole demonstration; the same command goes on")  # fmt: skip
def killed_while_collecting(place: Place) -> Seen:
    """killed while demonstrations are collected."""
    collecting = Running(*place.collect(500))
    collecting.wait_for(lambda: recorded(place.out) > 0)
    seen = collecting.kill().killed()
    first = read_zarr(place.out)
    assert f"has {counted(len(first), 'episode')} already; going on" in run(*place.collect(len(first) + 1)).done().out
    no_traces(place.out)
    assert not list(place.out.rglob("*.partial"))
    again = read_zarr(place.out).arrays["action"]
    np.testing.assert_array_equal(again[: len(first.arrays["action"])], first.arrays["action"])
    return seen


@fault("kill -9 after 100, 103, 106, ... changes of a file, again and again until all is recorded",
       "every whole episode; the recording that a process that is never killed makes")  # fmt: skip
def killed_again_and_again_while_recording(place: Place) -> Seen:
    """killed again and again while episodes are written."""
    record(place.folder / "WHOLE")
    killed: list[Seen] = []
    had = 0
    while (seen := run(partial(record, place.out), trouble=killed_at(100 + 3 * len(killed), place.out))).code != 0:
        killed.append(seen.killed())
        assert len(read_zarr(place.out)) >= had
        had = len(read_zarr(place.out))
    assert len(killed) >= 3
    whole, found = read_zarr(place.folder / "WHOLE"), read_zarr(place.out)
    for key, array in whole.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], array)
    assert found.table == whole.table
    return killed[-1]


def recorded(path: Path) -> int:
    """How many episodes are whole."""
    try:
        return len(read_zarr(path))
    except RobodiffError:  # the first is on its way
        return 0


def record(path: Path) -> None:
    """Go on with a recording until it has 60 episodes, each of which depends on its number alone."""
    writer = ZarrWriter(path, fps=10.0)
    for episode in range(writer.episodes, 60):
        values = np.random.default_rng(episode).normal(size=(20 + episode, 2)).astype(np.float32)
        writer.append({"observation.state": values, "action": values + 1}, seed=episode)
    writer.close()


@fault("kill -9 of a collection on two processes",
       "every whole demonstration; the other processes end by themselves")  # fmt: skip
def killed_while_collecting_on_two_processes(place: Place) -> Seen:
    """killed while demonstrations are collected on two processes."""
    collecting = Running(*place.collect(500, "--workers", 2))
    children = Path(f"/proc/{collecting.process.pid}/task/{collecting.process.pid}/children")
    collecting.wait_for(lambda: len(children.read_text().split()) >= 2)
    workers = children.read_text().split()
    seen = collecting.kill().killed()
    end = time.monotonic() + 120
    while any(map(runs, workers)):
        assert time.monotonic() < end, "they go on for ever"
        time.sleep(0.05)
    return seen


def runs(process: str) -> bool:
    """Whether a process still runs; one that has ended and that nobody has asked for its exit code does not."""
    try:
        return Path("/proc", process, "cmdline").read_text() != ""
    except FileNotFoundError:
        return False


@fault("kill -9 at every fourteenth change of a file in the run's folder, in turn",
       "the run: fit --resume ends in the same weights and metrics, bit for bit; no temporaries")  # fmt: skip
def killed_while_training(place: Place) -> Seen:
    """killed while a policy is trained."""
    options = ("--trainer.max_steps", 2, "--trainer.checkpoint_every_minutes", 0)
    run(*place.fit(*options)).done()
    whole = place.run.rename(place.folder / "WHOLE")
    killed: list[Seen] = []
    for change in range(4, 1000, 14):
        seen = run(*place.fit(*options), trouble=killed_at(change, place.run))
        if seen.code == 0:  # it makes fewer changes
            break
        killed.append(seen.killed())
        for policy in ("policy", "policy-last"):
            if standing(place.run / policy).exists():
                load_policy(place.run / policy)
        begun = (place.run / "config.yaml").exists()
        seen = run("fit", "--resume", place.run) if begun else run(*place.fit(*options))
        if seen.code != 0:  # the final checkpoint was written already
            seen.refused(2, "has finished its 2 steps")
        weights = load_file(place.run / "policy-last" / "model.safetensors")
        for name, value in load_file(whole / "policy-last" / "model.safetensors").items():
            assert value.equal(weights[name]), name
        assert read_rows(place.run / "metrics.csv", "global_step") == read_rows(whole / "metrics.csv", "global_step")
        no_traces(place.run)
        shutil.rmtree(place.run)
    assert len(killed) >= 3
    return killed[-1]


@fault("kill -9 when 200 kB of the checkpoint are written",
       "the checkpoint before; fit --resume goes on and removes the half-written file")  # fmt: skip
def killed_within_a_checkpoint(place: Place) -> Seen:
    """killed in the middle of writing a checkpoint."""
    place.with_run()
    checkpoint = place.run / "checkpoints" / "last.ckpt"
    before = checkpoint.read_bytes()
    seen = run(*place.resume(8), trouble=killed_in_a_write(200_000)).killed()
    assert checkpoint.read_bytes() == before
    assert len(list(checkpoint.parent.iterdir())) == 2  # the half-written one lies beside it
    run(*place.resume(8)).done()
    no_traces(place.run)
    return seen


@fault("kill -9 at every change of a file, in turn, while a policy takes the place of another",
       "the earlier policy or the new one, always whole; the next save clears up")  # fmt: skip
def killed_while_a_policy_is_saved(place: Place) -> Seen:
    """killed while a policy is saved."""
    place.with_run()
    policy = load_policy(place.policy)
    first = policy_hash(place.policy)
    policy.denoiser.state_dict()[next(iter(policy.denoiser.state_dict()))].add_(1)
    save_policy(policy, place.folder / "NEW")
    new = policy_hash(place.folder / "NEW")
    found: set[str] = set()
    killed: list[Seen] = []
    for change in range(100):
        seen = run(partial(save_policy, policy, place.policy), trouble=killed_at(change, place.run))
        load_policy(place.policy)
        found.add(policy_hash(find_policy(place.policy)))
        if seen.code == 0:
            break
        killed.append(seen.killed())
    assert len(killed) > 5
    assert found == {first, new}
    no_traces(place.run)
    assert policy_hash(place.policy) == new
    return killed[-1]


@fault("kill -9 before metrics.json is written and while a video is",
       "the measurement before, or the new one, always whole; the same command measures again")  # fmt: skip
def killed_while_measuring(place: Place) -> Seen:
    """killed while a policy is measured."""
    place.with_run()
    metrics = place.out / "metrics.json"
    write_json(metrics, {"mean_max_reward": "before"})
    run(*place.eval("--videos", 1), trouble=killed_at(4, place.out)).killed()
    assert json.loads(metrics.read_text()) == {"mean_max_reward": "before"}
    seen = run(*place.eval("--videos", 1), trouble=killed_in_a_write(10_000)).killed()
    assert json.loads(metrics.read_text())["mean_max_reward"] >= 0
    assert not list(place.out.rglob("[!.]*.mp4"))
    run(*place.eval("--videos", 1)).done()
    no_traces(place.out)
    assert os.listdir(place.out / "videos") == ["failure-100000.mp4"]
    return seen


@fault("half a line at the end of metrics.csv, and then fit --resume",
       "every whole line; what reads metrics.csv, and resuming, leave out the half")  # fmt: skip
def half_a_line_of_metrics(place: Place) -> Seen:
    """half a line in metrics.csv."""
    place.with_run()
    file = place.run / "metrics.csv"
    rows = read_rows(file, "global_step")
    with file.open("a") as metrics:
        metrics.write(file.read_text().splitlines()[-1][:-5])
    assert read_rows(file, "global_step") == rows
    seen = run(*place.resume(6)).done()
    assert read_rows(file, "global_step")[: len(rows)] == rows
    assert all(None not in row.values() for row in read_rows(file, "global_step"))
    assert [int(row["global_step"]) for row in read_rows(file, "global_step") if row["train/loss"]] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    return seen


@fault("fit --resume on a run that is training; then kill -9 of the first, and again",
       "the run; the lock ends with its process, and resuming goes on")  # fmt: skip
def two_trainings_of_one_run(place: Place) -> Seen:
    """two processes train one run."""
    training = Running(*place.fit("--trainer.max_steps", 100_000, "--trainer.checkpoint_every_minutes", 0))
    training.wait_for((place.run / "checkpoints" / "last.ckpt").exists)
    seen = run(*place.resume(2)).refused(1, "another process is writing to it")
    training.kill().killed()
    steps = max(int(row["global_step"]) for row in read_rows(place.run / "metrics.csv", "global_step"))
    run(*place.resume(steps + 2)).done()
    return seen


@fault("the same collection and the same evaluation, started again while they run",
       "what the first is writing")  # fmt: skip
def two_collections_and_two_evaluations_of_one_path(place: Place) -> Seen:
    """two processes collect to one path, or evaluate to one folder."""
    place.with_run()
    collecting = Running(*place.collect(500))
    collecting.wait_for((place.out / "zarr.json").exists)
    seen = run(*place.collect(500)).refused(1, "another process is writing to it")
    collecting.kill().killed()
    evaluating = Running(*place.eval("--episodes", 500, "--out", place.folder / "EVAL"))
    evaluating.wait_for((place.folder / "EVAL" / ".lock").exists)
    run(*place.eval("--out", place.folder / "EVAL")).refused(1, "another process is writing to it")
    evaluating.kill().killed()
    assert os.listdir(place.folder / "EVAL") == [".lock"]
    return seen
