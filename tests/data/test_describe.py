"""What no format recognises is described, and the recording.yaml that comes with it works when it is pasted."""

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from tests.recordings import episode, write_aloha, write_maniskill, write_npz, write_odd, write_table

from robodiff.data.describe import describe_unknown
from robodiff.data.recordings import open_path
from robodiff.errors import UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))


def paste(text: str, path: Path) -> str:
    """Do what a description says; return the path to give."""
    target = Path(re.search(r"Save the lines below as (\S+),", text)[1])  # pyright: ignore[reportOptionalSubscript]
    target.write_text(text.split("\n\n", 1)[1])
    return str(path if target.name == "recording.yaml" else target)


def _zarr(folder: Path) -> Path:
    group = zarr.open_group(folder / "odd.zarr", mode="w")
    for key, array in (("robot/q", "state"), ("robot/cmd", "action"), ("cam", "images")):
        group.create_array(key, data=np.concatenate([episode(n)[array] for n in range(4)]))
    group.create_array("ends", data=np.cumsum([30, 31, 32, 33]))
    return folder / "odd.zarr"


def _groups(folder: Path) -> Path:
    with h5py.File(folder / "log.h5", "w") as file:
        for number in range(4):
            for key, array in (("joint", "state"), ("wanted", "action"), ("view", "images")):
                file[f"run/{number}/{key}"] = episode(number)[array]
    return folder / "log.h5"


@pytest.mark.parametrize(
    ("make", "frames"),
    [
        (lambda folder: write_odd(folder / "odd", described=False), 126),
        (lambda folder: write_maniskill(folder / "demos.h5"), 122),
        (lambda folder: write_aloha(folder / "demos", compress=True), 126),
        (lambda folder: write_npz(folder / "demos.npz"), 126),
        (lambda folder: write_npz(folder / "demos"), 126),
        (lambda folder: write_table(folder / "demos.csv"), 126),
        (_zarr, 126),
        (_groups, 126),
    ],
    ids=["folders", "maniskill", "aloha", "npz", "npz files", "csv", "zarr", "groups"],
)
def test_the_description_can_be_pasted(tmp_path: Path, make: Callable[[Path], Path], frames: int) -> None:
    path = make(tmp_path)
    text = describe_unknown(path)
    assert len(text.splitlines()) <= 26
    episodes = open_path(paste(text, path)).read()
    assert len(episodes) == 4
    assert episodes.episode_ends[-1] == frames
    assert {"action", "observation.state"} <= {*episodes.arrays}
    assert any(key.startswith("observation.image") for key in episodes.arrays)
    for key, name in (("action", "action"), ("observation.state", "state")):
        length = 32 if frames == 122 else 33
        np.testing.assert_allclose(episodes.arrays[key][-length:], episode(3)[name][:length], rtol=1e-6, atol=1e-9)


def test_state_and_action_are_told_apart_by_which_leads(tmp_path: Path) -> None:
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", aaa=episode(number)["state"], bbb=episode(number)["action"],
                 time=np.arange(30 + number) / 25)  # fmt: skip
    text = describe_unknown(tmp_path)
    assert re.search(r"bbb .*action, which leads aaa", text)
    assert "fps: 25\n" in text


def test_the_rate_that_a_number_says_is_taken(tmp_path: Path) -> None:
    numbers = np.arange(40.0).reshape(20, 2)
    np.savez(tmp_path / "a.npz", **{"observation.state": numbers, "action": numbers, "fps": np.float64(25)})
    text = describe_unknown(tmp_path / "a.npz")
    assert "\nfps: 25" in text
    assert "guess" not in text


def test_an_unknown_recording_is_refused_with_its_description(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"camera[\s\S]*arrays:\n  action: log\.csv:u"):
        open_path(str(write_odd(tmp_path / "odd", described=False)))


@pytest.mark.parametrize("kind", ["empty", "text", "broken"])
def test_what_holds_no_recording_is_told_in_a_line(tmp_path: Path, kind: str) -> None:
    if kind != "empty":
        (tmp_path / ("notes.txt" if kind == "text" else "log.npz")).write_text("some words")
    for path in (tmp_path, *tmp_path.iterdir()):
        text = describe_unknown(path)
        assert "expected" in text
        assert len(text.splitlines()) == 1


def test_names_are_printed_safely_and_the_text_stays_short(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "log.h5", "w") as file:
        file["evil\x1b[31m\nname"] = np.ones((5, 2))
        for number in range(40):
            file[f"sensor{number}x"] = np.ones((5, 2))
    text = describe_unknown(tmp_path / "log.h5")
    assert "\x1b" not in text
    assert len(text.splitlines()) <= 26


def test_what_holds_nothing_readable_gets_no_recording_yaml(tmp_path: Path) -> None:
    np.save(tmp_path / "log.npy", np.array(["a", "b"]))
    text = describe_unknown(tmp_path)
    assert "holds neither numbers nor images" in text
    assert "log.npy" in text
    (tmp_path / "notes.txt").write_text("none")
    assert "holds no recording that can be read; expected zarr" in describe_unknown(tmp_path / "notes.txt")
