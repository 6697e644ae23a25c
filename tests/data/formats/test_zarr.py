"""Reading and writing zarr recordings, whole and broken."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.readers import read_zarr

from robodiff.data.episodes import Episodes, Feature
from robodiff.data.formats.convert import convert
from robodiff.data.formats.zarr_writer import ZarrWriter, pack_zip
from robodiff.envs.pusht.geometry import corners_from_pose
from robodiff.errors import RobodiffError, UsageError


def plain(path: Path, arrays: dict[str, np.ndarray], ends: object = (3, 7), zarr_format: int = 2) -> Path:
    """A recording as other code writes it: no attributes."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    for key, array in arrays.items():
        group.create_array(f"data/{key}", data=array)
    group.create_array("meta/episode_ends", data=np.asarray(ends))
    return path


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "state": random.uniform(0, 512, (7, 5)).astype(np.float32),
        "action": random.uniform(0, 512, (7, 2)).astype(np.float32),
        "img": random.integers(0, 256, (7, 8, 6, 3)).astype(np.uint8),
    }


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_pusht_layout(tmp_path: Path, arrays: dict[str, np.ndarray], zarr_format: int, packed: bool) -> None:
    path = plain(tmp_path / "d.zarr", arrays, zarr_format=zarr_format)
    if packed:
        pack_zip(path, tmp_path / "d.zarr.zip")
        path = tmp_path / "d.zarr.zip"
    episodes = read_zarr(path, "pusht", fps=10.0)
    assert set(episodes.arrays) == {"observation.state", "observation.environment_state", "observation.image", "action"}
    np.testing.assert_array_equal(episodes.arrays["observation.state"], arrays["state"][:, :2])
    np.testing.assert_allclose(
        episodes.arrays["observation.environment_state"], corners_from_pose(arrays["state"][:, 2:]), rtol=1e-6
    )
    np.testing.assert_array_equal(episodes.arrays["observation.image"], arrays["img"].transpose(0, 3, 1, 2))
    assert episodes.episode_ends.tolist() == [3, 7]
    assert episodes.lengths.tolist() == [3, 4]
    assert episodes.features["action"].unit == "px"


