"""Pictures and videos as arrays: one shape for all, channels by which nothing is lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.formats.lerobot.sets import write_mjpeg
from tests.recordings import encoded

from robodiff.data.check import examine
from robodiff.data.formats.pictures import decode_picture, files_piece, picture_in, picture_shape
from robodiff.data.recordings import open_path
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError

CHANNELS = pytest.mark.kind("images that are taken for numbers, or dropped")
SIZE = pytest.mark.kind("a picture whose size changes")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def opaque(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], 2)


@CHANNELS
@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (noise(6, 8), (6, 8, 1)),
        (noise(6, 8, 3), (6, 8, 3)),
        (noise(6, 8, 4), (6, 8, 3)),
        (opaque(noise(6, 8, 3)), (6, 8, 3)),
        (noise(6, 8, dtype=np.uint16) * 100, None),
    ],
    ids=["grey", "colour", "alpha", "opaque", "deep"],
)
def test_the_form_of_a_picture(image: np.ndarray, shape: tuple[int, ...] | None, tmp_path: Path) -> None:
    data = encoded(image, "PNG")
    assert picture_shape(data) == shape
    (tmp_path / "0.png").write_bytes(data)
    piece = files_piece("*.png", [tmp_path / "0.png"])
    assert piece.kind == (None if shape is None else "image")
    if shape is not None:
        np.testing.assert_array_equal(piece.read()[0], image.reshape(6, 8, -1)[..., : shape[2]])


@CHANNELS
def test_channels_change_where_nothing_is_lost(tmp_path: Path) -> None:
    grey, colour = noise(6, 8), noise(6, 8, 3)
    same = np.repeat(grey[..., None], 3, 2)
    np.testing.assert_array_equal(decode_picture("x", encoded(grey, "PNG"), (6, 8)), same)
    np.testing.assert_array_equal(decode_picture("x", encoded(same, "PNG"), (6, 8, 1)), grey[..., None])
    np.testing.assert_array_equal(decode_picture("x", encoded(opaque(colour), "PNG"), (6, 8, 3)), colour)
    Image.fromarray(colour).quantize(16).save(tmp_path / "palette.png")
    expected = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    np.testing.assert_array_equal(decode_picture("x", tmp_path / "palette.png", (6, 8)), expected)
    for image, shape in ((colour, (6, 8, 1)), (noise(6, 8, dtype=np.uint16), (6, 8, 1))):
        with pytest.raises(RobodiffError, match=r"^x cannot be decoded: it "):
            decode_picture("x", encoded(image, "PNG"), shape)


def test_cells_lead_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    assert picture_in(folder, None) is None
    assert picture_in(folder, {"bytes": b"x", "path": "/etc/passwd"}) == b"x"
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(RobodiffError, match="leads out of the recording"):
            picture_in(folder, path)


@SIZE
@pytest.mark.parametrize("what", ["video", "pictures"])
def test_every_episode_in_which_the_size_changes_is_found(tmp_path: Path, what: str) -> None:
    for episode in range(3):
        run = tmp_path / f"runs/{episode}"
        (run / "cam").mkdir(parents=True)
        heights = [64] * 20 if episode == 1 else [64] * (9 + episode) + [32] * (11 - episode)
        if what == "video":
            write_mjpeg(run / "cam.mp4", [(height, 64) for height in heights])
        for frame, height in enumerate(heights if what == "pictures" else []):
            (run / f"cam/{frame}.jpg").write_bytes(encoded(noise(height, 64, 3)))
        walk = np.random.default_rng(episode).normal(size=(20, 2)).cumsum(0)
        np.savetxt(run / "log.csv", walk, delimiter=",", header="state,action", comments="")
    source = {"video": "cam.mp4", "pictures": "cam/*.jpg"}[what]
    (tmp_path / "recording.yaml").write_text(
        f"episodes: runs/*\nfps: 10\narrays:\n  observation.images.cam: {source}\n"
        "  observation.state: {source: log.csv, columns: [state]}\n  action: {source: log.csv, columns: [action]}\n"
    )
    findings = examine(open_path(str(tmp_path)), WindowShape(2, 16, 8))
    fatal = [finding for finding in findings if finding.severity == "fatal"]
    assert [(f.check, f.key, f.episode) for f in fatal] == [
        ("images", "observation.images.cam", 0),
        ("images", "observation.images.cam", 2),
    ]
    for finding, frame in zip(fatal, (9, 11), strict=True):
        assert "32x64" in finding.message
        assert f"frame {frame}" in finding.message or f"{frame}.jpg" in finding.message
    assert len(open_path(str(tmp_path), episodes=[1]).read()) == 1
