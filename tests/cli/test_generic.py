"""``fit --config generic --data X``, with no further option, on a recording of every format."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from tests.conftest import write_recording, write_robomimic_file
from tests.recordings import write_aloha, write_maniskill, write_npz, write_odd, write_table

from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.policies.checkpoint import load_policy

Run = Callable[..., tuple[int, str, str]]
QUICK = (
    *("--trainer.max_steps", 2, "--trainer.tensorboard", "false", "--trainer.limit_val_batches", 1),
    *("--model.down_dims", "[8,16]", "--model.n_groups", 4, "--model.num_inference_steps", 2),
    *("--model.backbone_stride", 8, "--data.train_batch_size", 4),
)


def write_lerobot(path: Path) -> None:
    writer, random = LeRobotWriter(path, fps=10, images="png"), np.random.default_rng(0)
    for _ in range(4):
        images = random.integers(0, 256, (20, 48, 64, 3), np.uint8)
        walk = random.normal(size=(20, 3)).cumsum(0)
        writer.append({"observation.images.top": images, "observation.state": walk, "action": walk + 1}, task="walk")
    writer.close()


def write_foreign_zarr(path: Path) -> None:
    """As diffusion_policy writes it: keys that are not ours, no rate."""
    group, random = zarr.open_group(path, mode="w", zarr_format=2), np.random.default_rng(0)
    group.create_array("data/state", data=random.normal(size=(60, 5)).cumsum(0).astype(np.float32))
    group.create_array("data/img", data=random.integers(0, 256, (60, 48, 48, 3), np.uint8))
    group.create_array("data/action", data=random.normal(size=(60, 2)).cumsum(0).astype(np.float32))
    group.create_array("meta/episode_ends", data=np.array([20, 40, 60]))


MAKERS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "zarr": (write_recording, ["observation.state"]),
    "foreign_zarr": (write_foreign_zarr, ["observation.image", "observation.state"]),
    "lerobot": (write_lerobot, ["observation.images.top", "observation.state"]),
    "robomimic.hdf5": (write_robomimic_file, ["observation.images.agentview", "observation.object"]),
    "aloha": (write_aloha, ["observation.images", "observation.state"]),
    "aloha_jpeg": (lambda path: write_aloha(path, compress=True), ["observation.images", "observation.state"]),
    "maniskill.h5": (write_maniskill, ["observation.state"]),
    "table.csv": (write_table, ["observation.state"]),
    "npz": (write_npz, ["observation.state"]),
    "odd": (write_odd, ["observation"]),
}


SLOW = [name for name in MAKERS if name not in ("zarr", "aloha_jpeg", "table.csv")]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MAKERS])
def test_every_format(robodiff: Run, tmp_path: Path, name: str) -> None:
    make, observed = MAKERS[name]
    make(tmp_path / name)
    run = tmp_path / "run"
    code, out, err = robodiff("fit", "--config", "generic", "--data", tmp_path / name, "--run", run, *QUICK)
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("policy: observes"))
    assert all(key in line for key in observed), line
    assert "windows to train on" in out
    assert "a step takes" in out
    keys = load_policy(run).observation_keys
    assert ("pixels" in line) == any(key.startswith("observation.image") for key in keys)
    code, out, err = robodiff("eval", run, "--windows", 4)
    assert code == 0, err
    assert "error of the executed actions" in out
    code, _, err = robodiff("data", "convert", tmp_path / name, tmp_path / "converted.zarr")
    assert code == 0, err
    shutil.rmtree(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pusht/pusht_human.zarr.zip", "lerobot_pusht_v3", "lerobot_g1_v21"])
def test_recorded_data(robodiff: Run, recorded_data: Path, tmp_path: Path, name: str) -> None:
    code, out, err = robodiff("fit", "--config", "generic", "--data", recorded_data / name, "--run", tmp_path / "run",
                              *QUICK)  # fmt: skip
    assert code == 0, err
    assert "pixels" in out
