"""robomimic's HDF5 files: read as they are, written so that they come back the same, refused when broken."""

import dataclasses
import fcntl
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tests.conftest import write_robomimic_file
from tests.readers import read_robomimic

from robodiff.data.datamodule import WindowDataModule
from robodiff.data.episodes import Episodes, Feature
from robodiff.data.formats import pieces
from robodiff.data.formats.robomimic import RobomimicConfig
from robodiff.data.formats.robomimic_writer import write_robomimic
from robodiff.data.windows import WindowShape, epoch_order
from robodiff.errors import RobodiffError, UsageError, notice

AGENT, HAND = "observation.images.agentview", "observation.images.robot0_eye_in_hand"
EEF, OBJECT = "observation.robot0_eef_pos", "observation.object"
PLACES = {AGENT: "obs/agentview_image", HAND: "obs/robot0_eye_in_hand_image", EEF: "obs/robot0_eef_pos",
          "observation.robot0_eef_quat": "obs/robot0_eef_quat", OBJECT: "obs/object",
          "observation.robot0_gripper_qpos": "obs/robot0_gripper_qpos", "action": "actions"}  # fmt: skip
Edit = Callable[[Any], object]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_robomimic_file(tmp_path / "demos.hdf5", size=6)


def edit(path: Path, change: Edit) -> None:
    with h5py.File(path, "a") as file:
        change(file)


def reference(path: Path, key: str, demo: int, frames: list[int]) -> np.ndarray:
    """Frames as a straightforward reader finds them."""
    with h5py.File(path, "r") as file:
        found = np.stack([file[f"data/demo_{demo}/{PLACES[key]}"][frame] for frame in frames])  # type: ignore[index]
    return found.transpose(0, 3, 1, 2) if found.ndim == 4 else found.astype(np.float32)  # HWC -> CHW


def test_everything_in_the_order_of_the_numbers(file: Path) -> None:
    episodes = read_robomimic(file)
    assert set(episodes.arrays) == set(PLACES)  # neither states nor rewards nor next_obs
    assert episodes.lengths.tolist() == [8 + number % 3 for number in range(12)]
    assert (episodes.fps, episodes.episode_ends.dtype) == (20.0, np.int64)
    assert episodes.features[AGENT] == Feature("image", (3, 6, 6), "uint8")
    assert episodes.features["action"] == Feature("vector", (7,), "float32")
    for demo in range(12):
        for key, array in episodes.arrays.items():
            expected = reference(file, key, demo, list(range(8 + demo % 3)))
            np.testing.assert_array_equal(array[episodes.slice(demo)], expected)
    assert episodes.table["demo"] == [f"demo_{number}" for number in range(12)]
    assert episodes.table["mask.valid"] == [number in (2, 10) for number in range(12)]
    assert "model_file" not in episodes.table
    assert sorted(episodes.unread) == ["next_obs/object", "rewards", "states"]


def test_windows_of_what_is_held_out_frame_for_frame(file: Path) -> None:
    shape = WindowShape(n_obs_steps=2, horizon=8, n_action_steps=4, frame_stride=2)
    config = RobomimicConfig(path=str(file), filter_key="train", val_filter_key="valid", val_batch_size=5)
    module = WindowDataModule(config, shape, None, seed=0)
    assert [module.episodes.table["demo"][place] for place in module.train_episodes] == [
        f"demo_{number}" for number in range(12) if number not in (2, 10)]  # fmt: skip
    places = [(demo, now) for demo, length in ((2, 10), (10, 9)) for now in range(length - shape.drop_n_last_frames)]
    order, seen = epoch_order(len(places), config.val_split_seed, 0).tolist(), 0
    for batch in module.val_dataloader():
        for row in range(len(batch["action"])):
            demo, now = places[order[seen]]
            frames = [min(max(now + 2 * (step - 1), 0), 7 + demo % 3) for step in range(8)]
            for key in PLACES:
                expected = reference(file, key, demo, frames if key == "action" else frames[:2])
                np.testing.assert_array_equal(batch[key][row].numpy(), expected)
            seen += 1
    assert seen == len(places) > 5


