"""The data doctor: silent on good recordings, and each break of one is found where it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from robodiff.data.check import examine, read_sound
from robodiff.data.episodes import Finding
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.recordings import resolve
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError

EPISODES = 16
WINDOW = WindowShape(n_obs_steps=2, horizon=16, n_action_steps=8)
Raw = dict[str, np.ndarray]  # state, action, img and ends, as in the file


@pytest.fixture(scope="module")
def scripted() -> Raw:
    """The first episodes of the built-in demonstrations, with small images of the agent and the block."""
    group = zarr.open_group(zarr.storage.ZipStore(resolve("builtin:pusht"), mode="r"), mode="r")
    raw = first_episodes(group)
    x = np.arange(16) * 512 / 15
    agent = np.exp(-((raw["state"][:, :1] - x) ** 2) / 5000)[:, None] * np.exp(
        -((raw["state"][:, 1:2] - x) ** 2) / 5000)[:, :, None]  # fmt: skip
    return {**raw, "img": (np.repeat(agent[..., None], 3, axis=3) * 255).astype(np.uint8)}


@pytest.fixture(params=["scripted", "human"])
def raw(request: pytest.FixtureRequest, scripted: Raw) -> Raw:
    """A good recording, that a test may break."""
    if request.param == "human":
        path = request.getfixturevalue("recorded_data") / "pusht" / "pusht_human.zarr.zip"
        scripted = first_episodes(zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r"))
    return {key: array.copy() for key, array in scripted.items()}


def first_episodes(group: zarr.Group) -> Raw:
    ends = np.asarray(group["meta/episode_ends"][:EPISODES])  # type: ignore[index]
    there = [key for key in ("state", "action", "img") if key in group["data"]]  # type: ignore[operator]
    raw = {key: np.asarray(group[f"data/{key}"][: ends[-1]]) for key in there}  # type: ignore[index]
    return {**raw, "ends": ends, **({"img": raw["img"][:, ::4, ::4]} if "img" in raw else {})}


def written(path: Path, raw: Raw) -> ZarrConfig:
    group = zarr.open_group(path, mode="w")
    for key, array in raw.items():
        group.create_array("meta/episode_ends" if key == "ends" else f"data/{key}", data=array)
    return ZarrConfig(path=str(path), layout="pusht")


def places(findings: list[Finding], *severities: str) -> list[tuple]:
    return [(f.severity, f.check, f.key, f.episode, f.frame) for f in findings if f.severity in severities]


def test_good_recordings_pass(tmp_path: Path, raw: Raw) -> None:
    source = written(tmp_path / "good.zarr", raw)
    assert examine(source, WINDOW) == []
    assert len(read_sound(source, None)) == EPISODES


@pytest.mark.parametrize("layout", ["pusht", None])
def test_whole_recordings_pass(layout: str | None, recorded_data: Path) -> None:
    """All human demonstrations, also with the block's angle as it is, which wraps a hundred times."""
    key_map = None if layout else {"state": "observation.state", "action": "action"}
    path = str(recorded_data / "pusht" / "pusht_human.zarr.zip")
    assert examine(ZarrConfig(path=path, layout=layout, key_map=key_map, fps=10.0), WINDOW) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("key_map", [None, {"state": "observation.state", "action": "action"}])
def test_the_builtin_recording_passes(key_map: dict[str, str] | None) -> None:
    assert examine(ZarrConfig(path="builtin:pusht", key_map=key_map), WINDOW) == []


def start(raw: Raw, episode: int) -> int:
    return int(raw["ends"][episode - 1])


def nan_action(raw: Raw) -> tuple:
    raw["action"][start(raw, 3) + 4 : start(raw, 3) + 9, 1] = np.nan
    return ("fatal", "finite", "data/action", 3, start(raw, 3) + 4)


def too_large_for_float32(raw: Raw) -> tuple:
    raw["state"] = raw["state"].astype(np.float64)
    raw["state"][start(raw, 5) + 2, 0] = 1e300
    return ("fatal", "finite", "data/state", 5, start(raw, 5) + 2)


