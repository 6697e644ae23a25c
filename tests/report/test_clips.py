"""What the wall of episodes is given: in order, within its size, and the demonstrations that began most like each."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.report.test_playable import filmed

from robodiff.data.episodes import Episodes, Feature
from robodiff.evaluation.results import EpisodeResult
from robodiff.evaluation.runs import Evaluation
from robodiff.evaluation.traces import COLUMNS, Trace, TracesInfo
from robodiff.report import clips as clips_module
from robodiff.report.clips import Clips
from robodiff.report.nearest import Demonstrations, nearest
from robodiff.report.pages import to_json

INFO = {"fps": 10.0, "seconds": 1.0, "of_seconds": 20.0}


def trace(length: int = 300, dim: int = 2, sheet: bytes = b"", seed: int = 0) -> Trace:
    random = np.random.default_rng(seed)
    walk = random.normal(size=(length + 1, dim)).cumsum(0).astype(np.float32)
    pictures = np.arange(0, length + 1, 9)
    seen, moments = {"observation.state": walk}, np.arange(0, length, 8)
    chunks = random.normal(size=(len(moments), 15, dim)).astype(np.float32)
    drawn = {"chunk_at": moments, "chunks": chunks}
    return Trace(walk[1:], walk[1:, 0], seen, {}, pictures, (128, 128), sheet, **drawn)


def made(results: list[EpisodeResult], traces: dict[int, Trace], dim: int = 2) -> Clips:
    class Result:
        episodes = results

    names = [(f"joint {d}", "rad") for d in range(dim)]
    info = TracesInfo(**INFO, dimensions={"action": names, "observation.state": names}, extent=(0, 9, 9, 0))
    return Clips(Evaluation(Path("out"), Result()), info, traces)  # type: ignore[arg-type]


def test_the_worst_come_first_and_values_stand_at_their_frames() -> None:
    outcomes = [(True, 1.0, 90), (False, 0.5, 300), (True, 1.0, 200), (False, 0.1, 300), (False, 0.0, 0)]
    results = [
        EpisodeResult(seed=seed, success=success, max_reward=reward, length=length)
        for seed, (success, reward, length) in enumerate(outcomes)
    ]
    clips = made([*results, EpisodeResult(seed=99, success=True, max_reward=1, length=3)],
                 {each.seed: trace(each.length, seed=each.seed) for each in results})  # fmt: skip
    wall = clips.wall(clips.panels())
    assert [each["seed"] for each in wall["episodes"]] == [4, 3, 1, 2, 0]
    assert [panel["lines"] for panel in wall["panels"]] == [["reward"], ["state", "action"], ["state", "action"]]
    assert wall["left_out"] == 0
    last = wall["episodes"][-1]
    (reward,), (state, action), _ = last["values"]
    assert [len(values) for values in (reward, state, action)] == [91, 91, 91]
    assert (reward[0], action[-1]) == (None, None)
    assert state[1] == action[0] == pytest.approx(float(clips.traces[0].action[0, 0]), abs=1e-2)
    assert wall["episodes"][0]["values"][0] == [[None]]


def test_a_hundred_episodes_stay_under_five_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 14 joints, too: those that move most are in the page, and it says how many are not."""
    tiles = Image.new("RGB", (COLUMNS * 128, COLUMNS * 128), "white")
    draw = ImageDraw.Draw(tiles)
    for place in range(36):
        x, y = place % 6 * 128, place // 6 * 128
        draw.polygon([(x + 60, y + 50), (x + 90, y + 80), (x + 50 + place, y + 90)], "lightgreen")
        draw.rectangle((x + place, y + 40, x + place + 40, y + 55), "slategray")
    buffer = io.BytesIO()
    tiles.save(buffer, "WEBP", quality=62)
    traces = {seed: trace(300, 14, buffer.getvalue(), seed) for seed in range(100)}
    results = [EpisodeResult(seed=seed, success=seed % 3 == 0, max_reward=0.5, length=300) for seed in traces]
    clips = made(results, traces, 14)
    wall = clips.wall(clips.panels())
    assert len(to_json(wall)) < 5_000_000
    assert wall["left_out"] == 14 - (len(wall["panels"]) - 1) > 0
    assert all(each["pictures"] for each in wall["episodes"])
    chunks = [len(each["fans"]["at"]) for each in wall["episodes"]]
    assert (chunks[0], chunks[-1], chunks[50]) == (38, 38, 0)  # of the worst and the best there is room
    two = [bool(each["fans"]["at"]) for each in clips.wall(clips.panels(), 2)["episodes"]]
    assert sum(two) == sum(map(bool, chunks)) // 2
    monkeypatch.setattr(clips_module, "LARGEST_PICTURES", 1)
    assert not any(each["pictures"] for each in clips.wall(clips.panels())["episodes"])


def test_demonstrations_that_began_most_like_an_episode() -> None:
    episodes = filmed(6, 60)
    key = next(key for key, feature in episodes.features.items() if feature.kind == "vector" and key != "action")
    start = episodes.slice(4).start
    seen = np.repeat(episodes.arrays[key][start][None], 3, axis=0)
    like = Trace(np.zeros((2, 2)), np.zeros(2), {key: seen}, {}, np.zeros(0, int))
    picture = np.full((8, 8, 3), 9, np.uint8)
    found = nearest([Demonstrations(episodes, [0, 2, 4, 5])], {7: like}, lambda frame: picture)
    assert found is not None
    (first, *others) = found["of"]["7"]
    assert first[:2] == [4, 0.0]
    assert [each[1] for each in found["of"]["7"]] == sorted(each[1] for each in found["of"]["7"])
    assert {each[0] for each in others} <= {0, 2, 5}
    assert found["pictures"]["width"] == 8
    without = nearest([Demonstrations(episodes, [0, 2])], {7: like}, lambda frame: None)
    assert without is not None
    assert without["pictures"] is None
    assert nearest([Demonstrations(episodes, [])], {7: like}, lambda frame: None) is None
    unlike = Trace(np.zeros((2, 2)), np.zeros(2), {"observation.other": seen}, {}, np.zeros(0, int))
    assert nearest([Demonstrations(episodes, [0])], {7: unlike}, lambda frame: None) is None


def test_what_each_agent_of_a_team_saw_counts() -> None:
    """The first agent begins alike in all episodes; what the second sees tells them apart."""
    ends, key = np.array([10, 20, 30]), "observation.state"
    still, moved = np.zeros((30, 1), np.float32), np.repeat([[0.0], [5.0], [9.0]], 10, axis=0).astype(np.float32)
    features = {key: Feature.of(still)}
    one, other = (Episodes("demos", {key: array}, ends, 10.0, features) for array in (still, moved))
    seen = {f"agents.{agent}.{key}": np.full((1, 1), value) for agent, value in (("0", 0.0), ("1", 8.9))}
    trace = Trace(np.zeros((0, 2)), np.zeros(0), seen, {}, np.zeros(0, int))

    def order(*recordings: Demonstrations) -> list[int]:
        found = nearest(recordings, {7: trace}, lambda frame: None)
        assert found is not None
        return [number for number, *_ in found["of"]["7"]]

    first = Demonstrations(one, [0, 1, 2], "0")
    assert order(first) == [0, 1, 2]
    assert order(first, Demonstrations(other, [0, 1, 2], "1")) == [2, 1, 0]
    assert order(first, Demonstrations(other, [0, 1], "1")) == [0, 1, 2]  # of other episodes it says nothing