def test_some_keys_and_demonstrations(file: Path, cache: Path) -> None:
    every = read_robomimic(file)
    for path in cache.iterdir():
        path.unlink()
    some = read_robomimic(file, [EEF, "action"], episodes=[10, 2])
    assert (list(some.arrays), list(cache.iterdir())) == ([EEF, "action"], [])
    assert (some.table["demo"], some.table["episode_index"]) == (["demo_2", "demo_10"], [2, 10])
    expected = np.concatenate([every.arrays[EEF][every.slice(number)] for number in (2, 10)])
    np.testing.assert_array_equal(some.arrays[EEF], expected)
    filtered = read_robomimic(file, [EEF, "action"], episodes=[0, 1, 2, 3], filter_key="train")
    assert filtered.table["demo"] == ["demo_0", "demo_1", "demo_3"]  # the numbers are the file's, not the filter's
    small = read_robomimic(file, [HAND, "action"], episodes=[3], resize_shape=(4, 5))
    assert small.features[HAND] == Feature("image", (3, 4, 5), "uint8")


def test_the_cache_is_of_what_shaped_it(
    file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(**options: Any) -> np.ndarray:
        return read_robomimic(file, [AGENT, "action"], **options).arrays[AGENT]

    first = read()
    assert isinstance(first, np.memmap)
    assert len(list(cache.iterdir())) == 1
    next(cache.iterdir()).unlink()
    monkeypatch.setattr(pieces, "BLOCK", 500)  # blocks of a few frames
    np.testing.assert_array_equal(read(), first)
    assert len(read(filter_key="valid")) == 19
    assert read(resize_shape=(4, 4)).shape[1:] == (3, 4, 4)
    assert len(list(cache.iterdir())) == 3  # its name says which frames, and their size
    edit(file, lambda f: f["data/demo_0/obs/agentview_image"].write_direct(np.zeros((8, 6, 6, 3), np.uint8)))
    assert not read()[:8].any()
    read_robomimic(file, [AGENT, "action"], cache_dir=str(tmp_path / "elsewhere"))
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def shape_meta(**changes: Any) -> dict[str, Any]:
    obs = {"agentview_image": {"shape": [3, 6, 6], "type": "rgb"}, "robot0_eef_pos": {"shape": [3]}}
    return {"obs": {**obs, **changes}, "action": {"shape": [7]}}


def test_shape_meta_selects_and_checks(file: Path) -> None:
    assert set(read_robomimic(file, shape_meta=shape_meta()).arrays) == {AGENT, EEF, "action"}
    assert list(read_robomimic(file, [EEF, "action"], shape_meta=shape_meta()).arrays) == [EEF, "action"]
    with pytest.raises(RobodiffError, match=r"has no 'observation\.object'; it has "):
        read_robomimic(file, [OBJECT, "action"], shape_meta=shape_meta())
    for changes, message in (
        ({"lefteye_image": {"shape": [3, 6, 6], "type": "rgb"}},
         r"obs/lefteye_image is absent, but shape_meta says rgb of shape \[3, 6, 6\]"),
        ({"agentview_image": {"shape": [6, 6, 3], "type": "rgb"}},
         r"obs/agentview_image is rgb of shape \[3, 6, 6\], but shape_meta says rgb of shape \[6, 6, 3\]"),
        ({"agentview_image": {"shape": [3, 6, 6]}}, "agentview_image is rgb .*, but shape_meta says low_dim"),
        ({"robot0_eef_pos": {"shape": [4]}}, r"obs/robot0_eef_pos is low_dim of shape \[3\], but .* shape \[4\]"),
    ):  # fmt: skip
        with pytest.raises(RobodiffError, match=message):
            read_robomimic(file, shape_meta=shape_meta(**changes))
    with pytest.raises(RobodiffError, match=r"actions is low_dim of shape \[7\], but shape_meta says .* \[10\]"):
        read_robomimic(file, shape_meta={**shape_meta(), "action": {"shape": [10]}})


def test_the_rate(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_robomimic(file, [EEF, "action"], fps=12.5).fps == 12.5
    for said in ("no JSON", "{}", "[]", json.dumps({"env_kwargs": {"control_freq": 0}})):
        edit(file, lambda f, said=said: f["data"].attrs.__setitem__("env_args", said))
        notice.cache_clear()
        assert read_robomimic(file, [EEF, "action"]).fps == 10.0
        assert "does not say how many frames a second it has; taken as 10; say it with --fps" in capsys.readouterr().err
        assert read_robomimic(file, [EEF, "action"], fps=20.0).fps == 20.0


def test_what_is_neither_numbers_nor_images(file: Path) -> None:
    edit(file, lambda f: f.create_dataset("data/demo_0/obs/depth", data=np.zeros((8, 6, 6, 1), np.float32)))
    episodes = read_robomimic(file)
    assert set(episodes.arrays) == set(PLACES)
    assert [f.message for f in episodes.findings] == ["obs/depth, float32 of shape (6, 6, 1), is left out"]
    message = "obs/depth is float32 of shape (6, 6, 1), neither numbers nor images that can be read"
    with pytest.raises(RobodiffError, match=re.escape(message)):
        read_robomimic(file, ["observation.depth", "action"])
    with pytest.raises(RobodiffError, match=r"obs/depth is float32 .*, but shape_meta says rgb of shape \[1, 6, 6\]"):
        read_robomimic(file, shape_meta=shape_meta(depth={"shape": [1, 6, 6], "type": "rgb"}))


def test_attributes_are_columns(file: Path) -> None:
    edit(file, lambda f: f["data/demo_1"].attrs.update({"success": True, "operator": "a", "init": np.zeros(3)}))
    table = read_robomimic(file, [EEF, "action"], episodes=[0, 1]).table
    assert (table["success"], table["operator"]) == ([None, True], [None, "a"])
    assert "init" not in table


def replace(place: str, values: Any) -> Edit:
    def change(file: Any) -> None:
        del file[place]
        if values is not None:
            file[place] = values

    return change


def without_frames(file: Any) -> None:
    for place in PLACES.values():
        replace(f"data/demo_4/{place}", file[f"data/demo_4/{place}"][:0])(file)


def spoil(file: Any) -> None:
    file["data/demo_3/obs/robot0_eef_pos"][5, 1] = np.nan


FAULTS: list[tuple[Edit, str]] = [
    (replace("data", None), r"holds no demonstrations; expected data/demo_0"),
    (lambda f: [f["data"].pop(name) for name in list(f["data"])], r"holds no demonstrations"),
    (lambda f: [f[f"data/{name}"].pop("obs") for name in f["data"]], r"has no group obs/; extract the obs"),
    (replace("data/demo_0/actions", None), r"demo_0 has no actions, which others have"),
    (replace("data/demo_4/actions", None), r"demo_4 has no actions, which others have"),
    (replace("data/demo_4/obs/object", None), r"demo_4 has no obs/object, which others have; leave it out"),
    (replace("data/demo_4/obs/object", np.zeros((7, 10))), r"obs/object of demo_4 has 7 frames, but actions says 9"),
    (replace("data/demo_4/obs/object", np.zeros((9, 11))),
     r"obs/object of demo_4 is float64 \(9, 11\); expected float64 \(10,\)"),
    (replace("data/demo_4/obs/agentview_image", np.full((9, 6, 6, 3), 0.5, np.float32)),
     r"obs/agentview_image must be whole numbers from 0 to 255"),
    (replace("data/demo_4/obs/agentview_image", np.zeros((9, 6, 6, 1), np.float32)),
     r"obs/agentview_image of demo_4 is float32 \(9, 6, 6, 1\); expected uint8 \(6, 6, 3\)"),
    (replace("data/demo_4/actions", np.array([b"left"] * 9)), r"actions of demo_4 is \|S4 \(9\); expected float64"),
    (lambda f: f["data/demo_4"].attrs.__setitem__("num_samples", 8),
     r"actions of demo_4 has 9 frames, but num_samples is 8"),
    (lambda f: f["data/demo_4"].create_dataset("obs/late", (9, 2), "f4", chunks=(3, 2)),
     r"demo_0 has no obs/late|obs/late of demo_4 was not written in whole: 0 of 3 chunks"),
    (without_frames, r"actions of demo_4 has 0 frames, but num_samples is 9"),
    (spoil, r"obs/robot0_eef_pos is not finite at frame 5 of demo_3; mend or drop it"),
    (lambda f: f.__setitem__("data/demo_0/obs/agentview", np.zeros((8, 6, 6, 3), np.uint8)),
     r"obs/agentview and obs/agentview_image would both be called observation\.images\.agentview"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[message[:40] for _, message in FAULTS])
def test_faults_name_file_key_and_demonstration(file: Path, fault: Edit, message: str) -> None:
    edit(file, fault)
    with pytest.raises(RobodiffError, match=rf"^{file}.*: {message}"):
        read_robomimic(file)


def test_filters_that_cannot_be_meant(file: Path) -> None:
    def refused(kind: type[Exception], message: str, **options: Any) -> None:
        with pytest.raises(kind, match=message):
            read_robomimic(file, [EEF, "action"], **options)

    refused(UsageError, r"has no filter key 'trian'; there is train, valid\. Did you mean 'train'", filter_key="trian")
    refused(UsageError, "no demonstration is left to train on", filter_key="train", episodes=[2, 10])
    refused(UsageError, "no demonstration is left to hold out", val_filter_key="valid", episodes=[0])
    refused(UsageError, r"data\.episodes.* different numbers .*; found \[12\]", episodes=[12])
    edit(file, replace("mask/valid", np.array([b"demo_2", b"demo_12"])))
    refused(RobodiffError, "mask/valid names 'demo_12', which is not in data/", val_filter_key="valid")
    edit(file, replace("mask/valid", np.array(["demo_3"], h5py.string_dtype())))
    refused(RobodiffError, "mask/train and mask/valid both name 'demo_3'", filter_key="train", val_filter_key="valid")
    edit(file, replace("mask", None))
    refused(UsageError, "has no filter key 'train'; there is no mask/", filter_key="train")


def test_held_out_demonstrations_are_not_trained_on(file: Path) -> None:
    config = RobomimicConfig(path=str(file), val_filter_key="valid", val_split=0.5)
    train, held_out = config.split(config.read(["observation.object"]))
    assert (held_out.tolist(), train.tolist()) == ([2, 10], [number for number in range(12) if number not in (2, 10)])


def test_files_that_are_not_hdf5(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RobodiffError, match=r"nowhere\.hdf5: no such file"):
        read_robomimic(tmp_path / "nowhere.hdf5")
    content = file.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2], content[:-1]):
        file.write_bytes(damaged)
        with pytest.raises(
            RobodiffError, match=rf"^{file}: is not an HDF5 file, or a broken one: .*; copy or download"
        ):
            read_robomimic(file)


def test_a_file_that_is_being_written(file: Path) -> None:
    with file.open() as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(RobodiffError, match=rf"^{file}: another process is writing to it; wait until it has ended"):
            read_robomimic(file)


def test_images_that_cannot_be_decompressed(file: Path) -> None:
    with h5py.File(file) as opened:
        chunk: Any = opened["data/demo_4/obs/agentview_image"]
        place = chunk.id.get_chunk_info(0).byte_offset
    content = bytearray(file.read_bytes())
    content[place : place + 20] = b"\xff" * 20
    file.write_bytes(content)
    with pytest.raises(
        RobodiffError, match=rf"^{file}: is not an HDF5 file, or a broken one: .*filter returned failure"
    ):
        read_robomimic(file)


def test_more_than_memory_has_room_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "memory_free", lambda: 20_000)
    with pytest.raises(RobodiffError, match=r"takes 0\.0 GB, more than memory has room for"):
        read_robomimic(file)


