"""Training on a recording and its mirror image."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.faults.catalogue import SMALL

from robodiff.policies.checkpoint import load_policy

Run = Callable[..., tuple[int, str, str]]


def test_episodes_are_trained_on_as_recorded_and_mirrored(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    def train(name: str, *options: str) -> tuple[str, torch.Tensor]:
        run = tmp_path / name
        code, out, err = robodiff("fit", *SMALL, "--data.path", recording, "--data.val_split", 0.2, "--run", run,
                                  "--trainer.max_steps", 1, *options)  # fmt: skip
        assert code == 0, err
        return out, load_policy(run / "policy-last").normalizer.range("action")

    plain, recorded = train("plain")
    mirrored, both = train("mirrored", "--data.symmetries", "pusht")
    assert "5 episodes, 77 windows to train on, 16 held out" in plain
    assert "5 episodes (also under symmetry: mirror), 154 windows to train on, 16 held out" in mirrored
    low, high = recorded
    torch.testing.assert_close(both[0], torch.minimum(low, 512 - high.flip(0)))
    torch.testing.assert_close(both[1], 512 - both[0].flip(0))


@pytest.mark.parametrize(
    ("env", "message"),
    [("biped", "data.symmetries: the environment biped has no symmetries"), ("push", "Did you mean 'pusht'?")],
)
def test_environments_without_symmetries_are_refused(
    robodiff: Run, recording: Path, tmp_path: Path, env: str, message: str
) -> None:
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", tmp_path / "run",
                            "--trainer.max_steps", 1, "--data.symmetries", env)  # fmt: skip
    assert (code, message in err) == (2, True), err