def test_other_layouts_and_key_maps(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    nchw = arrays["img"].transpose(0, 3, 1, 2)
    data = {"state": arrays["state"], "action": arrays["action"], "head_camera": nchw, "img": nchw.astype(np.float32)}
    path = plain(tmp_path / "d.zarr", data)
    robofactory = read_zarr(path, "robofactory", fps=20.0)
    assert set(robofactory.arrays) == {"observation.images.head_camera", "observation.state", "action"}
    image = read_zarr(path, "img", fps=20.0).arrays["observation.image"]
    assert image.dtype == np.uint8  # float images of whole numbers
    np.testing.assert_array_equal(image, nchw)
    mapped = read_zarr(path, key_map={"state": "observation.joints", "action": "action"}, fps=20.0)
    np.testing.assert_array_equal(mapped.arrays["observation.joints"], arrays["state"])


def test_only_wanted_keys_are_read(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    arrays["img"] = np.zeros((1, 1, 1, 1), np.uint8)  # broken, but nobody asks for it
    path = plain(tmp_path / "d.zarr", arrays)
    assert set(read_zarr(path, "pusht", keys=["observation.state", "action"], fps=10.0).arrays) == {
        "observation.state", "action"}  # fmt: skip


def test_arrays_that_do_not_fit_memory_are_mapped(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain(tmp_path / "d.zarr", arrays)
    whole = read_zarr(path, "pusht", fps=10.0)
    monkeypatch.setattr("robodiff.data.cache.memory_free", lambda: 2000)
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))
    mapped = read_zarr(path, "pusht", fps=10.0)
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 1  # the images; the vectors are small
    np.testing.assert_array_equal(whole.arrays["observation.image"], mapped.arrays["observation.image"])
    modified = files[0].stat().st_mtime_ns
    read_zarr(path, "pusht", fps=10.0)
    assert files[0].stat().st_mtime_ns == modified  # decoded once
    plain(path, {**arrays, "img": arrays["img"][:, ::-1]})
    np.testing.assert_array_equal(
        read_zarr(path, "pusht", fps=10.0).arrays["observation.image"], arrays["img"][:, ::-1].transpose(0, 3, 1, 2)
    )


def nan_action(a: dict[str, np.ndarray]) -> None:
    a["action"][5, 1] = np.nan


def short_action(a: dict[str, np.ndarray]) -> None:
    a["action"] = a["action"][:6]


def no_action(a: dict[str, np.ndarray]) -> None:
    del a["action"]


def wide_state(a: dict[str, np.ndarray]) -> None:
    a["state"] = np.ones((7, 6), np.float32)


def fractional_image(a: dict[str, np.ndarray]) -> None:
    a["img"] = np.full((7, 8, 6, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    ("change", "ends", "message"),
    [
        (nan_action, (3, 7), r"d\.zarr: data/action is not finite at frame 2 of episode 1"),
        (short_action, (3, 7), r"d\.zarr: data/action has 6 frames, but the last episode ends at 7"),
        (no_action, (3, 7), r"d\.zarr: action is missing\. It holds data/img, data/state"),
        (wide_state, (3, 7), r"d\.zarr: data/state must be 5 numbers a frame; found shape \(7, 6\)"),
        (fractional_image, (3, 7), r"d\.zarr: data/img must be whole numbers from 0 to 255, unlike frame 0"),
        (None, (3, 3, 7), "episode_ends must increase from above 0; episode 1 ends at frame 3"),
        (None, (5, 3, 7), "episode_ends must increase from above 0; episode 1"),
        (None, (3, 9), r"data/state has 7 frames, but the last episode ends at 9"),
        (None, (3.0, 7.0), "episode_ends must be a list of whole numbers"),
    ],
)
def test_broken_recordings_are_refused(
    tmp_path: Path,
    arrays: dict[str, np.ndarray],
    change: Callable[[dict[str, np.ndarray]], None] | None,
    ends: tuple,
    message: str,
) -> None:
    if change is not None:
        change(arrays)
    with pytest.raises(RobodiffError, match=message):
        read_zarr(plain(tmp_path / "d.zarr", arrays, ends), "pusht", fps=10.0)


def test_files_that_are_no_recording(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(RobodiffError, match="no such file"):
        read_zarr(tmp_path / "absent.zarr", "pusht")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(RobodiffError, match="is not a zarr group"):
        read_zarr(tmp_path / "text.zip", "pusht")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RobodiffError, match="is not a zarr group"):
        read_zarr(tmp_path / "empty", "pusht")
    path = plain(tmp_path / "d.zarr", arrays)
    with pytest.raises(UsageError, match=r"unknown layout 'push'; there is .*Did you mean 'pusht'"):
        read_zarr(path, "push")
    chunk = next(p for p in (path / "data" / "state").rglob("*") if p.is_file() and not p.name.startswith("."))
    chunk.write_bytes(b"not what a compressor wrote")
    with pytest.raises(RobodiffError, match=r"data/state/0.0 decodes to more than the 140 bytes"):
        read_zarr(path, "pusht", fps=10.0)


@pytest.mark.parametrize(
    ("array", "claims", "message"),
    [
        ("data/action", {"shape": [2**40, 2]}, r"data/action has 1,099,511,627,776 frames, but the last"),
        ("data/action", {"shape": [7, 2**19]}, "data/action has 262,144 chunks, of which most were never written"),
        ("data/action", {"shape": [7, 2**40]}, r"data/action is float32 of shape \(1099511627776,\), neither numbers"),
        ("data/action", {"shape": [7, 2**19], "chunks": [2**30, 2**19]}, r"data/action has .* in chunks .*, more"),
        ("meta/episode_ends", {"shape": [2**40]}, r"episode_ends has 1,099,511,627,776 rows, but there are 7 frames"),
        ("data/action", {"compressor": {"id": "pickle"}, "filters": [{"id": "vlen-utf8"}], "dtype": "|O",
                         "fill_value": ""}, "data/action is pickled, and a pickle may run any code"),
    ],
)  # fmt: skip
def test_claims_are_refused_before_anything_is_decoded(
    tmp_path: Path, arrays: dict[str, np.ndarray], array: str, claims: dict, message: str
) -> None:
    path = plain(tmp_path / "d.zarr", arrays)
    metadata = path / array / ".zarray"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), **claims}))
    with pytest.raises(RobodiffError, match=message):
        read_zarr(path, "pusht", fps=10.0)