def test_written_and_read_again(file: Path, tmp_path: Path) -> None:
    first = read_robomimic(file)
    table = {**first.table, "success": [n % 2 == 0 for n in range(12)], "seed": list(range(12)), "task": ["lift"] * 12}
    first = dataclasses.replace(first, fps=12.5, table=table)
    done: list[int] = []
    write_robomimic(first, tmp_path / "again.hdf5", done.append)
    again = read_robomimic(tmp_path / "again.hdf5")
    assert done == list(range(1, 13))
    assert set(again.arrays) == set(first.arrays)
    for key, array in first.arrays.items():
        np.testing.assert_array_equal(again.arrays[key], array)
        assert again.features[key] == first.features[key]
    assert (again.fps, again.table) == (12.5, first.table)
    assert again.episode_ends.tolist() == first.episode_ends.tolist()
    with h5py.File(tmp_path / "again.hdf5") as opened:
        assert opened["data"].attrs["total"] == 108
        assert opened["data/demo_1"].attrs["num_samples"] == 9


def made_up(**arrays: np.ndarray) -> Episodes:
    named = {key.replace("__", "."): array for key, array in arrays.items()}
    features = {key: Feature.of(array) for key, array in named.items()}
    return Episodes("made up", named, np.array([2, 5]), 10.0, features)


