"""Data modules' configurations: what goes together, and which steps ``delta_timestamps`` may name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.data.formats.robomimic import RobomimicConfig
from robodiff.data.formats.robomimic_writer import write_robomimic
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.recordings import DataConfig
from robodiff.data.recordings import open_path as read_any
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError, UsageError, notice

SHAPE = WindowShape(n_obs_steps=2, horizon=16, n_action_steps=8)


def seconds(first: int, number: int, fps: float = 10, stride: int = 1) -> list[float]:
    return [round((first + step) * stride / fps, 4) for step in range(number)]


def window(deltas: dict[str, list[float]], shape: WindowShape = SHAPE, fps: float = 10) -> WindowShape:
    return LeRobotConfig(root="x", delta_timestamps=deltas).window(shape, fps)


@pytest.fixture
def lerobot_set(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    writer = LeRobotWriter(tmp_path / "set", 10)
    for length in (20, 25, 22, 30, 21):
        walk = np.cumsum(random.normal(size=(length, 2)), axis=0)
        writer.append({"observation.state": walk, "action": walk + 1})
    writer.close()
    return tmp_path / "set"


def test_steps_that_are_the_policys(capsys: pytest.CaptureFixture[str]) -> None:
    both = {"action": seconds(-1, 16), "observation.state": [-0.1, 0.0]}
    assert window(both) == SHAPE
    assert window({}) == SHAPE
    assert window({"action": seconds(-1, 16, 30)}, fps=30) == SHAPE  # written with four digits
    assert window({"action": seconds(-1, 16, 10, 3), "observation.state": [-0.3, 0.0]}).frame_stride == 3
    strided = WindowShape(2, 16, 8, frame_stride=3)
    assert window({"action": seconds(-1, 16, 10, 3)}, strided) == strided
    one = WindowShape(1, 16, 8)
    assert window({"action": seconds(0, 16, 10, 2), "observation.state": [0.0]}, one).frame_stride == 2
    assert capsys.readouterr().err == ""


def test_actions_that_start_now_are_taken_as_the_policys_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    notice.cache_clear()
    for _ in range(2):
        assert window({"action": seconds(0, 16)}) == SHAPE
    told = capsys.readouterr().err
    assert told == ("robodiff: note: data.delta_timestamps.action starts at 0.0; taken as from -0.1, where the oldest "
                    "of 2 observations is\n")  # fmt: skip
    assert window({"action": seconds(0, 16, 10, 2)}).frame_stride == 2


@pytest.mark.parametrize(
    "deltas",
    [
        {"action": seconds(-1, 15)},
        {"action": seconds(0, 17)},
        {"action": seconds(1, 16)},
        {"action": []},
        {"action": seconds(-1, 16)[::-1]},
        {"action": [*seconds(-1, 15), 9.0]},
        {"action": seconds(-1, 16), "observation.state": [0.0]},
        {"action": seconds(-1, 16), "observation.state": [0.0, 0.1]},
        {"action": seconds(-1, 16), "observation.state": [-0.2, 0.0]},
        {"action": seconds(-1, 16, 30)},
    ],
)
def test_other_steps_are_refused(deltas: dict[str, list[float]]) -> None:
    with pytest.raises(
        UsageError, match=r"delta_timestamps\.(action|observation\.state) must be null or the policy's own"
    ):
        window(deltas)
    strided = WindowShape(2, 16, 8, frame_stride=2)
    with pytest.raises(UsageError, match=r"must be null or the policy's own steps \[-0\.2, 0, 0\.2,"):
        window({"action": seconds(-1, 16)}, strided)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"set data\.root \(a folder\) or data\.repo_id"),
        ({"root": "x", "resize_shape": (0, 5)}, "resize_shape: .*expected"),
        ({"root": "x", "resize_shape": 0}, "resize_shape must be at least 1"),
        ({"root": "x", "image_transforms": {"class_path": "Resize"}}, "image_transforms: expected null"),
        ({"root": "x", "delta_timestamps": {"action": [float("nan")] * 2}}, "delta_timestamps.action must be finite"),
        ({"root": "x", "val_split": 1.0}, "val_split: expected float >= 0 and < 1.*found 1.0"),
        ({"root": "x", "train_batch_size": 0}, "train_batch_size: expected int >= 1.*found 0"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LeRobotConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0.0}, "fps: expected float > 0"),
        ({"resize_shape": (5, 0)}, "resize_shape: "),
        ({"shape_meta": {"action": {"shape": [7]}}}, "shape_meta: .*obs"),
        ({"shape_meta": {"obs": {"a": {"shape": [3]}}, "acton": {}}}, "shape_meta: .*acton"),
        ({"shape_meta": {"obs": {"a": {"shape": []}}}}, "shape_meta: obs.*shape"),
        ({"shape_meta": {"obs": {"a": {"shape": [3], "type": "depth"}}}}, "shape_meta: obs.*type"),
        ({"shape_meta": {"obs": {"a": {"shape": [3], "type": ["rgb"]}}}}, "shape_meta: obs.*type"),
        ({"shape_meta": {"obs": {"a": {"shape": [3], "rotation": 6}}}}, "shape_meta: .*rotation"),
        ({"shape_meta": {"obs": {"a": {"shape": [3]}}, "action": [7]}}, "shape_meta: action: expected mapping"),
    ],
)
def test_options_of_robomimic_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RobomimicConfig(path="x", **options)


def test_a_recording_is_known_by_its_path(lerobot_set: Path, recording: Path, tmp_path: Path) -> None:
    assert read_any(str(lerobot_set)) == LeRobotConfig(root=str(lerobot_set))
    (tmp_path / "demos.h5").write_bytes(b"broken")
    demos = str(tmp_path / "demos.h5")
    assert read_any(demos, fps=20.0, layout=None) == RobomimicConfig(path=demos, fps=20.0)
    key_map = {"a": "action"}
    assert read_any(str(lerobot_set), key_map=key_map, fps=10.0).key_map == key_map
    assert read_any(str(recording), layout="img") == ZarrConfig(path=str(recording), layout="img")
    with pytest.raises(UsageError, match="set: is a LeRobot data set, for which layout is not an option"):
        read_any(str(lerobot_set), layout="pusht", fps=10.0)
    with pytest.raises(UsageError, match=r"is an HDF5 file of robomimic, for which filter_kye .*'filter_key'"):
        read_any(demos, filter_kye="train")
    with pytest.raises(UsageError, match="revision is for data sets of the Hugging Face hub"):
        read_any(str(lerobot_set), revision="main")
    with pytest.raises(RobodiffError, match="no such file or folder"):
        read_any(str(tmp_path / "nowhere.zarr"))


def test_chosen_episodes_are_divided_alike_in_every_format(recording: Path, lerobot_set: Path, tmp_path: Path) -> None:
    write_robomimic(ZarrConfig(path=str(recording)).read(), tmp_path / "demos.hdf5")
    modules: list[DataConfig] = [
        ZarrConfig(path=str(recording), episodes=[4, 1, 3], val_split=0.4),
        RobomimicConfig(path=str(tmp_path / "demos.hdf5"), episodes=[4, 1, 3], val_split=0.4),
        LeRobotConfig(root=str(lerobot_set), episodes=[4, 1, 3], val_split=0.4),
    ]
    for module in modules:
        episodes = module.read(["observation.state"])
        train, held_out = module.split(episodes)
        numbers = episodes.table.get("episode_index", list(range(len(episodes))))
        assert sorted(numbers[place] for place in [*train, *held_out]) == [1, 3, 4]
        assert (len(train), len(held_out)) == (2, 1)


def test_steps_of_a_key_that_was_not_recorded(lerobot_set: Path) -> None:
    deltas = {"action": seconds(-1, 16), "observation.stat": [0.0]}
    with pytest.raises(UsageError, match=r"names 'observation\.stat', which .* Did you mean 'observation\.state'"):
        LeRobotConfig(root=str(lerobot_set), delta_timestamps=deltas).read(["observation.state"])


def test_fit_on_a_lerobot_set(robodiff: Any, lerobot_set: Path, tmp_path: Path) -> None:
    from robodiff.policies.checkpoint import load_policy

    options = ("--model.down_dims", "[8,16]", "--model.n_groups", 4, "--model.diffusion_step_embed_dim", 8,
               "--rollout.env", "null", "--trainer.fast_dev_run", "true", "--trainer.max_time", "null")  # fmt: skip
    notice.cache_clear()
    code, out, err = robodiff(
        "fit", "--config", "pusht_keypoints", "--data", "LeRobotConfig", "--data.root", lerobot_set,
        "--data.num_workers", 4, "--data.delta_timestamps", f"{{action: {seconds(-1, 16, 10, 2)}}}",
        "--model.observation_keys", "[observation.state]", "--run", tmp_path / "run", *options,
    )  # fmt: skip
    assert code == 0, err
    assert f"{lerobot_set}: 4 episodes" in out
    assert "data.num_workers has no effect" in err
    assert load_policy(tmp_path / "run").config.frame_stride == 2
    code, _, err = robodiff("fit", "--data", "LeRobotConfig", "--data.rot", "x")
    assert (code, err.strip()) == (2, "robodiff fit: error: unknown option --data.rot. Did you mean '--data.root'?")
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", "--data.root", "x")
    assert code == 2
    assert "data.root is an option of another class than ZarrConfig, which data is here; set the class" in err
    code, _, err = robodiff("fit", "--data.root", "x")
    assert code == 2
    assert "nothing says what data is" in err