def test_what_is_no_array_no_file_or_too_short(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = plain(tmp_path / "d.zarr", arrays)
    zarr.open_group(path).create_array("meta/seed", data=np.zeros(1))
    episodes = read_zarr(path, "pusht", fps=10.0)  # which is not trained on
    assert [(f.severity, f.message) for f in episodes.findings] == [("warning", "meta/seed has 1 of 2 rows")]
    del zarr.open_group(path)["meta/seed"]
    zarr.open_group(path).create_group("data/img", overwrite=True)
    with pytest.raises(RobodiffError, match=r"data/img must be an array .* found a group"):
        read_zarr(path, "pusht", fps=10.0)
    zarr.open_group(path).attrs["robodiff"] = {"fps": -1.0}
    with pytest.raises(RobodiffError, match=r"d\.zarr: is not a zarr group.*fps: expected float > 0.*found -1\.0"):
        read_zarr(path, "pusht")
    (path / "data" / "more").symlink_to("/dev/zero")
    with pytest.raises(RobodiffError, match="data/more: is neither a file nor a folder"):
        read_zarr(path, "pusht", fps=10.0)


def test_a_zip_that_unpacks_to_more_than_memory_holds(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_zip(plain(tmp_path / "d.zarr", arrays), tmp_path / "d.zip")
    monkeypatch.setattr("robodiff.data.formats.pieces.memory_free", lambda: 600)
    with pytest.raises(RobodiffError, match=r"d\.zip: .* takes .*, more than memory has room for"):
        read_zarr(tmp_path / "d.zip", "pusht", fps=10.0)


def test_what_is_written_is_read(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    writer = ZarrWriter(tmp_path / "w.zarr", 10.0, "pusht")
    writer.append({key: array[:3] for key, array in arrays.items()}, seed=4, success=True)
    writer.append({key: array[3:] for key, array in arrays.items()}, seed=6, success=False, collision=2)
    for is_closed in (False, True):
        episodes = read_zarr(tmp_path / "w.zarr")  # layout and rate are in the file
        np.testing.assert_array_equal(episodes.arrays["action"], arrays["action"])
        np.testing.assert_array_equal(episodes.arrays["observation.image"], arrays["img"].transpose(0, 3, 1, 2))
        assert episodes.table == {"seed": [4, 6], "success": [True, False], "collision": [0, 2]}
        mapped = read_zarr(tmp_path / "w.zarr", key_map={"action": "action"})
        assert sorted(mapped.unread) == ["data/img", "data/state"]
        assert (episodes.fps, episodes.episode_ends.tolist(), writer.complete) == (10.0, [3, 7], is_closed)
        writer.close()


def test_a_writer_stopped_at_any_write_goes_on(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop it before each file that it writes in turn: whole episodes stay readable, and going on ends the same."""
    parts = [{key: array[rows] for key, array in arrays.items()} for rows in (slice(0, 3), slice(3, 7))]
    opened, left = Path.open, 10**9

    def failing(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= mode != "r" and mode != "rb"
        if left < 0:
            raise OSError(28, "No space left on device")
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    for stop in range(1000):
        path, left = tmp_path / f"{stop}.zarr", 10**9
        writer = ZarrWriter(path, 10.0, "pusht")
        writer.append(parts[0], seed=0)
        left, stopped = stop, False
        try:
            writer.append(parts[1], seed=1, collision=1)
            writer.close()
        except OSError:
            stopped = True
        left = 10**9
        kept = read_zarr(path)
        assert kept.episode_ends.tolist() in ([3], [3, 7])
        np.testing.assert_array_equal(kept.arrays["action"], arrays["action"][: kept.episode_ends[-1]])
        again = ZarrWriter(path, 10.0, "pusht")
        assert again.episodes == len(kept)
        again.close()
        assert read_zarr(path).table["seed"] == [0, 1][: len(kept)]  # whole, and as long as its last episode says
        if again.episodes == 1:
            again.append(parts[1], seed=1, collision=1)
            again.close()
        if not stopped:
            break
    assert stop > 18  # five arrays, each filled and lengthened, then compressed
    whole = contents(path)
    assert all(contents(tmp_path / f"{stopped}.zarr") == whole for stopped in range(stop))
    with pytest.raises(RobodiffError, match="holds another recording"):
        ZarrWriter(path, 10.0, "pusht", recipe={"action_noise": 3.0})


def test_an_episode_that_could_not_be_written_is_written_again_by_the_same_writer(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    extend = ZarrWriter._extend

    def full(self: ZarrWriter, place: str, start: int, values: np.ndarray) -> None:
        if place == "meta/episode_ends":
            raise OSError(28, "No space left on device")
        extend(self, place, start, values)

    writer = ZarrWriter(tmp_path / "w.zarr", 10.0, "pusht")
    with monkeypatch.context() as patch:
        patch.setattr(ZarrWriter, "_extend", full)
        with pytest.raises(OSError, match="No space"):
            writer.append(arrays, seed=0)
    writer.append(arrays, seed=0)
    writer.close()
    episodes = read_zarr(tmp_path / "w.zarr")
    assert episodes.episode_ends.tolist() == [7]
    np.testing.assert_array_equal(episodes.arrays["action"], arrays["action"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_chunks_are_filled_over_many_episodes_and_a_recording_that_was_closed_goes_on(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    episodes = [random.normal(size=(length, 3)).astype(np.float32) for length in (700, 2048, 1, 323, 50)]
    images = [random.integers(0, 256, (len(episode), 3, 4, 4), dtype=np.uint8) for episode in episodes]
    whole = ZarrWriter(tmp_path / "whole.zarr", 10.0)
    for number, arrays in enumerate(zip(episodes, images, strict=True)):
        part = ZarrWriter(tmp_path / "parts.zarr", 10.0)
        for writer in (whole, part):
            writer.append(dict(zip(("action", "observation.image"), arrays, strict=True)), seed=number)
        part.close()
    whole.close()
    assert contents(tmp_path / "parts.zarr") == contents(tmp_path / "whole.zarr")
    group: Any = zarr.open_group(tmp_path / "whole.zarr", mode="r")  # without robodiff
    np.testing.assert_array_equal(group["data/action"][:], np.concatenate(episodes))
    np.testing.assert_array_equal(group["data/observation.image"][:], np.concatenate(images))
    assert group["meta/episode_ends"][:].tolist() == [700, 2748, 2749, 3072, 3122]


def test_an_episode_is_added_in_a_fraction_of_the_time_that_zarr_takes(tmp_path: Path) -> None:
    arrays = {f"observation.{number}": np.ones((50, 8), np.float32) for number in range(4)}
    writer, theirs = ZarrWriter(tmp_path / "ours.zarr", 10.0), zarr.open_group(tmp_path / "theirs.zarr", mode="w")
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for key, array in arrays.items():
        theirs.create_array(key, shape=(0, 8), chunks=(1024, 8), dtype=array.dtype)
    for _ in range(5):
        start = time.process_time()
        writer.append(arrays)
        seconds["ours"].append(time.process_time() - start)
        start = time.process_time()
        for key, array in arrays.items():
            theirs[key].append(array)  # type: ignore[union-attr]
        seconds["theirs"].append(time.process_time() - start)
    assert min(seconds["ours"]) < min(seconds["theirs"]) / 3


@pytest.mark.parametrize("name", ["Lift-rf_Agent0_2.zarr", "lift.zarr"])
def test_a_layout_is_written_in_zarr_2_and_read_again(tmp_path: Path, arrays: dict[str, np.ndarray], name: str) -> None:
    features = {
        "observation.state": Feature("vector", (5,), "float32", tuple("abcde"), "rad"),
        "observation.images.agentview": Feature("image", (3, 8, 6), "uint8"),
        "observation.images.head": Feature("image", (3, 8, 6), "uint8"),
        "action": Feature("vector", (2,), "float32"),
    }
    image = arrays["img"].transpose(0, 3, 1, 2)
    recorded = [arrays["state"], 255 - image, image, arrays["action"]]
    episodes = Episodes("made up", dict(zip(features, recorded, strict=True)), np.array([3, 7]), 10.0, features,
                        {"seed": [4, 6]}, team_names={key: f"agents.0.{key}" for key in features})  # fmt: skip
    assert convert(episodes, tmp_path / name, out_layout=None if "Agent" in name else "img") == []
    group: Any = zarr.open_group(tmp_path / name, mode="r", zarr_format=2)
    camera = "head_camera" if "Agent" in name else "img"
    assert {*group["data"]} == {"state", "action", camera, "observation.images.agentview"}
    np.testing.assert_array_equal(group[f"data/{camera}"][:], image)
    assert json.loads((tmp_path / name / "data/state/.zarray").read_text())["compressor"]["cname"] == "zstd"
    again = read_zarr(tmp_path / name)
    assert (again.features, again.fps, again.table) == (features, 10.0, {"seed": [4, 6]})
    for key, array in episodes.arrays.items():
        np.testing.assert_array_equal(again.arrays[key], array)
    assert again.team_names == episodes.team_names
    before = contents(tmp_path / name)
    with pytest.raises(RobodiffError, match="something that robodiff did not record"):
        ZarrWriter(tmp_path / name, 10.0)
    assert contents(tmp_path / name) == before


def test_a_zip_is_the_same_for_the_same_content(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    for name in ("a", "b"):
        pack_zip(plain(tmp_path / f"{name}.zarr", arrays), tmp_path / f"{name}.zip")
        assert not (tmp_path / f"{name}.zarr").exists()
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_the_human_demonstrations(recorded_data: Path) -> None:
    path = recorded_data / "pusht" / "pusht_human.zarr.zip"
    episodes = read_zarr(path, "pusht", keys=["observation.state", "observation.environment_state", "action"], fps=10.0)
    assert (len(episodes), len(episodes.arrays["action"])) == (206, 25_650)
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    keypoints = group["data/keypoint"][:100]  # type: ignore[index]  # (100, 9, 2), made by the original's own code
    corners = episodes.arrays["observation.environment_state"][:100].reshape(-1, 8, 2)
    centre = np.asarray(keypoints).mean(axis=1)
    assert np.abs(corners.mean(axis=1) - centre).max() < 60  # the same block, described by other points


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"action": np.ones((4, 1), np.float32)}, r"action is not as in the episodes before.*found float32 \(1,\)"),
        ({"action": np.ones((4, 2), complex)}, "action is not as in the episodes before"),
        ({"action": np.ones((4, 2)), "more": np.ones((4, 2))}, "more: not in every episode"),
        ({"other": np.ones((4, 2))}, "action, other: not in every episode"),
        ({"action": np.ones((0, 2))}, "must be equally long"),
    ],
)
def test_episodes_that_are_unlike_those_before_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    writer = ZarrWriter(tmp_path / "d.zarr", 10)
    writer.append({"action": np.ones((3, 2), np.float32)})
    with pytest.raises(RobodiffError, match=message):
        writer.append(arrays)
    writer.append({"action": np.ones((2, 2), np.float32)})
    writer.close()
    assert read_zarr(tmp_path / "d.zarr").episode_ends.tolist() == [3, 5]
