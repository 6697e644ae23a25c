"""``robodiff collect --policy`` and ``fit --initial_weights``: real commands with small budgets."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import write_recording
from tests.evaluation.test_takeover import untrained
from tests.policies.test_diffusion import FLOW

from robodiff.data.episodes import INTERVENTION
from robodiff.data.recordings import open_path
from robodiff.envs.spec import get_env_spec
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.diffusion import DiffusionPolicy

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--model.down_dims", "[8,16]", "--model.n_groups", 4, "--model.diffusion_step_embed_dim", 8,
         "--model.kernel_size", 3)  # fmt: skip
FIT = ("fit", "--config", "pusht_keypoints", "--trainer.tensorboard", "false", "--rollout.env", "null",
       "--model.canonicalize", "null", "--model.num_train_timesteps", 20, *SMALL)  # fmt: skip


@pytest.fixture
def bad_policy(tmp_path: Path, small_policy: Callable[..., DiffusionPolicy]) -> Path:
    save_policy(small_policy(**FLOW), tmp_path / "bad")
    return tmp_path / "bad"


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robodiff.cli.report.report", lambda run: run)  # they take longer


def test_a_collection_goes_on_and_is_the_same(robodiff: Run, tmp_path: Path) -> None:
    save_policy(untrained(get_env_spec("lift_cube"), ("observation.state",)), tmp_path / "arm")
    command = ("collect", "lift_cube", "--policy", tmp_path / "arm", "--num_envs", 1)
    code, out, err = robodiff(*command, "--episodes", 1, "--out", tmp_path / "parts.zarr")
    assert (code, "1 demonstration, " in out) == (0, True), err
    code, out, err = robodiff(*command, "--episodes", 2, "--out", tmp_path / "parts.zarr")
    assert (code, "has 1 episode already; going on" in out) == (0, True), err
    assert "the expert took over to success (" in out
    assert "by itself the policy succeeded on 0 of " in out
    assert robodiff(*command, "--episodes", 2, "--out", tmp_path / "whole.zarr")[0] == 0
    parts, whole = (open_path(str(tmp_path / name)).read() for name in ("parts.zarr", "whole.zarr"))
    assert parts.table == whole.table
    assert INTERVENTION in parts.arrays
    for key, values in parts.arrays.items():
        np.testing.assert_array_equal(values, whole.arrays[key], key)
    assert 0 < parts.arrays[INTERVENTION].mean() < 1
    code, _, err = robodiff(*command, "--episodes", 3, "--random", 0.9, "--out", tmp_path / "parts.zarr")
    assert (code, "holds another recording" in err) == (1, True), err


def test_refused(robodiff: Run, tmp_path: Path, bad_policy: Path) -> None:
    out = ("--episodes", 1, "--out", tmp_path / "d.zarr")
    for arguments, message in (
        (("pusht", "--random", 0.5), "--random says how a policy and the expert share an episode; give --policy"),
        (("pusht", "--policy", bad_policy, "--corrections", 0.5), "unknown option --corrections"),
        (("biped", "--policy", bad_policy), "the expert of biped cannot take over; that of pusht, lift_cube, "),
        (("pusht", "--policy", bad_policy, "--random", 2), "--random: expected float >= 0 and <= 1"),
    ):
        code, _, err = robodiff("collect", *arguments, *out)
        assert (code, message in err, "Traceback" in err) == (2, True, False), err
    assert not (tmp_path / "d.zarr").exists()


def test_training_goes_on_from_weights(robodiff: Run, tmp_path: Path, bad_policy: Path) -> None:
    run, data = tmp_path / "run", write_recording(tmp_path / "demos.zarr")
    rest = ("--data", data, "--run", run, "--initial_weights", bad_policy, "--model.learning_rate", 1e-12)
    code, _, err = robodiff(*FIT, *rest, "--trainer.max_steps", 1)
    assert code == 0, err
    before, after = load_policy(bad_policy).state_dict(), load_policy(run).state_dict()
    assert before.keys() == after.keys()
    for key, values in before.items():  # the normalizer, too, which the recording would make another
        np.testing.assert_allclose(values, after[key], rtol=1e-5, atol=1e-7, err_msg=key)
    shutil.rmtree(bad_policy)
    code, _, err = robodiff("fit", "--resume", run, "--trainer.max_steps", 2)
    assert code == 0, err
    code, _, err = robodiff("fit", "--resume", run, "--initial_weights", run)
    assert (code, "found --initial_weights" in err) == (2, True), err


def test_weights_of_another_size_are_refused(robodiff: Run, tmp_path: Path, bad_policy: Path) -> None:
    data = write_recording(tmp_path / "demos.zarr")
    rest = ("--data", data, "--run", tmp_path / "run", "--initial_weights", bad_policy, "--trainer.max_steps", 1)
    code, _, err = robodiff(*FIT, *rest, "--model.down_dims", "[16,32]")
    assert (code, "Traceback" in err) == (2, False), err
    assert "initial_weights: the policy of" in err
    assert "model.down_dims" in err.splitlines()[1]
    assert not (tmp_path / "run" / "policy").exists()
