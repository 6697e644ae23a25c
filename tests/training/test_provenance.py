"""A run goes on with its own recording and its own checkpoint, or says in two lines why it does not."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import write_recording
from tests.faults.catalogue import SMALL

from robodiff.data.provenance import read_trained_on
from robodiff.errors import RobodiffError
from robodiff.training.callbacks import UNSAVED
from robodiff.training.resume import read_checkpoint

Run = Callable[..., tuple[int, str, str]]
CHECKPOINT = "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recording ``demos.zarr`` and the runs ``run`` and ``other`` of two steps."""
    from robodiff.cli.configuration import to_yaml
    from robodiff.cli.fit import FitOptions, find_config, read_options
    from robodiff.training.fit import fit

    folder = tmp_path_factory.mktemp("trained")
    data = write_recording(folder / "demos.zarr")
    for name in ("run", "other"):
        overrides: dict[str, Any] = {}
        read_options(FitOptions, "fit", [*SMALL, "--data.path", str(data), "--trainer.max_steps", "2"], overrides)
        draft = find_config("pusht_keypoints")
        draft.clear_length()
        for option, text in overrides.items():
            draft.override(option, text)
        config = draft.build()
        fit(config, folder / name, to_yaml(config))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it all, whose configurations still name the recording of the copy; reports are not drawn."""
    monkeypatch.setattr("robodiff.cli.report.report", lambda run: run)
    copy = shutil.copytree(trained, tmp_path / "copy")
    for config in copy.glob("*/config.yaml"):
        config.write_text(config.read_text().replace(str(trained), str(copy)))
    return copy


def resume(robodiff: Run, folder: Path, *options: Any) -> tuple[int, str, str]:
    code, out, err = robodiff("fit", "--resume", folder / "run", "--trainer.max_steps", 3, *options)
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2, err
    return code, out, err


def test_the_record_of_a_run(trained: Path) -> None:
    record = read_trained_on(trained / "run")
    assert record is not None
    assert sorted(map(int, record.episodes)) == [0, 1, 2, 3, 4, 5]
    assert len(record.held_out) == 1
    assert read_checkpoint(trained / "run" / CHECKPOINT, sealed=True)["robodiff"]["run"] == record.run


@pytest.mark.kind("a recording that is not what the run was trained on")
def test_a_recording_that_changed_is_refused_unless_accepted(robodiff: Run, folder: Path) -> None:
    data, before = folder / "demos.zarr", read_trained_on(folder / "run")
    assert before is not None
    shutil.rmtree(data)
    write_recording(data, episodes=9)
    kept = (folder / "run" / CHECKPOINT).read_bytes()
    code, _, err = resume(robodiff, folder)
    assert (code, "9 episodes in place of 6" in err, "--accept_changed_data" in err) == (1, True, True), err
    assert (folder / "run" / CHECKPOINT).read_bytes() == kept
    code, _, err = resume(robodiff, folder, "--accept_changed_data")
    assert (code, "note: " in err, "trained on as it is now" in err) == (0, True, True), err
    after = read_trained_on(folder / "run")
    assert after is not None
    assert (after.run, after.held_out, len(after.training)) == (before.run, before.held_out, 8)
    assert resume(robodiff, folder, "--trainer.max_steps", 4)[0] == 0  # it is not asked again


@pytest.mark.kind("a recording that is not what the run was trained on")
def test_other_sizes_are_refused_even_if_accepted(robodiff: Run, folder: Path) -> None:
    path = folder / "run" / "recording.json"
    record = json.loads(path.read_text())
    record["features"]["action"] |= {"shape": [3], "names": None}
    record["fingerprint"] = "another"
    path.write_text(json.dumps(record))
    for options in ((), ("--accept_changed_data",)):
        code, _, err = resume(robodiff, folder, *options)
        assert (code, "action: shape is (2,) in place of (3,)" in err, "begin a new run" in err) == (1, True, True), err


def test_accepting_needs_a_run_to_go_on(robodiff: Run) -> None:
    code, _, err = robodiff("fit", *SMALL, "--accept_changed_data")
    assert (code, "give --resume RUN, or leave it out" in err) == (2, True), err


@pytest.mark.kind("a checkpoint that is not the run's own")
def test_the_checkpoint_of_another_run_is_refused(robodiff: Run, folder: Path) -> None:
    shutil.copy(folder / "other" / CHECKPOINT, folder / "run" / CHECKPOINT)
    code, _, err = resume(robodiff, folder)
    assert (code, f"last.ckpt: is of another run than {folder / 'run'}" in err) == (1, True), err


@pytest.mark.kind("a checkpoint that is not the run's own")
def test_a_configuration_of_other_sizes_is_refused(robodiff: Run, folder: Path) -> None:
    config = folder / "run" / "config.yaml"
    config.write_text(config.read_text().replace("diffusion_step_embed_dim: 8", "diffusion_step_embed_dim: 16"))
    code, _, err = resume(robodiff, folder)
    assert (code, "last.ckpt: does not fit the configuration: " in err, "and " in err) == (1, True, True), err


@pytest.mark.kind("a checkpoint with a flipped bit")
@pytest.mark.parametrize("place", [0.0, 0.01, 0.2, 0.5, 0.8, 0.97, 0.99, 0.9995, 1.0])
def test_one_bit_is_enough(trained: Path, tmp_path: Path, place: float) -> None:
    content = bytearray((trained / "run" / CHECKPOINT).read_bytes())
    path = tmp_path / "last.ckpt"
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(RobodiffError, match=r"last\.ckpt: cannot be read: it is not as it was written"):
        read_checkpoint(path, sealed=True)


class Bad:
    def __reduce__(self) -> tuple:
        return os.system, ("touch EXECUTED",)


def saved(value: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(value, path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "text": lambda path: path.write_text("not a checkpoint"),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "without its end": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a pickle with code": lambda path: path.write_bytes(pickle.dumps(Bad())),
    "code in an archive": saved(Bad()),
    "a list": saved([1, 2]),
    "no state": saved({"global_step": 3, "robodiff": {"total_steps": 5}}),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.kind("a checkpoint that is damaged")
@pytest.mark.parametrize("sealed", [True, False], ids=["recorded", "earlier"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_take_two_lines(
    folder: Path, damage: str, sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    path = folder / "run" / CHECKPOINT
    DAMAGES[damage](path)
    if not sealed and damage in (
        "a list",
        "no state",
        "longer",
        "without its end",
    ):  # what they lack is found by who asked for it
        read_checkpoint(path)
        return
    with pytest.raises(RobodiffError, match=r"last\.ckpt: ") as error:
        read_checkpoint(path, sealed)
    assert len(str(error.value).splitlines()) <= 2
    assert not (folder / "EXECUTED").exists()


@pytest.mark.kind("a checkpoint that is damaged")
@pytest.mark.parametrize("damage", ["a folder", "a list", "no state"])
def test_a_damaged_checkpoint_is_never_taken_for_none(robodiff: Run, folder: Path, damage: str) -> None:
    (folder / "run" / "recording.json").unlink()  # as of an earlier version
    DAMAGES[damage](folder / "run" / CHECKPOINT)
    code, _, err = resume(robodiff, folder)
    assert (code, "last.ckpt" in err) == (1, True), err


@pytest.mark.kind("a checkpoint that is damaged")
@pytest.mark.parametrize("left", ["policy-last", "policy", "run.json"])
def test_a_checkpoint_that_was_removed_is_asked_for(robodiff: Run, folder: Path, left: str) -> None:
    run = folder / "run"
    (run / CHECKPOINT).unlink()
    for other in {"policy-last", "policy", "run.json"} - {left}:
        (run / other).rename(folder / other)
    metrics = (run / "metrics.csv").read_bytes()
    code, _, err = resume(robodiff, folder)
    assert (code, f"{run / CHECKPOINT}: is missing\nput it back, or begin a new run" in err) == (1, True), err
    assert (run / "metrics.csv").read_bytes() == metrics


@pytest.mark.kind("a checkpoint that is damaged")
def test_a_file_in_place_of_the_checkpoints_is_refused(robodiff: Run, folder: Path) -> None:
    shutil.rmtree(folder / "run" / "checkpoints")
    (folder / "run" / "checkpoints").touch()
    code, _, err = resume(robodiff, folder)
    assert (code, "checkpoints: is not a folder\nput back the run's own" in err) == (1, True), err


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(robodiff: Run, folder: Path) -> None:
    run = folder / "run"
    shutil.rmtree(run / "checkpoints")
    (run / "run.json").unlink()
    (run / UNSAVED).touch()  # killed after its first policies were written
    code, _, err = resume(robodiff, folder)
    assert (code, "was stopped before its first checkpoint, and begins anew" in err) == (0, True), err
    assert (run / CHECKPOINT).is_file()
    assert not (run / UNSAVED).exists()


@pytest.mark.kind("a checkpoint that is not the run's own")
def test_a_record_that_was_removed_is_asked_for(robodiff: Run, folder: Path) -> None:
    (folder / "run" / "recording.json").unlink()
    code, _, err = resume(robodiff, folder)
    assert (code, "recording.json: is missing\ntake it from a copy of the run" in err) == (1, True), err


def test_a_run_without_a_record_says_so_and_goes_on(robodiff: Run, folder: Path) -> None:
    path = folder / "run" / CHECKPOINT
    content = torch.load(path, weights_only=True)
    del content["robodiff"]["run"]
    torch.save(content, path)
    (folder / "run" / "recording.json").unlink()
    code, _, err = resume(robodiff, folder)
    assert (code, "does not say what it was trained on" in err) == (0, True), err
    assert not (folder / "run" / "recording.json").exists()
    json.loads((folder / "run" / "run.json").read_text())
