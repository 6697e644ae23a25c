"""Frames that were never written are named, and trained on only where that is asked for."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, GzipCodec, ShardingCodec, ZstdCodec

from robodiff.data.check import examine, read_sound
from robodiff.data.episodes import Finding
from robodiff.data.formats.zarr_writer import write_zarr
from robodiff.data.recordings import DataConfig, open_path
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError

pytestmark = pytest.mark.kind("frames that were never written")
WINDOW = WindowShape(n_obs_steps=2, horizon=16, n_action_steps=8)
KEYS = {"state": "observation.state", "action": "action"}


def walk(frames: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, width)).cumsum(0).astype(np.float32)


def zarr_file(path: Path, zarr_format: int, shards: bool = False) -> DataConfig:
    """Four episodes of 50 frames, in chunks of 20."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    for key, width in (("state", 3), ("action", 2)):
        shape = {"shards": (100, width)} if shards else {}
        array = group.create_array(f"data/{key}", shape=(200, width), chunks=(20, width), dtype="f4", **shape)
        array[:] = walk(200, width, width)
    group.create_array("meta/episode_ends", data=np.arange(50, 201, 50))
    group.create_array("meta/seed", data=np.arange(4))
    return open_path(str(path), key_map=KEYS, fps=10.0)


def zip_of(path: Path, inner: str = "") -> DataConfig:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        for file in path.rglob("*"):
            if file.is_file():
                archive.write(file, f"{inner}{file.relative_to(path)}")
    shutil.rmtree(path)
    return open_path(str(path.with_suffix(".zip")), key_map=KEYS, fps=10.0)


def v2(path: Path) -> DataConfig:
    source = zarr_file(path, 2)
    (path / "data/action/3.0").unlink()
    return source


def v3(path: Path) -> DataConfig:
    source = zarr_file(path, 3)
    (path / "data/action/c/3/0").unlink()
    return source


def in_a_zip(path: Path) -> DataConfig:
    v3(path)
    return zip_of(path)


def in_a_shard(path: Path) -> DataConfig:
    source = zarr_file(path, 3, shards=True)
    array = zarr.open_group(path, mode="r+")["data/action"]
    kept = np.asarray(array)
    array[:] = 0  # type: ignore[index]
    for rows in (slice(0, 60), slice(80, 200)):
        array[rows] = kept[rows]  # type: ignore[index]
    return source


def in_a_shard_without_checksum(path: Path, location: str = "end", endian: str = "little") -> DataConfig:
    """Whose index is as other writers may have it."""
    source = zarr_file(path, 3)
    kept = np.asarray(zarr.open_group(path)["data/action"])
    shutil.rmtree(path / "data/action")
    codec = ShardingCodec(
        chunk_shape=(20, 2), codecs=[BytesCodec(), ZstdCodec()], index_codecs=[BytesCodec(endian=endian)],  # type: ignore[arg-type]
        index_location=location)  # fmt: skip
    store = str(path / "data/action")
    array = zarr.create(store=store, shape=(200, 2), dtype="f4", chunks=(100, 2), codecs=[codec], zarr_format=3)
    for rows in (slice(0, 60), slice(80, 200)):
        array[rows] = kept[rows]
    return source


def in_a_shard_that_starts_with_its_index(path: Path) -> DataConfig:
    return in_a_shard_without_checksum(path, "start", "big")


def chunked_hdf5(path: Path) -> DataConfig:
    """Episodes of 50 frames; the second misses the frames from 10 to 29 of its actions."""
    path = path.with_suffix(".hdf5")
    with h5py.File(path, "w") as file:
        for number in range(4):
            file[f"data/demo_{number}/obs/eef"] = walk(50, 3, number)
            action = file.create_dataset(f"data/demo_{number}/actions", (50, 2), "f4", chunks=(10, 2), compression=1)
            values = walk(50, 2, number)
            for rows in (slice(0, 10), slice(30, 50)) if number == 1 else (slice(0, 50),):
                action[rows] = values[rows]
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
    return open_path(str(path))


