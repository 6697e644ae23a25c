"""Reading LeRobot data sets, v2.1 and v3.0, whole and broken."""

import json
import math
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.readers import read_lerobot, read_zarr

from robodiff.data.episodes import Episodes, Feature
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.lerobot.meta import fetch as fetch_files
from robodiff.data.formats.lerobot.video import encode_video
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.data.windows import Windows, WindowShape
from robodiff.errors import RobodiffError, UsageError

FPS, LENGTHS = 10, (6, 9, 4)
TOP, SIDE = "observation.images.top", "observation.images.side"
TOP_VIDEO = f"videos/{TOP}/chunk-000/file-001.mp4"
DATA, ROWS = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made_up(length: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    images = np.zeros((length, 3, 64, 80), np.uint8)
    images[:, seed % 3] = 90
    for frame in range(length):
        images[frame, :, :, 8 * (frame % 10) : 8 * (frame % 10) + 8] = 200  # a bar that tells the frame
    return {
        TOP: images,
        SIDE: images[:, ::-1, ::-1],
        "observation.state": random.normal(size=(length, 3)).astype(np.float32),
        "next.reward": random.normal(size=length).astype(np.float32),
        "action": random.normal(size=(length, 2)).astype(np.float32),
    }


def write(path: Path, images: str = "h264") -> Path:
    described = {"observation.state": Feature("vector", (3,), "float32", ("x", "y", "z"), "rad")}
    writer = LeRobotWriter(path, FPS, images, described, "arm")  # type: ignore[arg-type]
    for seed, length in enumerate(LENGTHS):
        writer.append(made_up(length, seed), task=("push", "pull", "push")[seed], success=seed > 0)
    writer.close()
    return path


@pytest.fixture(scope="module")
def v30(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("lerobot") / "v30")


@pytest.fixture(scope="module")
def v21(v30: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same episodes, put down by hand as v2.1 has them."""
    root = tmp_path_factory.mktemp("lerobot") / "v21"
    info = json.loads((v30 / "meta/info.json").read_text())
    info |= {
        "codebase_version": "v2.1",
        "chunks_size": 2,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    lines = []
    for row in pq.read_table(v30 / ROWS).to_pylist():
        number = row["episode_index"]
        lines.append(json.dumps({key: row[key] for key in ("episode_index", "tasks", "length", "success")}))
        first, last = row["dataset_from_index"], row["dataset_to_index"]
        data = root / info["data_path"].format(episode_chunk=number // 2, episode_index=number)
        data.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pq.read_table(v30 / DATA).slice(first, last - first), data)
        for key in (TOP, SIDE):
            video = root / info["video_path"].format(episode_chunk=number // 2, video_key=key, episode_index=number)
            video.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(v30 / f"videos/{key}/chunk-000/file-{number:03d}.mp4", video)
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def broken(v30: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(v30, tmp_path / "set"))


def all_frames(video: Path) -> np.ndarray:
    """What a straightforward reader makes of a video: (N, 3, H, W)."""
    with av.open(video) as container:
        return np.stack([f.to_ndarray(format="rgb24").transpose(2, 0, 1) for f in container.decode(video=0)])


def same(a: Episodes, b: Episodes) -> None:
    assert list(a.arrays) == list(b.arrays)
    for key in a.arrays:
        np.testing.assert_array_equal(a.arrays[key], b.arrays[key])
    assert (a.fps, a.features, a.table) == (b.fps, b.features, b.table)
    assert a.episode_ends.tolist() == b.episode_ends.tolist()


def test_version_3(v30: Path) -> None:
    episodes = read_lerobot(v30)
    truth = [made_up(length, seed) for seed, length in enumerate(LENGTHS)]
    assert set(episodes.arrays) == {TOP, SIDE, "observation.state", "action"}  # and not next.reward
    for key in ("observation.state", "action"):
        np.testing.assert_array_equal(episodes.arrays[key], np.concatenate([part[key] for part in truth]))
    for key in (TOP, SIDE):
        decoded = np.concatenate([all_frames(v30 / f"videos/{key}/chunk-000/file-{i:03d}.mp4") for i in range(3)])
        np.testing.assert_array_equal(episodes.arrays[key], decoded)
        assert np.abs(decoded.astype(int) - np.concatenate([part[key] for part in truth])).mean() < 5
    assert episodes.fps == FPS
    assert episodes.episode_ends.tolist() == np.cumsum(LENGTHS).tolist()
    assert episodes.features["observation.state"] == Feature("vector", (3,), "float32", ("x", "y", "z"), "rad")
    assert episodes.features[TOP] == Feature("image", (3, 64, 80), "uint8")
    assert (episodes.attributes, list(episodes.unread)) == ({"robot_type": "arm"}, ["next.reward"])
    assert episodes.table == {"task": ["push", "pull", "push"], "success": [False, True, True],
                              "episode_index": [0, 1, 2]}  # fmt: skip


def test_version_2(v21: Path, v30: Path) -> None:
    same(read_lerobot(v21), read_lerobot(v30))


def test_embedded_images(tmp_path: Path) -> None:
    episodes = read_lerobot(write(tmp_path / "png", "png"))
    for key in (TOP, SIDE):
        truth = np.concatenate([made_up(length, seed)[key] for seed, length in enumerate(LENGTHS)])
        np.testing.assert_array_equal(episodes.arrays[key], truth)  # nothing is lost
    small = read_lerobot(tmp_path / "png", [TOP, "action"], episodes=[1], resize_shape=(32, 40))
    assert small.arrays[TOP].shape == (9, 3, 32, 40)


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_some_episodes_and_keys(version: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(version)
    every, some = read_lerobot(path), read_lerobot(path, [SIDE, "action"], episodes=[2, 0])
    assert list(some.arrays) == [SIDE, "action"]
    for key in some.arrays:
        expected = np.concatenate([every.arrays[key][every.slice(episode)] for episode in (0, 2)])
        np.testing.assert_array_equal(some.arrays[key], expected)
    assert some.table["episode_index"] == [0, 2]
    for numbers in ([], [3], [-1], [1, 1]):
        with pytest.raises(UsageError, match=r"episodes.* different numbers"):
            read_lerobot(path, episodes=numbers)
    with pytest.raises(RobodiffError, match=r"has no 'observation\.images\.left'; it has "):
        read_lerobot(path, ["observation.images.left", "action"])


def test_videos_of_keys_that_are_not_asked_for_stay_untouched(broken: Path, cache: Path) -> None:
    shutil.rmtree(broken / "videos")
    assert set(read_lerobot(broken, ["observation.state", "action"]).arrays) == {"observation.state", "action"}
    assert not cache.exists()


def test_many_episodes_in_a_video_that_start_at_other_times_for_each_camera(broken: Path) -> None:
    """As LeRobot itself writes: one file per camera, and frames in it that belong to no episode."""
    expected = read_lerobot(broken)
    for key, before in ((TOP, 0), (SIDE, 5)):
        folder = broken / "videos" / key / "chunk-000"
        padding = np.zeros((before, 3, 64, 80), np.uint8)
        stacks = [made_up(length, seed)[key] for seed, length in enumerate(LENGTHS)]
        shutil.rmtree(folder)
        folder.mkdir()
        encode_video(folder / "file-004.mp4", np.concatenate([padding, *stacks]), FPS, "h264")
        starts = (before + np.cumsum([0, *LENGTHS[:-1]])) / FPS
        columns = {"from_timestamp": starts, "to_timestamp": starts + np.array(LENGTHS) / FPS, "file_index": [4] * 3}
        edit_rows(broken, **{f"videos/{key}/{name}": list(values) for name, values in columns.items()})
    episodes = read_lerobot(broken)
    np.testing.assert_array_equal(episodes.arrays[SIDE], all_frames(folder / "file-004.mp4")[5:])
    assert np.abs(episodes.arrays[TOP].astype(int) - expected.arrays[TOP]).mean() < 5
    last = read_lerobot(broken, [SIDE, "action"], episodes=[2])
    np.testing.assert_array_equal(last.arrays[SIDE], episodes.arrays[SIDE][-LENGTHS[-1] :])


def reference_window(root: Path, key: str, index: int, steps: np.ndarray) -> np.ndarray:
    """A window as LeRobot defines it, looked up frame by frame in the files."""
    rows = [row for path in sorted(root.glob("meta/episodes/*/*.parquet")) for row in pq.read_table(path).to_pylist()]
    row = next(r for r in rows if r["dataset_from_index"] <= index < r["dataset_to_index"])
    wanted = np.clip(index + steps, row["dataset_from_index"], row["dataset_to_index"] - 1)
    info = json.loads((root / "meta/info.json").read_text())
    if info["features"][key]["dtype"] != "video":
        place = {part: row[f"data/{part}"] for part in ("chunk_index", "file_index")}
        table = pq.read_table(root / info["data_path"].format(**place)).to_pylist()
        found = {entry["index"]: entry[key] for entry in table}
        return np.array([found[i] for i in wanted], np.float32)
    place = {part: row[f"videos/{key}/{part}"] for part in ("chunk_index", "file_index")}
    times = row[f"videos/{key}/from_timestamp"] + (wanted - row["dataset_from_index"]) / info["fps"]
    frames: dict[int, np.ndarray] = {}
    with av.open(root / info["video_path"].format(video_key=key, **place)) as container:
        for frame in container.decode(video=0):
            for which in np.flatnonzero(np.abs(times - frame.time) < 1e-4):
                frames[int(which)] = frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
            if frame.time > times.max():
                break
    return np.stack([frames[which] for which in range(len(times))])


def check_windows(root: Path, episodes: Episodes, keys: list[str], number: int) -> None:
    shape = WindowShape(2, 16, 8)
    windows = Windows(episodes.episode_ends, shape)
    for window in np.random.default_rng(0).choice(len(windows), number, replace=False):
        frames, _ = windows.frames(np.array([window]))
        for key in keys:
            steps = np.arange(-1, 15) if key == "action" else np.arange(-1, 1)
            np.testing.assert_array_equal(
                episodes.arrays[key][frames[0, : len(steps)]],
                reference_window(root, key, int(windows.now[window]), steps),
            )


def test_windows_are_those_of_a_plain_reader(v30: Path) -> None:
    check_windows(v30, read_lerobot(v30), [TOP, SIDE, "observation.state", "action"], 4)


def edit_info(root: Path, **changes: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_feature(root: Path, key: str, **changes: object) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit_info(root, features={**features, key: {**features[key], **changes}})


def edit_table(path: Path, **columns: object) -> None:
    """Replace or add columns, or drop those that are None."""
    table = pq.read_table(path)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns(name)
        if values is not None:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)


def edit_rows(root: Path, **columns: object) -> None:
    edit_table(root / ROWS, **columns)


def edit_data(root: Path, **columns: object) -> None:
    edit_table(root / DATA, **columns)


def cut(root: Path, name: str, share: float) -> None:
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: int(share * len(content))])


def scratch(root: Path, name: str) -> None:
    """Overwrite the coded frames, and leave the head and the index of the mp4 as they are."""
    content = bytearray((root / name).read_bytes())
    start = content.index(b"mdat") + 8
    content[start + 800 : start + 2000] = b"\xff" * 1200
    (root / name).write_bytes(content)


def short_video(root: Path) -> None:
    encode_video(root / TOP_VIDEO, made_up(7, 1)[TOP], FPS, "h264")


def slow_video(root: Path) -> None:
    encode_video(root / TOP_VIDEO, made_up(9, 1)[TOP], 5, "h264")


def wide_video(root: Path) -> None:
    encode_video(root / TOP_VIDEO, made_up(9, 1)[TOP][..., :64], FPS, "h264")


def later_video(root: Path) -> None:
    edit_rows(root, **{f"videos/{TOP}/from_timestamp": [0.0, 0.04, 0.0]})


def ragged(kind: Callable[[pa.DataType], pa.DataType]) -> pa.Array:
    """Lists of two numbers but for one of three and one of one: together as many as there should be."""
    return pa.array([[0.0, 1.0]] * 7 + [[0.0, 1.0, 2.0], [0.0]] + [[0.0, 1.0]] * (N - 9), kind(pa.float32()))


N = sum(LENGTHS)
FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda r: (r / TOP_VIDEO).unlink(), rf"{TOP_VIDEO}: is missing, and {TOP} needs it"),
    (short_video, rf"{TOP_VIDEO}: {TOP} of episode 1 has no image of its own from frame 7 on: .*ends at 0\.700 s"),
    (slow_video, rf"{TOP_VIDEO}: is 64x80 at 5 .* says 64x80 at 10"),
    (wide_video, rf"{TOP_VIDEO}: is 64x64 .*, but meta/info.json says 64x80"),
    (later_video, rf"{TOP_VIDEO}: has no whole frame at 0\.040 s; .*0\.100 s"),
    (lambda r: cut(r, TOP_VIDEO, 0.6), rf"{TOP_VIDEO}: is not a video, or a broken one"),
    (lambda r: scratch(r, TOP_VIDEO), rf"{TOP_VIDEO}: is .*broken"),
    (lambda r: (r / TOP_VIDEO).write_text("hello"), rf"{TOP_VIDEO}: is not a video, or a broken one"),
    (lambda r: edit_info(r, fps=30), rf"{DATA}: has timestamp 0\.1 at frame 1 .*expected 0\.033.*fps 30"),
    (lambda r: edit_rows(r, episode_index=[0, 1, 3]), "meta/ lacks episode 2 of 3"),
    (lambda r: edit_info(r, total_episodes=4), "meta/ lacks episode 3 of 4"),
    (lambda r: edit_rows(r, length=[6, 8, 4]), rf"{DATA}: holds 9 frames of episode 1, but meta/ says it has 8"),
    (lambda r: edit_rows(r, length=None), rf"{ROWS}: length: expected int.*found null"),
    (lambda r: shutil.rmtree(r / "meta/episodes"), "meta/ lacks episode 0 of 3"),
    (lambda r: edit_data(r, action=None), rf"{DATA}: is not a parquet file.*action"),
    (lambda r: edit_data(r, action=np.zeros(N).tolist()),
     rf"{DATA}: action is float64 of shape \[\] .*, but .* says float32 of shape \[2\]"),
    (lambda r: edit_data(r, action=pa.array([[True, False]] * N)), r"action is bool of shape \[2\] .*says float32"),
    (lambda r: edit_feature(r, "action", shape=[7]), "action is float32 of shape .2. .*, but .* shape .7."),
    (lambda r: edit_data(r, action=[[0.0, 1.0]] * 4 + [None] + [[0.0, 1.0]] * (N - 5)), "has nan values in row 4"),
    (lambda r: edit_data(r, action=ragged(pa.list_)),
     rf"{DATA}: action has 3 values in row 7, and 2 in row 0"),
    (lambda r: edit_data(r, action=ragged(pa.large_list)), "action has 3 values in row 7, and 2 in row 0"),
    (lambda r: edit_data(r, action=pa.array([[[0.0, 1.0]]] * 8 + [[[0.0], [1.0]]] + [[[0.0, 1.0]]] * (N - 9))),
     "action has 2 values in row 8, and 1 in row 0"),
    (lambda r: edit_data(r, action=[{"x": 0.0}] * N), "action is struct<x: double> in each frame, but"),
    (lambda r: edit_data(r, frame_index=list(range(N))), rf"{DATA}: has frame_index 6 at frame 0 of episode 1"),
    (lambda r: edit_data(r, episode_index=[1] * 6 + [0] * 9 + [2] * 4), "holds 9 frames of episode 0, but"),
    (lambda r: (r / DATA).unlink(), rf"{DATA}: is missing; copy or download it again"),
    (lambda r: cut(r, DATA, 0.5), rf"{DATA}: is not a parquet file, or a broken one"),
    (lambda r: edit_info(r, codebase_version="v2.0"), "codebase_version.*'v2.0'.*reads LeRobot's v2.1 and v3.0"),
    (lambda r: edit_info(r, fps=0), "fps: expected float > 0"),
    (lambda r: (r / "meta/info.json").write_text("{"), r"info\.json: cannot be read as JSON"),
    (lambda r: (r / "meta/info.json").write_text('{"codebase_version": "v3.0"}'), "json: .*total_episodes"),
    (lambda r: (r / "meta/info.json").unlink(), "is not a LeRobot data set"),
    (lambda r: (r / "meta/info.json").write_text("[]"), r"info\.json: expected mapping"),
    (lambda r: (r / "meta/info.json").write_text("[" * 10**5), "json: expected mapping|cannot be read as JSON"),
    (lambda r: edit_info(r, total_episodes=math.inf), "info.json: cannot be read as JSON"),
    (lambda r: edit_info(r, total_episodes=10**400), "info.json: .*total_episodes|out of range"),
    (lambda r: edit_info(r, fps=math.nan), "info.json: cannot be read as JSON"),
    (lambda r: edit_info(r, chunks_size=0), "chunks_size: expected int >= 1"),
    (lambda r: edit_info(r, features=[]), "features: expected mapping"),
    (lambda r: edit_feature(r, "action", shape=[math.inf]), "info.json: cannot be read as JSON"),
    (lambda r: edit_feature(r, TOP, shape=[10**6, 80, 3]), "64x80 at 10 .* says 1000000x80"),
    (lambda r: edit_rows(r, length=[6, -9, 4]), rf"{ROWS}: length: expected int >= 1.*found -9"),
    (lambda r: edit_rows(r, **{f"videos/{TOP}/from_timestamp": [0.0, math.nan, 0.0]}),
     f"videos/{TOP}/from_timestamp: expected float >= 0.*found nan"),
    (lambda r: edit_data(r, timestamp=[math.nan] * N), rf"{DATA}: has timestamp nan at frame 0 of episode 0"),
    (lambda r: edit_data(r, frame_index=["0"] * N), rf"{DATA}: has frame_index 0 at frame 1 of episode 0; expected 1"),
    *((partial(edit_info, data_path=path), message) for path, message in {
        "data/{}.parquet": "data_path: expected str matching .*; found .data/",
        "data/{chunk_index:9999999999d}": "data_path: expected str matching",
        "data/{chunk_index.__class__}": "data_path: expected str matching",
        "data/{chunk_index!r:03d}": "data_path: expected str matching",
        "data/{episode_index:03d}": "info.json: .*'episode_index'",
        "data/{chunk_index:{file_index}}": "data_path: expected str matching",
        "{": "data_path: expected str matching",
        "/etc/passwd": "data_path leads out of the data set, to '/etc/passwd'",
        "data/../../{file_index}": "data_path leads out of the data set, to 'data/../../0'",
    }.items()),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_named(broken: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(broken)
    with pytest.raises(RobodiffError, match=message) as caught:
        read_lerobot(broken)
    assert len(str(caught.value).splitlines()) == 1


def test_cameras_whose_names_lead_out_of_the_data_set_are_refused(broken: Path) -> None:
    features = json.loads((broken / "meta/info.json").read_text())["features"]
    evil = "../../../observation.image"
    edit_info(broken, features={**features, evil: features[TOP]})
    edit_rows(broken, **{f"videos/{evil}/{part}": [0] * 3 for part in ("chunk_index", "file_index", "from_timestamp")})
    with pytest.raises(RobodiffError, match=r"video_path leads out of the data set, to 'videos/\.\./"):
        read_lerobot(broken)


def test_what_has_no_end_is_not_opened(broken: Path) -> None:
    (broken / DATA).unlink()
    os.mkfifo(broken / DATA)
    with pytest.raises(RobodiffError, match=f"{DATA}: is neither a file nor a folder"):
        read_lerobot(broken)


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_lists_of_any_kind(broken: Path, kind: Callable[[pa.DataType], pa.DataType]) -> None:
    expected = read_lerobot(broken, ["action"]).arrays["action"]
    edit_data(broken, action=pa.array(expected.tolist(), kind(pa.float32())))
    np.testing.assert_array_equal(read_lerobot(broken, ["action"]).arrays["action"], expected)


def test_values_that_are_not_finite_are_refused(broken: Path) -> None:
    values = np.zeros((N, 2), np.float32)
    values[7, 1] = np.nan
    edit_data(broken, action=pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 2))
    with pytest.raises(RobodiffError, match=r"action is not finite at frame 1 of episode 1"):
        read_lerobot(broken)


def test_keys_that_are_no_vector_and_no_colour_image(broken: Path) -> None:
    depth = {"is_depth_map": True}
    edit_feature(broken, TOP, info=depth)
    assert TOP not in read_lerobot(broken).arrays
    with pytest.raises(RobodiffError, match=f"{TOP} is video of shape .*, neither numbers nor images"):
        read_lerobot(broken, [TOP, "action"])


def test_png_of_another_size(tmp_path: Path) -> None:
    path = write(tmp_path / "png", "png")
    edit_feature(path, TOP, shape=[64, 64, 3])
    with pytest.raises(
        RobodiffError, match=rf"{TOP} in row 0 cannot be decoded: it is 64x80 \(height x width\), not 64x64"
    ):
        read_lerobot(path)


def test_only_what_is_needed_is_fetched_from_the_hub(
    v30: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(repo_id: str, repo_type: str, revision: str, allow_patterns: list[str]) -> str:
        assert (repo_id, repo_type, revision) == ("someone/set", "dataset", "v3.0")
        for pattern in allow_patterns:
            for source in v30.rglob("*") if pattern == "meta/*" else [v30 / pattern]:
                relative = source.relative_to(v30)
                if source.is_file() and (pattern != "meta/*" or relative.parts[0] == "meta"):
                    (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, tmp_path / relative)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setenv("ROBODIFF_CACHE", str(tmp_path / "cache"))
    config = LeRobotConfig(repo_id="someone/set", revision="v3.0", episodes=[1])
    numbers, images = config.overview()
    assert (set(numbers.arrays), set(images)) == ({"observation.state", "action"}, {TOP, SIDE})
    assert not list(tmp_path.rglob("*.mp4"))
    assert len(config.read([TOP])) == 1
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*.mp4"))] == [TOP_VIDEO]


def test_hub_errors_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    response = Mock()
    for error, message in (
        (RepositoryNotFoundError("404", response=response), "someone/set: no such data set on the hub, or a private"),
        (RevisionNotFoundError("404", response=response), "someone/set: has no revision 'v9'"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(
                "huggingface_hub.snapshot_download", lambda *_, error=error, **__: (_ for _ in ()).throw(error)
            )
            with pytest.raises(RobodiffError, match=message):
                fetch_files("someone/set", "v9", ["meta/*"])
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there: as without a network
    with pytest.raises(RobodiffError, match=r"someone/set: cannot be fetched from the hub: .* give the path of"):
        fetch_files("someone/set", None, ["meta/*"])
    with pytest.raises(RobodiffError, match=r"^a/b/c: .*Repo id"):
        fetch_files("a/b/c", None, ["meta/*"])


def test_the_recorded_push_t(recorded_data: Path) -> None:
    root = recorded_data / "lerobot_pusht_v3"
    episodes = read_lerobot(root, ["observation.state", "action"])
    human = read_zarr(recorded_data / "pusht" / "pusht_human.zarr.zip", "pusht", fps=10.0)
    for key in ("observation.state", "action"):
        np.testing.assert_array_equal(episodes.arrays[key], human.arrays[key])
    assert episodes.episode_ends.tolist() == human.episode_ends.tolist()
    some = read_lerobot(root, episodes=list(range(8)))
    images = some.arrays["observation.image"]
    error = np.abs(images.astype(int) - human.arrays["observation.image"][: len(images)])
    assert error.mean() < 1  # the same frames, but for what the codec loses
    check_windows(root, some, ["observation.image", "observation.state", "action"], 3)


def test_the_recorded_robot(recorded_data: Path) -> None:
    root = recorded_data / "lerobot_g1_v21"
    key = "observation.images.cam_high"
    episodes = read_lerobot(root, episodes=[2])
    assert episodes.features["action"].names is not None
    assert episodes.features["action"].names[:2] == ("kLeftShoulderPitch", "kLeftShoulderRoll")
    frames = all_frames(root / f"videos/chunk-000/{key}/episode_000002.mp4")
    np.testing.assert_array_equal(episodes.arrays[key], frames)
    table = pq.read_table(root / "data/chunk-000/episode_000002.parquet")
    np.testing.assert_array_equal(episodes.arrays["action"], np.array(table["action"].to_pylist(), np.float32))