def test_names_and_environment_of_robomimics_own_come_back(file: Path, tmp_path: Path) -> None:
    environment = {"env_name": "Can", "type": 1, "env_kwargs": {"control_freq": 20, "robots": ["Panda"]}, "v": "1.4"}

    def change(opened: Any) -> None:
        opened["data"].attrs["env_args"] = json.dumps(environment, indent=4)
        for demo in opened["data"].values():
            demo.move("obs/agentview_image", "obs/agentview_rgb")

    edit(file, change)
    first = read_robomimic(file)
    for fps, rate in ((20.0, 20), (12.5, 12.5)):
        write_robomimic(dataclasses.replace(first, fps=fps), tmp_path / "again.hdf5")
        again = read_robomimic(tmp_path / "again.hdf5")
        assert (again.places, again.fps) == (first.places, fps)
        with h5py.File(tmp_path / "again.hdf5") as opened:
            assert "agentview_rgb" in opened["data/demo_0/obs"]  # type: ignore[operator]
            found = json.loads(opened["data"].attrs["env_args"])  # type: ignore[arg-type]
        expected = {**environment, "env_kwargs": {"control_freq": rate, "robots": ["Panda"]}}
        assert found == expected


IMAGES, NUMBERS = np.arange(60, dtype=np.uint8).reshape(5, 3, 2, 2), np.arange(10, dtype=np.float32).reshape(5, 2)