def short_action(raw: Raw) -> tuple:
    raw["action"] = raw["action"][:-3]
    return ("fatal", "unequal", "data/action", None, None)


def ends_that_fall(raw: Raw) -> tuple:
    raw["ends"][4] = raw["ends"][3] - 1
    return ("fatal", "ends", "episode_ends", 4, None)


def no_action(raw: Raw) -> tuple:
    del raw["action"]
    return ("fatal", "keys", "action", None, None)


def wide_action(raw: Raw) -> tuple:
    raw["action"] = np.repeat(raw["action"], 2, axis=1)
    return ("fatal", "form", "data/action", None, None)


def fractional_image(raw: Raw) -> tuple:
    raw["img"] = raw["img"].astype(np.float32)
    raw["img"][start(raw, 1)] += 0.5
    return ("fatal", "form", "data/img", None, start(raw, 1))


def no_ends(raw: Raw) -> tuple:
    del raw["ends"]
    return ("fatal", "readable", None, None, None)


def still_actions(raw: Raw) -> tuple:
    raw["action"][:] = 100
    return ("fatal", "learnable", "action", None, None)


def spike(raw: Raw) -> tuple:
    raw["action"] = raw["action"].astype(np.float32)
    raw["action"][start(raw, 7) + 11, 0] = -1e6
    return ("fatal", "spike", "action", 7, start(raw, 7) + 11)


def one_still_action(raw: Raw) -> tuple:
    raw["action"][:, 1] = 256
    return ("warning", "constant", "action", None, None)


def teleport(raw: Raw) -> tuple:
    """The agent is elsewhere from one frame to the next, and stays there."""
    frames = slice(start(raw, 6) + 20, start(raw, 7))
    raw["state"][frames, 0] += 400
    return ("warning", "jump", "observation.state", 6, frames.start)


def flipped_block(raw: Raw) -> tuple:
    """The estimate of the block's angle turns round for a frame."""
    raw["state"][start(raw, 2) + 30, 4] += np.pi
    return ("warning", "jump", "observation.environment_state", 2, start(raw, 2) + 30)


def copied_episode(raw: Raw) -> tuple:
    frames, place = slice(start(raw, 2), start(raw, 3)), len(raw["action"])
    for key in ("state", "action", "img"):
        raw[key] = np.concatenate([raw[key], raw[key][frames]])
    raw["ends"] = np.append(raw["ends"], len(raw["action"]))
    return ("warning", "duplicate", None, EPISODES, place)


def black_images(raw: Raw) -> tuple:
    raw["img"][start(raw, 9) + 3 : start(raw, 9) + 8] = 0
    return ("warning", "blank", "observation.image", 9, start(raw, 9) + 3)


def hung_camera(raw: Raw) -> tuple:
    raw["img"][start(raw, 4) : start(raw, 5)] = raw["img"][start(raw, 4)]
    return ("warning", "frozen", "observation.image", 4, start(raw, 4))


def late_actions(raw: Raw) -> tuple:
    raw["action"] = np.roll(raw["action"], 2, axis=0)
    return ("warning", "lag", "action", None, None)


def late_actions_in_an_episode(raw: Raw) -> tuple:
    frames = slice(start(raw, 3), start(raw, 4))
    raw["action"][frames] = np.roll(raw["action"][frames], -1, axis=0)
    return ("warning", "lag", "action", 3, frames.start)


def stopped_early(raw: Raw) -> tuple:
    """An episode of five frames."""
    gone = start(raw, 8) - start(raw, 7) - 5
    for key in ("state", "action", "img"):
        raw[key] = np.delete(raw[key], slice(start(raw, 7) + 5, start(raw, 8)), axis=0)
    raw["ends"][7:] -= gone
    return ("warning", "window", None, 7, start(raw, 7))


def left_running(raw: Raw) -> tuple:
    """Recording goes on long after the last episode's end."""
    for key in ("state", "action", "img"):
        raw[key] = np.concatenate([raw[key], np.repeat(raw[key][-1:], 3000, axis=0)])
    raw["ends"][-1] += 3000
    return ("warning", "length", None, EPISODES - 1, start(raw, EPISODES - 1))


