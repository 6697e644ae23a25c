"""Reading and writing zarr recordings, whole and broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.readers import read_zarr

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


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_is_written_is_read(tmp_path: Path, arrays: dict[str, np.ndarray], zarr_format: int) -> None:
    writer = ZarrWriter(tmp_path / "w.zarr", 10.0, "pusht", zarr_format=zarr_format)
    writer.append({key: array[:3] for key, array in arrays.items()}, seed=4, success=True)
    writer.append({key: array[3:] for key, array in arrays.items()}, seed=6, success=False)
    writer.close()
    assert json.loads((tmp_path / "w.zarr" / ("zarr.json" if zarr_format == 3 else ".zgroup")).read_text())[
        "zarr_format"] == zarr_format  # fmt: skip
    episodes = read_zarr(tmp_path / "w.zarr")  # layout and rate are in the file
    np.testing.assert_array_equal(episodes.arrays["action"], arrays["action"])
    np.testing.assert_array_equal(episodes.arrays["observation.image"], arrays["img"].transpose(0, 3, 1, 2))
    assert episodes.table == {"seed": [4, 6], "success": [True, False]}
    assert sorted(read_zarr(tmp_path / "w.zarr", key_map={"action": "action"}).unread) == ["data/img", "data/state"]
    assert (episodes.fps, episodes.episode_ends.tolist()) == (10.0, [3, 7])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_writer_stopped_at_any_write_goes_on(
    tmp_path: Path, arrays: dict[str, np.ndarray], zarr_format: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop it before each file that it writes in turn: whole episodes stay readable, and going on ends the same."""
    parts = [{key: array[rows] for key, array in arrays.items()} for rows in (slice(0, 3), slice(3, 7))]
    put, left = zarr.storage._local._put, 0

    def failing(*args: object, **kwargs: object) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return put(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(zarr.storage._local, "_put", failing)
    for stop in range(1000):
        path, left = tmp_path / f"{stop}.zarr", 10**9
        writer = ZarrWriter(path, 10.0, "pusht", zarr_format=zarr_format)
        writer.append(parts[0], seed=0)
        left, stopped = stop, False
        try:
            writer.append(parts[1], seed=1)
        except OSError:
            stopped = True
        left = 10**9
        kept = read_zarr(path)
        assert kept.episode_ends.tolist() in ([3], [3, 7])
        np.testing.assert_array_equal(kept.arrays["action"], arrays["action"][: kept.episode_ends[-1]])
        again = ZarrWriter(path, 10.0, "pusht", zarr_format=zarr_format)
        assert (again.episodes, again.column("seed").tolist()) == (len(kept), [0, 1][: len(kept)])
        for index in range(again.episodes, 2):
            again.append(parts[index], seed=index)
        again.close()
        whole = read_zarr(path)
        assert (whole.episode_ends.tolist(), whole.table["seed"]) == ([3, 7], [0, 1])
        np.testing.assert_array_equal(whole.arrays["observation.state"], arrays["state"][:, :2])
        np.testing.assert_array_equal(whole.arrays["observation.image"], arrays["img"].transpose(0, 3, 1, 2))
        if not stopped:
            break
    assert stop > 8  # five arrays, each lengthened and filled
    with pytest.raises(RobodiffError, match="holds another recording"):
        ZarrWriter(path, 10.0, "pusht", recipe={"action_noise": 3.0}, zarr_format=zarr_format)


def test_images_are_compressed_fast_and_numbers_small(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    ZarrWriter(tmp_path / "w.zarr", 10.0, "pusht").append(arrays)
    data: Any = zarr.open_group(tmp_path / "w.zarr", mode="r")["data"]
    assert {key: data[key].compressors[0].clevel for key in arrays} == {"state": 9, "action": 9, "img": 5}


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
