"""What a camera saw is images in every format, grey and encoded ones too; what is none is named and left out."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from tests.recordings import encoded

from robodiff.data.check import examine
from robodiff.data.episodes import Feature
from robodiff.data.formats.convert import convert
from robodiff.data.recordings import DataConfig, open_path
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError

pytestmark = pytest.mark.kind("images that are taken for numbers, or dropped")
FRAMES, SIZE = 20, (24, 32)
ENDS = np.array([10, 20])
Arrays = dict[str, np.ndarray]


@pytest.fixture
def numbers() -> Arrays:
    random = np.random.default_rng(0)
    return {"state": random.normal(size=(FRAMES, 3)), "action": random.normal(size=(FRAMES, 2))}


def as_zarr(path: Path, arrays: Arrays) -> DataConfig:
    group = zarr.open_group(path / "d.zarr", mode="w")
    for key, array in arrays.items():
        group.create_array(f"data/{key}", data=array)
    group.create_array("meta/episode_ends", data=ENDS)
    return open_path(str(path / "d.zarr"), fps=10.0)


def as_npz(path: Path, arrays: Arrays) -> DataConfig:
    np.savez(path / "d.npz", **arrays, episode_ends=ENDS)  # type: ignore[arg-type]
    return open_path(str(path / "d.npz"), fps=10.0)


def as_robomimic(path: Path, arrays: Arrays) -> DataConfig:
    with h5py.File(path / "d.hdf5", "w") as file:
        for number, rows in enumerate((slice(0, 10), slice(10, 20))):
            for key, array in arrays.items():
                file[f"data/demo_{number}/{'actions' if key == 'action' else f'obs/{key}'}"] = array[rows]
    return open_path(str(path / "d.hdf5"), fps=10.0)


FORMATS = pytest.mark.parametrize("write", [as_zarr, as_npz, as_robomimic])
Write = Callable[[Path, Arrays], DataConfig]


@FORMATS
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_cameras_of_every_kind(tmp_path: Path, numbers: Arrays, write: Write, channels: tuple[int, ...]) -> None:
    images = np.random.default_rng(1).integers(0, 255, (FRAMES, *SIZE, *channels)).astype(np.uint8)
    episodes = write(tmp_path, {**numbers, "front": images}).read()
    count = min(3, *channels) if channels else 1  # without opacity
    assert episodes.features["observation.images.front"] == Feature("image", (count, *SIZE), "uint8")
    expected = images.reshape(FRAMES, *SIZE, *(channels or (1,)))[..., :3].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(episodes.arrays["observation.images.front"], expected)


@FORMATS
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_encoded_pictures_are_decoded(tmp_path: Path, numbers: Arrays, write: Write, form: str) -> None:
    colours = np.random.default_rng(1).integers(0, 255, (FRAMES, 1, 1, 3)).astype(np.uint8)
    images = np.broadcast_to(colours, (FRAMES, *SIZE, 3)).copy()
    files = [encoded(image, form) for image in images]
    rows = np.zeros((FRAMES, max(map(len, files)) + 3), np.uint8)
    for row, file in zip(rows, files, strict=True):
        row[: len(file)] = np.frombuffer(file, np.uint8)
    source = write(tmp_path, {**numbers, "front": rows})
    array = source.read().arrays["observation.images.front"]
    np.testing.assert_allclose(array, images.transpose(0, 3, 1, 2), atol=0 if form == "PNG" else 4)
    _, images_there = source.overview()
    assert images_there["observation.images.front"].shape == (3, *SIZE)


@FORMATS
def test_a_picture_that_cannot_be_decoded_or_is_of_another_size(tmp_path: Path, numbers: Arrays, write: Write) -> None:
    files = [encoded(np.full((*SIZE, 3), frame, np.uint8), "PNG") for frame in range(FRAMES)]
    files[7] = encoded(np.full((48, 64, 3), 7, np.uint8), "PNG")
    rows = np.zeros((FRAMES, max(map(len, files))), np.uint8)
    for row, file in zip(rows, files, strict=True):
        row[: len(file)] = np.frombuffer(file, np.uint8)
    with pytest.raises(RobodiffError, match="front at frame 7 cannot be decoded: it is 48x64"):
        write(tmp_path, {**numbers, "front": rows}).read()


@FORMATS
def test_pictures_of_depth_are_left_out(tmp_path: Path, numbers: Arrays, write: Write) -> None:
    files = [encoded(np.full(SIZE, 40_000, np.uint16), "PNG") for _ in range(FRAMES)]
    rows = np.stack([np.frombuffer(file, np.uint8) for file in files])
    rows = np.pad(rows, ((0, 0), (0, 600)))
    source = write(tmp_path, {**numbers, "range": rows})
    assert {*source.read().arrays} == {"observation.state", "action"}
    assert source.overview()[1] == {}
    assert [f.check for f in examine(source, WindowShape(2, 8, 4)) if "range" in f.message] == ["unread"]


@FORMATS
def test_grey_pictures_have_one_channel(tmp_path: Path, numbers: Arrays, write: Write) -> None:
    files = [encoded(np.full(SIZE, frame, np.uint8), "PNG") for frame in range(FRAMES)]
    rows = np.stack([np.frombuffer(file.ljust(700, b"\0"), np.uint8) for file in files])
    source = write(tmp_path, {**numbers, "front": rows})
    images = source.read().arrays["observation.images.front"]
    assert images.shape == (FRAMES, 1, *SIZE)
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(FRAMES))


def test_rotation_matrices_are_no_images(tmp_path: Path, numbers: Arrays) -> None:
    source = as_zarr(tmp_path, {**numbers, "rotations": np.tile(np.eye(3), (FRAMES, 2, 1, 1))})
    assert {*source.read().arrays} == {"observation.state", "action"}


@pytest.mark.parametrize("images", ["png", "h264"])
def test_grey_cameras_go_to_lerobot_and_back(tmp_path: Path, numbers: Arrays, images: str) -> None:
    grey = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8)[:, None, None], (FRAMES, 64, 64))
    convert(as_zarr(tmp_path, {**numbers, "front": grey}).read(), tmp_path / "set", images=images)
    again = open_path(str(tmp_path / "set")).read().arrays["observation.images.front"]
    assert again.shape == (FRAMES, 1, 64, 64)
    np.testing.assert_allclose(again[:, 0], grey, atol=0 if images == "png" else 3)


@FORMATS
@pytest.mark.parametrize(
    ("key", "array"),
    [
        ("front_depth", np.ones((FRAMES, *SIZE), np.uint16)),
        ("front_depth", np.ones((FRAMES, *SIZE, 1), np.uint8)),
        ("depth", np.ones((FRAMES, *SIZE), np.float32)),
        ("seg.mask", np.ones((FRAMES, *SIZE), np.uint8)),
        ("bytes", np.ones((FRAMES, 3000), np.uint8)),
        ("flow", np.ones((FRAMES, *SIZE, 2), np.float32)),
        ("touch", np.ones((FRAMES, 3), np.complex64)),
    ],
)
def test_what_no_camera_saw_is_named(
    tmp_path: Path, numbers: Arrays, write: Write, key: str, array: np.ndarray
) -> None:
    source = write(tmp_path, {**numbers, key: array})
    episodes, images = source.overview()
    assert images == {}
    assert sorted(episodes.arrays) == ["action", "observation.state"]
    assert any(name.endswith(key) for name in episodes.unread)
    findings = [f.message for f in examine(source, WindowShape(2, 8, 4)) if f.check == "unread"]
    assert len(findings) == 1
    assert key in findings[0]
    assert len(findings[0]) < 200