def test_names_come_back(tmp_path: Path) -> None:
    episodes = made_up(
        observation__image=IMAGES, observation__images__image=IMAGES, observation__images__rgb_image=IMAGES,
        observation__state=NUMBERS, observation__front_image=NUMBERS, action=NUMBERS,
    )  # fmt: skip
    write_robomimic(episodes, tmp_path / "names.hdf5")
    again = read_robomimic(tmp_path / "names.hdf5")
    assert again.features == episodes.features


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.hdf5"
    with pytest.raises(RobodiffError, match="has no 'action'"):
        write_robomimic(made_up(observation__state=NUMBERS), out)
    twins = made_up(observation__front=IMAGES, observation__images__front=IMAGES, action=NUMBERS)
    with pytest.raises(RobodiffError, match=r"would both be obs/front_image; rename one of them"):
        write_robomimic(twins, out)
    huge = dataclasses.replace(twins, arrays={"action": np.broadcast_to(np.float32(0), (5, 2**57))})
    with pytest.raises(OSError, match=rf"(File too large|No space left on device): '{out}'"):
        write_robomimic(huge, out)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_robomimic(made_up(observation__state=NUMBERS, action=NUMBERS), tmp_path / "out.hdf5", stop)
    assert list(tmp_path.iterdir()) == []