def joined_episodes(raw: Raw) -> tuple:
    """The end of an episode is lost: the agent jumps to where the next one starts."""
    place = start(raw, 5)
    raw["ends"] = np.delete(raw["ends"], 4)
    return ("warning", "jump", "observation.environment_state", 4, place)


FATAL = [nan_action, too_large_for_float32, short_action, ends_that_fall, no_action, wide_action, fractional_image,
         no_ends, still_actions, spike]  # fmt: skip
HARMLESS = [one_still_action, teleport, flipped_block, copied_episode, black_images, hung_camera, late_actions,
            late_actions_in_an_episode, stopped_early, left_running, joined_episodes]  # fmt: skip
ALSO = {  # what else a break leads to
    spike: {"jump", "lag"},
    teleport: {"lag"},
    one_still_action: {"lag"},
    late_actions: {"jump"},  # the first actions of an episode are the last of the one before
    late_actions_in_an_episode: {"jump"},
    stopped_early: {"length"},
}


@pytest.mark.parametrize("damage", FATAL)
def test_what_would_harm_training_is_found_and_refused(tmp_path: Path, raw: Raw, damage: Callable) -> None:
    place = damage(raw)
    source = written(tmp_path / "broken.zarr", raw)
    findings = examine(source, WINDOW)
    assert places(findings, "fatal") == [place]
    assert {f.check for f in findings} <= {place[1], *ALSO.get(damage, ())}
    with pytest.raises(RobodiffError, match=r"broken\.zarr: "):
        read_sound(source, None)


@pytest.mark.parametrize("damage", HARMLESS)
def test_what_only_looks_wrong_is_found_and_not_refused(tmp_path: Path, raw: Raw, damage: Callable) -> None:
    place = damage(raw)
    source = written(tmp_path / "odd.zarr", raw)
    findings = examine(source, WINDOW)
    assert place in places(findings, "warning")
    assert places(findings, "fatal") == []
    assert {f.check for f in findings if f.severity == "warning"} <= {place[1], *ALSO.get(damage, ())}
    assert len(read_sound(source, None)) == len(raw["ends"])


def test_all_faults_of_one_kind_are_found_at_once(tmp_path: Path, scripted: Raw) -> None:
    raw = {key: array.copy() for key, array in scripted.items()}
    raw["state"][[3, 400, 401], 0] = np.nan
    found = examine(written(tmp_path / "a.zarr", raw), WINDOW)
    episode = int(np.searchsorted(raw["ends"], 400, side="right"))
    assert [(f.check, f.key, f.episode, f.frame) for f in found] == [
        ("finite", "data/state", 0, 3), ("finite", "data/state", episode, 400)]  # fmt: skip
    raw["action"], raw["img"] = raw["action"][:-1], raw["img"][:-2]  # the state is examined all the same
    found = examine(written(tmp_path / "l.zarr", raw), WINDOW)
    assert sorted({(f.check, f.key) for f in found if f.severity == "fatal"}) == [
        ("finite", "data/state"), ("unequal", "data/action"), ("unequal", "data/img")]  # fmt: skip
    two_wrong = {**scripted, "action": scripted["action"][:, :1], "state": scripted["state"][:, :4]}
    assert [f.key for f in examine(written(tmp_path / "b.zarr", two_wrong), WINDOW)] == ["data/state", "data/action"]
    assert [f.key for f in examine(written(tmp_path / "c.zarr", {"ends": raw["ends"], "img": raw["img"]}), WINDOW)] == [
        "state", "action"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data/action/x", np.zeros(3)),  # a group where an array should be
        ("data/action", np.array(3.0)),
        ("data/action", np.zeros((30, 0))),
        ("data/action", np.ones((30, 2), np.complex64)),
        ("data/img", np.zeros((30, 0, 0, 3), np.uint8)),
        ("meta/episode_ends", np.array(30)),
        ("meta/episode_ends", np.zeros(0, np.int64)),
    ],
)
def test_what_is_no_recording_is_a_finding(tmp_path: Path, name: str, value: np.ndarray) -> None:
    whole = {"data/state": np.ones((30, 5)), "data/action": np.ones((30, 2)), "meta/episode_ends": np.array([30])}
    group = zarr.open_group(tmp_path / "odd.zarr", mode="w")
    for key, array in ({key: a for key, a in whole.items() if not name.startswith(key)} | {name: value}).items():
        group.create_array(key, data=array)
    findings = examine(ZarrConfig(path=str(tmp_path / "odd.zarr"), layout="pusht"), WINDOW)
    assert [f.severity for f in findings if f.check in ("form", "ends")] == ["fatal"]
    assert name.startswith(f"{findings[0].key}") or name.endswith(f"{findings[0].key}")


