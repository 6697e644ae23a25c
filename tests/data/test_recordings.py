"""Data modules' configurations: what goes together, and which steps ``delta_timestamps`` may name."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.conftest import write_robomimic_file

from robodiff.data.check import words_of
from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.data.formats.robomimic import RobomimicConfig
from robodiff.data.formats.robomimic_writer import write_robomimic
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.recordings import DataConfig, open_path
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
        (
            {"root": "x", "delta_timestamps": {"action": [float("nan")] * 2}},
            "delta_timestamps: .* finite and",
        ),
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
    assert open_path(str(lerobot_set)) == LeRobotConfig(root=str(lerobot_set))
    (tmp_path / "demos.h5").write_bytes(b"broken")
    demos = str(tmp_path / "demos.h5")
    assert open_path(demos, fps=20.0, layout=None) == RobomimicConfig(path=demos, fps=20.0)
    key_map = {"a": "action"}
    assert open_path(str(lerobot_set), key_map=key_map, fps=10.0).key_map == key_map
    assert open_path(str(recording), layout="img") == ZarrConfig(path=str(recording), layout="img")
    with pytest.raises(UsageError, match="set: is a LeRobot data set, for which layout is not an option"):
        open_path(str(lerobot_set), layout="pusht", fps=10.0)
    with pytest.raises(UsageError, match=r"is an HDF5 file of robomimic, for which filter_kye .*'filter_key'"):
        open_path(demos, filter_kye="train")
    with pytest.raises(UsageError, match="leave out revision, which is for data sets of the Hugging Face hub"):
        open_path(str(lerobot_set), revision="main")
    with pytest.raises(RobodiffError, match="no such file or folder"):
        open_path(str(tmp_path / "nowhere.zarr"))


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
        train, held_out = replace(module, val_episodes=[3]).split(episodes)
        assert ([numbers[place] for place in train], [numbers[place] for place in held_out]) == ([1, 4], [3])
        assert [len(part) for part in replace(module, val_episodes=[]).split(episodes)] == [3, 0]
        for wrong in ([2], [3, 3], [1, 3, 4]):
            with pytest.raises(UsageError, match="val_episodes must be different numbers of episodes that are used"):
                replace(module, val_episodes=wrong).split(episodes)


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
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", "--data", "LeRobotConfig", "--data.rot", "x")
    assert (code, err.strip()) == (2, "robodiff fit: error: unknown option data.rot. Did you mean 'root'?")
    code, _, err = robodiff("fit", "--config", "pusht_keypoints", "--data.root", "x")
    assert code == 2
    assert "unknown option data.root of ZarrConfig; known to LeRobotConfig" in err
    for config in ((), ("--config", "generic")):
        code, _, err = robodiff("fit", *config, "--data.root", "x")
        assert (code, err.strip()) == (
            2, "robodiff fit: error: --data.root: nothing says what data is; give --data PATH"
        )  # fmt: skip


def zarr_file(path: Path, **arrays: np.ndarray) -> str:
    """A zarr recording of two episodes, 3 and 4 frames, with nothing said of it."""
    group = zarr.open_group(path, mode="w")
    for name, array in arrays.items():
        group.create_array(f"data/{name.replace('__', '.')}", data=array)
    group.create_array("meta/episode_ends", data=np.array([3, 7]))
    return str(path)


@pytest.fixture
def numbers() -> dict[str, np.ndarray]:
    """By what others call them: images, numbers of several shapes, and what no observation has."""
    random = np.random.default_rng(0)
    return {
        "img": random.integers(0, 256, (7, 8, 12, 3), np.uint8),
        "wrist": random.integers(0, 256, (7, 3, 8, 12), np.uint8),
        "depth": random.integers(0, 256, (7, 8, 12), np.uint8), "actions": random.normal(size=(7, 2)),
        "state": random.normal(size=(7, 5)), "keypoint": random.normal(size=(7, 9, 2)),
        "n_contacts": np.arange(7.0), "reward": np.ones(7),
    }  # fmt: skip


def test_names_of_others_become_ours(
    tmp_path: Path, numbers: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    notice.cache_clear()
    episodes = open_path(zarr_file(tmp_path / "d.zarr", **numbers)).read()
    assert {key: feature.shape for key, feature in episodes.features.items()} == {
        "action": (2,), "observation.image": (3, 8, 12), "observation.images.wrist": (3, 8, 12),
        "observation.state": (5,), "observation.keypoint": (18,), "observation.n_contacts": (1,),
    }  # fmt: skip
    assert (sorted(episodes.unread), episodes.fps) == (["data/depth", "data/reward"], 10.0)
    assert "does not say how many frames a second it has; taken as 10; say it with --fps" in capsys.readouterr().err


def test_a_key_map_says_all_that_is_read(tmp_path: Path, numbers: dict[str, np.ndarray]) -> None:
    path = zarr_file(tmp_path / "d.zarr", **numbers)
    key_map = {"data/state": "observation.robot", "reward": "observation.reward", "actions": "action"}
    episodes = open_path(path, key_map=key_map, fps=25).read()
    assert (set(episodes.arrays), episodes.fps) == ({*key_map.values()}, 25.0)
    np.testing.assert_array_equal(episodes.arrays["observation.robot"], numbers["state"].astype(np.float32))
    with pytest.raises(RobodiffError, match=r"stat is missing\. Did you mean 'state'\? It holds data/actions"):
        open_path(path, key_map={"stat": "observation.state"}).read()
    with pytest.raises(RobodiffError, match=r"data/depth is uint8 of shape \(8, 12\), neither numbers nor images"):
        open_path(path, key_map={"depth": "observation.depth"}).read()
    with pytest.raises(UsageError, match="key_map gives the name 'action' to several"):
        open_path(path, key_map={"state": "action", "actions": "action"})


def test_a_key_map_for_other_formats(lerobot_set: Path, tmp_path: Path) -> None:
    key_map = {"observation.state": "observation.q", "action": "action"}
    assert set(open_path(str(lerobot_set), key_map=key_map).read().arrays) == {"observation.q", "action"}
    file = str(write_robomimic_file(tmp_path / "demos.hdf5", 3, 6))
    episodes = open_path(file, key_map={"states": "observation.state", "actions": "action"}).read(["observation.state"])
    assert episodes.features["observation.state"].shape == (10,)


@pytest.mark.parametrize(("size", "shape"), [((4, 6), (4, 6)), (4, (4, 6)), (8, (8, 12)), (100, (8, 12))])
def test_images_are_brought_to_a_size(
    tmp_path: Path, numbers: dict[str, np.ndarray], size: Any, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))
    path = zarr_file(tmp_path / "d.zarr", **{name: numbers[name] for name in ("img", "wrist", "actions")})
    in_memory = open_path(path, resize_shape=size).read()
    monkeypatch.setattr("robodiff.data.cache.memory_free", lambda: 2500)
    mapped = open_path(path, resize_shape=size, cache_dir=str(tmp_path / "own")).read()
    assert (tmp_path / "own").exists()
    for name, key in (("img", "observation.image"), ("wrist", "observation.images.wrist")):
        images = numbers[name] if name == "wrist" else numbers[name].transpose(0, 3, 1, 2)
        mean = images.reshape(7, 3, shape[0], 8 // shape[0], shape[1], 12 // shape[1]).mean((3, 5))
        assert in_memory.features[key].shape == (3, *shape)
        assert np.abs(in_memory.arrays[key] - mean).max() <= 1
        np.testing.assert_array_equal(mapped.arrays[key], in_memory.arrays[key])


def test_one_agent_or_all(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "observation__state": random.normal(size=(7, 1)), "agents__10__action": random.normal(size=(7, 2)),
        "agents__2__action": random.normal(size=(7, 3)), "agents__2__observation__qpos": random.normal(size=(7, 4)),
        "agents__10__observation__qpos": random.normal(size=(7, 5)),
        "agents__2__observation__images__hand": random.integers(0, 256, (7, 5, 6, 3), np.uint8),
    }  # fmt: skip
    path = zarr_file(tmp_path / "d.zarr", **arrays)
    one = open_path(path, agent="2").read()
    assert {key: feature.shape for key, feature in one.features.items()} == {
        "observation.state": (1,), "action": (3,), "observation.qpos": (4,), "observation.images.hand": (3, 5, 6)
    }  # fmt: skip
    team = open_path(path).read()
    assert team.features.keys() == {"observation.state", "action", "observation.qpos", "observation.images.agent2_hand"}
    actions = [arrays["agents__2__action"], arrays["agents__10__action"]]  # 2 comes before 10
    np.testing.assert_array_equal(team.arrays["action"], np.concatenate(actions, axis=1).astype(np.float32))
    assert team.features["observation.qpos"].shape == (9,)
    with pytest.raises(UsageError, match="has no agent '1'; there is 2, 10"):
        open_path(path, agent="1").read()


def test_what_there_is_is_told_without_decoding_images(
    tmp_path: Path, numbers: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zarr_file(tmp_path / "d.zarr", **numbers)
    monkeypatch.setattr("robodiff.data.stored.as_images", None)
    episodes, images = open_path(path, episodes=[1]).overview()
    assert images == {"observation.image": Feature("image", (3, 8, 12), "uint8"),
                      "observation.images.wrist": Feature("image", (3, 8, 12), "uint8")}  # fmt: skip
    assert episodes.lengths.tolist() == [4]
    np.testing.assert_array_equal(episodes.arrays["observation.state"], numbers["state"][3:].astype(np.float32))
    assert sorted(episodes.unread) == ["data/depth", "data/reward"]


def test_numbers_are_checked_before_images_are_decoded(tmp_path: Path, numbers: dict[str, np.ndarray]) -> None:
    numbers["state"][4, 1] = np.nan
    numbers["img"] = np.full((7, 8, 12, 3), 0.5, np.float32)  # which no image is
    with pytest.raises(RobodiffError, match="data/state is not finite at frame 1 of episode 1"):
        open_path(zarr_file(tmp_path / "d.zarr", **numbers)).read()


def test_how_a_command_is_told_of_a_recording() -> None:
    config = ZarrConfig(path="a b.zarr", key_map={"s": "action"}, fps=12.5, resize_shape=(4, 6), train_batch_size=3)
    assert words_of(config) == [
        "a b.zarr", "--key_map", '{"s": "action"}', "--fps", "12.5", "--resize_shape", "[4, 6]"
    ]  # fmt: skip
    assert words_of(LeRobotConfig(repo_id="someone/set", revision="v3")) == ["someone/set", "--revision", "v3"]


def test_formats_are_known_without_heavy_libraries() -> None:
    code = """
import sys
from robodiff.data.recordings import formats
assert len(list(formats())) >= 8
heavy = {"torch", "zarr", "pyarrow", "av", "h5py", "gymnasium", "lightning"} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
