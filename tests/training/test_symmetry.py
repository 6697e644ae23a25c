"""Training on a recording and its mirror image."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.faults.catalogue import SMALL

from robodiff.cli.configuration import find_config
from robodiff.policies.checkpoint import load_policy

Run = Callable[..., tuple[int, str, str]]


def test_episodes_are_trained_on_as_recorded_and_mirrored(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_steps", 1,
                              "--data.symmetries", "pusht")  # fmt: skip
    assert code == 0, err
    windows = sum(length - 7 for length in (20, 21, 22, 23, 24, 25))  # the last seven frames begin none
    told = r"5 episodes \(also under symmetry: mirror\), (\d+) windows to train on, (\d+) held out"
    trained, held_out = map(int, re.search(told, out).groups())  # pyright: ignore[reportOptionalMemberAccess]
    assert trained == 2 * (windows - held_out)
    low, high = load_policy(run / "policy-last").normalizer.range("action")
    torch.testing.assert_close(low, 512 - high.flip(0))


def test_from_one_side_an_episode_and_its_image_are_alike(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    """What is turned leaves the range of the recording, for which the normalizer must have room."""
    ranges = []
    for symmetries in ("null", "pusht"):
        run = tmp_path / symmetries
        code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_steps", 1,
                                "--data.symmetries", symmetries, "--model.canonicalize", "pusht")  # fmt: skip
        assert code == 0, err
        policy = load_policy(run / "policy-last")
        assert policy.canonical is not None
        assert policy.canonical.threshold == 256
        ranges.append({key: policy.normalizer.range(key) for key in policy.normalizer.modes})
        low, high = ranges[-1]["action"]
        torch.testing.assert_close(low, 512 - high.flip(0))
    torch.testing.assert_close(*ranges)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("lift_cube", "model.canonicalize: the environment lift_cube has no symmetry with a side; leave it out"),
        ("biped", "model.canonicalize: the environment biped has no symmetry with a side; leave it out"),
        ("push", "Did you mean 'pusht'?"),
    ],
)
def test_environments_without_a_side_are_refused(
    robodiff: Run, recording: Path, tmp_path: Path, env: str, message: str
) -> None:
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", tmp_path / "run",
                            "--trainer.max_steps", 1, "--model.canonicalize", env)  # fmt: skip
    assert (code, message in err) == (2, True), err


def test_a_preset_serves_another_scene_without_its_mirror(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    keys = ("--model.canonicalize", "pusht", "--model.observation_keys", "[observation.state]")
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", tmp_path / "run",
                            "--trainer.max_steps", 1, *keys)  # fmt: skip
    assert code == 0, err
    assert "model.canonicalize pusht has no effect: the mirror tells sides by observation.environment_state" in err
    policy = load_policy(tmp_path / "run")
    assert (policy.config.canonicalize, policy.canonical) == (None, None)


@pytest.mark.parametrize(
    ("env", "message"),
    [("lift_cube", "data.symmetries: the environment lift_cube has no symmetries"), ("push", "Did you mean 'pusht'?")],
)
def test_environments_without_symmetries_are_refused(
    robodiff: Run, recording: Path, tmp_path: Path, env: str, message: str
) -> None:
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", tmp_path / "run",
                            "--trainer.max_steps", 1, "--data.symmetries", env)  # fmt: skip
    assert (code, message in err) == (2, True), err


def test_a_recording_in_place_of_another_is_not_taken_for_as_symmetric(recording: Path) -> None:
    draft = find_config("pusht_keypoints")
    draft.override("data.symmetries", "pusht")
    assert draft.build().data.symmetries == "pusht"
    draft.set_part("data", str(recording))
    assert draft.build().data.symmetries is None