@pytest.mark.parametrize(
    ("key_map", "message"),
    [
        ({"state": "observation.state"}, "no key is called action; there is observation.state"),
        ({"action": "action"}, "no key starts with observation."),
        ({"state": "observation.state", "img": "action"}, "action holds images"),
    ],
)
def test_a_recording_needs_actions_and_observations(
    tmp_path: Path, scripted: Raw, key_map: dict[str, str], message: str
) -> None:
    source = ZarrConfig(path=written(tmp_path / "a.zarr", scripted).path, key_map=key_map, fps=10.0)
    findings = examine(source, WINDOW)
    assert [f.severity for f in findings] == ["fatal"]
    assert message in findings[0].message


def test_an_episode_with_a_spike_can_be_left_out(tmp_path: Path, scripted: Raw) -> None:
    raw = {key: array.copy() for key, array in scripted.items()}
    _, _, _, episode, _ = spike(raw)
    source = written(tmp_path / "a.zarr", raw)
    others = [e for e in range(EPISODES) if e != episode]
    assert read_sound(replace(source, episodes=others), None)
    with pytest.raises(RobodiffError, match=r"robodiff data check .*a\.zarr --layout pusht"):
        read_sound(replace(source, episodes=[episode]), None)
    with pytest.raises(RobodiffError, match=r"action\[0\] \(x\) is -1e\+06"):
        read_sound(source, ["observation.state"])


@pytest.mark.parametrize(("used_in", "frames", "found"), [(range(1, EPISODES), 3, "note"), ([6], 12, "warning")])
def test_what_mostly_rests_is_no_spike(
    tmp_path: Path, scripted: Raw, used_in: list[int], frames: int, found: str
) -> None:
    """A gripper, with the noise of its sensor, that closes briefly in every episode; a joint that one needs."""
    raw = {key: array.copy() for key, array in scripted.items()}
    gripper = np.random.default_rng(0).normal(0, 1e-3, (len(raw["action"]), 1))
    for episode in used_in:
        gripper[start(raw, episode) + 10 : start(raw, episode) + 10 + frames] += 1
    raw["action"] = np.concatenate([raw["action"], gripper], axis=1)
    key_map = {"state": "observation.state", "action": "action"}
    path = written(tmp_path / "a.zarr", raw).path
    findings = examine(ZarrConfig(path=path, key_map=key_map, fps=10.0), WINDOW)
    assert {(f.severity, f.check) for f in findings} == {(found, "jump")}


def test_episodes_shorter_than_a_window(tmp_path: Path, scripted: Raw) -> None:
    source = written(tmp_path / "a.zarr", scripted)
    shortest = int(np.diff(scripted["ends"], prepend=0).min())
    wide = WindowShape(n_obs_steps=2, horizon=shortest + 8, n_action_steps=8)
    assert {(f.severity, f.check) for f in examine(source, wide)} == {("note", "window")}
    longer = WindowShape(n_obs_steps=2, horizon=shortest + 8, n_action_steps=shortest + 1)
    assert ("warning", "window") in {(f.severity, f.check) for f in examine(source, longer)}


