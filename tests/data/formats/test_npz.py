"""NumPy's .npz files."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.recordings import episode, write_npz

from robodiff.data.formats.npz import FORMAT, NpzConfig
from robodiff.data.recordings import open_path
from robodiff.errors import RobodiffError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["demos.npz", "demos"])
def test_one_file_or_one_for_each_episode(tmp_path: Path, name: str) -> None:
    episodes = open_path(str(write_npz(tmp_path / name))).read()
    assert episodes.episode_ends.tolist() == [30, 61, 93, 126]
    np.testing.assert_array_equal(episodes.arrays["action"][episodes.slice(1)], episode(1)["action"])
    np.testing.assert_array_equal(episodes.arrays["observation.state"][episodes.slice(1)], episode(1)["state"])
    (camera,) = (key for key in episodes.arrays if key.startswith("observation.image"))
    np.testing.assert_array_equal(
        episodes.arrays[camera][episodes.slice(1)], episode(1)["images"].transpose(0, 3, 1, 2)
    )
    assert episodes.fps == (15 if name == "demos.npz" else 10)


def test_chosen_episodes(tmp_path: Path) -> None:
    whole = NpzConfig(path=str(write_npz(tmp_path / "demos.npz")), episodes=[3])
    assert whole.chosen(whole.read([])).tolist() == [3]
    files = NpzConfig(path=str(write_npz(tmp_path / "demos")), episodes=[3])
    assert files.read([]).episode_ends.tolist() == [33]


def test_fortran_order_and_scalars_for_each_frame(tmp_path: Path) -> None:
    action = np.arange(12.0).reshape(6, 2)
    np.savez(tmp_path / "demos.npz", action=np.asfortranarray(action), height=np.arange(6), episode_ends=[3, 6])
    arrays = NpzConfig(path=str(tmp_path / "demos.npz")).read().arrays
    np.testing.assert_array_equal(arrays["action"], action)
    assert arrays["observation.height"].shape == (6, 1)


def _pickled(path: Path) -> None:
    np.savez(path, action=np.array([{}] * 6, object), state=np.ones((6, 2)), episode_ends=[3, 6])


def _bomb(path: Path) -> None:
    np.savez(path, state=np.ones((6, 2)), episode_ends=[3, 6])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13, 7)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("action.npy", header.getvalue())


def _unequal(path: Path) -> None:
    np.savez(path, action=np.ones((5, 2)), episode_ends=[3, 6])


def _ends(path: Path) -> None:
    np.savez(path, action=np.ones((6, 2)), episode_ends=[3, 2])


def _not_finite(path: Path) -> None:
    np.savez(path, action=np.full((6, 2), np.nan), episode_ends=[3, 6])


def _cut(path: Path) -> None:
    write_npz(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_pickled, ["action"]),
        (_bomb, ["action", "10,000,000,000,000 frames"]),
        (_unequal, ["action", "5 frames"]),
        (_ends, ["episode_ends"]),
        (_not_finite, ["action", "finite"]),
        (_cut, ["demos.npz"]),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, make: object, words: list[str]) -> None:
    make(tmp_path / "demos.npz")  # type: ignore[operator]
    with pytest.raises(RobodiffError) as error:
        NpzConfig(path=str(tmp_path / "demos.npz")).read([])
    assert all(word in str(error.value) for word in words), error.value


def test_it_is_recognised_by_content(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    assert not FORMAT.recognise(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no zip file")
    assert not FORMAT.recognise(tmp_path / "text.npz")