MAKERS = [
    v2, v3, in_a_zip, in_a_shard, in_a_shard_without_checksum, in_a_shard_that_starts_with_its_index, chunked_hdf5,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
def test_key_episode_and_frames_are_named(tmp_path: Path, make: Callable[[Path], DataConfig]) -> None:
    source = make(tmp_path / "d.zarr")
    gaps = [f for f in examine(source, WINDOW) if f.check == "unwritten"]
    assert [(f.severity, f.episode, f.frame) for f in gaps] == [("fatal", 1, 60)]
    assert "actions" in gaps[0].message or "data/action" in gaps[0].message
    assert "was never written at frames 10 to 29 of " in gaps[0].message
    with pytest.raises(RobodiffError, match=r"never written at frames 10 to 29 of .*: data\.accept_unwritten true"):
        read_sound(source, None)


def test_it_can_be_accepted_and_is_still_told(tmp_path: Path) -> None:
    v2(tmp_path / "d.zarr")
    source = open_path(str(tmp_path / "d.zarr"), key_map=KEYS, fps=10.0, accept_unwritten=True)
    assert [f.severity for f in examine(source, WINDOW) if f.check == "unwritten"] == ["warning"]
    assert not read_sound(source, None).arrays["action"][60:80].any()


def test_episodes_that_are_not_used_may_have_gaps(tmp_path: Path) -> None:
    v2(tmp_path / "d.zarr")
    source = open_path(str(tmp_path / "d.zarr"), key_map=KEYS, fps=10.0, episodes=[0, 2, 3])
    assert not [f for f in examine(source, WINDOW) if f.severity == "fatal"]
    read_sound(source, None)


def test_arrays_that_are_not_read_may_have_gaps(tmp_path: Path) -> None:
    zarr_file(tmp_path / "d.zarr", 3)
    zarr.open_group(tmp_path / "d.zarr").create_array("data/reward", shape=(200,), chunks=(20,), dtype="f4")
    read_sound(open_path(str(tmp_path / "d.zarr"), fps=10.0), None)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_is_said_of_episodes(tmp_path: Path, zarr_format: int) -> None:
    """Of the table it is told; where episodes end must be known."""
    path = tmp_path / "d.zarr"
    source = zarr_file(path, zarr_format)
    (path / "meta/seed" / ("0" if zarr_format == 2 else "c/0")).unlink()
    findings = [f for f in examine(source, WINDOW) if "meta/" in f.message]
    assert [(f.severity, f.message) for f in findings] == [("warning", "meta/seed was never written from row 0 on")]
    assert "seed" not in read_sound(source, None).table
    (path / "meta/episode_ends" / ("0" if zarr_format == 2 else "c/0")).unlink()
    with pytest.raises(RobodiffError, match="meta/episode_ends was never written from row 0 on"):
        read_sound(source, None)


def test_zeros_that_were_written_are_data(tmp_path: Path) -> None:
    """What robodiff writes says of every chunk that it was written, also of those that are all zeros."""
    source = zarr_file(tmp_path / "d.zarr", 3)
    episodes = source.read()
    arrays = {**episodes.arrays, "action": episodes.arrays["action"].copy()}
    arrays["action"][:100] = 0
    for name in ("again.zarr", "again.zip"):
        write_zarr(type(episodes)(**{**vars(episodes), "arrays": arrays}), tmp_path / name)
        again: list[Finding] = examine(open_path(str(tmp_path / name)), WINDOW)
        assert not [f for f in again if f.check == "unwritten"]


def test_a_group_that_a_zip_holds_in_a_folder(tmp_path: Path) -> None:
    zarr_file(tmp_path / "d.zarr", 3)
    source = zip_of(tmp_path / "d.zarr", "demos/")
    np.testing.assert_array_equal(source.read().arrays["action"], walk(200, 2, 2))


def test_a_shard_that_is_compressed_as_a_whole_is_refused(tmp_path: Path) -> None:
    """What was written of it, and how large it becomes, cannot be told before it is decoded."""
    source = zarr_file(tmp_path / "d.zarr", 3)
    shutil.rmtree(tmp_path / "d.zarr/data/action")
    codecs = [ShardingCodec(chunk_shape=(20, 2)), GzipCodec()]
    store = str(tmp_path / "d.zarr/data/action")
    zarr.create(store=store, shape=(200, 2), dtype="f4", chunks=(100, 2), codecs=codecs, zarr_format=3)[:] = 1
    with pytest.raises(RobodiffError, match="data/action is encoded by gzip, of which it is not known"):
        source.read()


@pytest.mark.parametrize("rows", [400_000_000, 10**12])
def test_a_gap_of_any_size_takes_no_memory(tmp_path: Path, rows: int) -> None:
    source = chunked_hdf5(tmp_path / "d.zarr")
    with h5py.File(tmp_path / "d.hdf5", "r+") as file:
        for number in range(4):
            file.create_dataset(f"data/demo_{number}/obs/wide", (rows, 2), "u1", chunks=(1000, 2))
    messages = [f.message for f in examine(source, WINDOW) if f.severity == "fatal"]
    assert f"obs/wide of demo_0 has {rows:,} frames, but actions says 50" in messages


def test_what_divides_a_recording_must_be_written_whole(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    for key in ("state", "action"):
        group.create_array(key, data=walk(60, 2))
    numbers = group.create_array("number", shape=(60,), chunks=(20,), dtype="i4")
    numbers[40:] = 2
    (tmp_path / "recording.yaml").write_text(
        "episode_numbers: d.zarr:number\nfps: 10\narrays: {observation.state: d.zarr:state, action: d.zarr:action}\n"
    )
    with pytest.raises(RobodiffError, match="episode_numbers: was never written from row 0 on"):
        open_path(str(tmp_path)).read()
    group.create_array("number", data=np.repeat([1, 2, 1], 20), overwrite=True)
    with pytest.raises(RobodiffError, match="frames of one episode do not follow one another"):
        open_path(str(tmp_path)).read()
    group.create_array("number", data=np.repeat([1, 2, 0], 20), overwrite=True)
    assert open_path(str(tmp_path)).read().episode_ends.tolist() == [20, 40, 60]