@pytest.mark.kind("numbers that float32 does not hold")
@pytest.mark.parametrize(
    ("column", "is_rounded"),
    [
        (2**24 + np.arange(300), True),
        (2**60 + np.arange(300), True),
        (np.arange(300, dtype=np.uint64) + np.uint64(2**64 - 400), True),
        (np.arange(300, dtype=np.int64), False),
        (1.7e9 + np.arange(300) / 10, True),  # seconds since 1970
        (np.full(300, 1.7e9 + 0.1), False),  # which does not move
        (100 + np.arange(300) / 10, False),
        (np.linspace(-1, 1, 300), False),
    ],
)
def test_what_float32_rounds_is_told(tmp_path: Path, column: np.ndarray, is_rounded: bool) -> None:
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    group.create_array("data/state", data=column[:, None])
    group.create_array("data/action", data=np.random.default_rng(0).normal(size=(300, 2)).cumsum(0))
    group.create_array("meta/episode_ends", data=np.array([100, 200, 300]))
    source = ZarrConfig(path=str(tmp_path / "d.zarr"), fps=10.0)
    told = [f for f in examine(source, WINDOW) if f.check == "rounded"]
    assert [(f.severity, f.key) for f in told] == [("warning", "data/state")] * is_rounded
    assert [f for f in source.read().findings if f.check == "rounded"] == told


@pytest.mark.kind("what is read, and what is not, without a word")
def test_all_that_is_not_read_is_named(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    for key in ("data/state", "data/action", "data/reward", "notes/x", "data2/x", "metadata/x"):
        group.create_array(key, data=np.random.default_rng(0).normal(size=(300, 2)))
    group.create_array("data/clouds", data=np.ones((300, 20, 6)))
    group.create_array("meta/episode_ends", data=np.array([100, 200, 300]))
    episodes, _ = ZarrConfig(path=str(tmp_path / "d.zarr"), fps=10.0).overview()
    assert episodes.unread == {
        "data/reward": "float64 (2,)", "data/clouds": "float64 (20, 6)",
        **dict.fromkeys(("data2", "metadata", "notes"), "not looked into")}  # fmt: skip
    assert [*episodes.table] == []


@pytest.mark.kind("recordings that are broken in part")
def test_a_codec_that_is_unknown_spoils_no_other_array(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "d.zarr", mode="w", zarr_format=2)
    for key in ("state", "action", "wrist"):
        values = np.random.default_rng(0).normal(size=(300, 2)).cumsum(0)
        group.create_array(f"data/{key}", data=values)
    group.create_array("meta/episode_ends", data=np.array([100, 200, 300]))
    metadata = tmp_path / "d.zarr/data/wrist/.zarray"
    metadata.write_text(metadata.read_text().replace('"blosc"', '"jpegxl"'))
    source = ZarrConfig(path=str(tmp_path / "d.zarr"), fps=10.0)
    told = [f for f in examine(source, WINDOW) if "data/wrist" in f.message]
    assert [f.severity for f in told] == ["warning"]
    assert "jpegxl" in told[0].message
    assert set(source.overview()[0].arrays) == set(read_sound(source, None).arrays) == {"action", "observation.state"}
    with pytest.raises(RobodiffError, match=r"data/wrist cannot be read: .*jpegxl"):
        ZarrConfig(path=str(tmp_path / "d.zarr"), fps=10.0, key_map={"wrist": "observation.wrist"}).read()


def test_many_episodes(tmp_path: Path) -> None:
    """Whose number was squared once: 10^5 would then take an hour."""
    frames = np.random.default_rng(0).normal(size=(5 * 10**5, 2)).cumsum(0).astype(np.float32)
    frames[5:10] = frames[50:55]
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    for key in ("state", "action"):
        group.create_array(f"data/{key}", data=frames, chunks=(10**5, 2))
    group.create_array("meta/episode_ends", data=np.arange(5, len(frames) + 1, 5))
    findings = examine(ZarrConfig(path=str(tmp_path / "d.zarr"), fps=10.0), WINDOW)
    assert sum(f.check == "window" for f in findings) == 10**5
    assert [f.message for f in findings if f.check == "duplicate"] == ["episode 10 is the same as episode 1"]
