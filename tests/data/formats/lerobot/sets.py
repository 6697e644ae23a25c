"""Small LeRobot data sets as others write them, put down by hand."""

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robodiff.data.formats.lerobot.video import encode_video
from robodiff.data.formats.lerobot.writer import LeRobotWriter

TOP = "observation.images.top"
VIDEO = f"videos/{TOP}/chunk-000/file-000.mp4"
ROWS = "meta/episodes/chunk-000/file-000.parquet"
FPS = 10
Column = Callable[[int, int], Any]
"""From the number of an episode and its frames to a column of pyarrow."""
CELLS = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def walk(frames: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, width)).cumsum(0).astype(np.float32)


def numbers(width: int, seed: int = 0, kind: pa.DataType | None = None) -> Column:
    return lambda episode, frames: pa.array(
        walk(frames, width, episode + seed).tolist(), pa.list_(kind or pa.float32())
    )


def write_v21(
    root: Path,
    lengths: Sequence[int] = (20, 25),
    columns: Mapping[str, Column] | None = None,
    features: Mapping[str, Any] | None = None,
    times: Callable[[int], np.ndarray] = lambda frames: np.arange(frames) / FPS,
) -> Path:
    """Write format v2.1 without videos: ``observation.state`` and ``action``, or these columns and features."""
    columns = columns or {"observation.state": numbers(3), "action": numbers(2, 9)}
    (root / "meta").mkdir(parents=True)
    rows, first = [], 0
    for episode, frames in enumerate(lengths):
        table = {key: column(episode, frames) for key, column in columns.items()}
        table |= {
            "timestamp": pa.array(times(frames), pa.float64()),
            "frame_index": pa.array(np.arange(frames)),
            "episode_index": pa.array(np.full(frames, episode)),
            "index": pa.array(np.arange(first, first + frames)),
            "task_index": pa.array(np.zeros(frames, np.int64)),
        }
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
        rows.append({"episode_index": episode, "tasks": ["do it"], "length": frames})
        first += frames
    usual = {"observation.state": 3, "action": 2, "state": 3, "actions": 2}
    described = {key: {"dtype": "float32", "shape": [width]} for key, width in usual.items() if key in columns}
    clock = {key: {"dtype": "int64", "shape": [1]} for key in ("frame_index", "episode_index", "index", "task_index")}
    clock["timestamp"] = {"dtype": "float32", "shape": [1]}
    info = {
        "codebase_version": "v2.1",
        "total_episodes": len(lengths),
        "fps": FPS,
        "chunks_size": 1000,
        "features": {**described, **(features or {}), **clock},
        "data_path": "data/chunk-000/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def pictured(root: Path, cell: Callable[[int, int], Any], shape: Sequence[int], kind: pa.DataType = CELLS) -> Path:
    """Write format v2.1 with pictures in the cells of a column: ``cell(episode, frame)``."""
    columns = {
        "observation.state": numbers(3),
        "action": numbers(2, 9),
        TOP: lambda episode, frames: pa.array([cell(episode, frame) for frame in range(frames)], kind),
    }
    return write_v21(root, columns=columns, features={TOP: {"dtype": "image", "shape": [*shape]}})


def images(frames: int, level: int) -> np.ndarray:
    """(L, 3, 64, 64) whose brightness tells the frame: about ``level + 70 + 3 * frame`` in the mean."""
    board = 20 * (np.indices((64, 64)).sum(0) // 8 % 2)
    return np.stack([np.broadcast_to(level + 3 * frame + board, (3, 64, 64)) for frame in range(frames)]).astype("u1")


def write_v30(root: Path, spans: Sequence[tuple[float, float | None]] = (), frames: Sequence[int] = (20, 20)) -> Path:
    """Write format v3.0 of two episodes of 20 frames; with spans, in one video that has so many frames of each."""
    writer = LeRobotWriter(root, FPS, "h264")
    for episode, level in enumerate((0, 150)):
        values = {"observation.state": walk(20, 3, episode), "action": walk(20, 2, episode + 9)}
        writer.append({TOP: images(20, level), **values})
    writer.close()
    if spans:
        (root / f"videos/{TOP}/chunk-000/file-001.mp4").unlink()
        both = [images(number, level) for number, level in zip(frames, (0, 150), strict=True)]
        encode_video(root / VIDEO, np.concatenate(both), FPS, "h264")
        columns = pq.read_table(root / ROWS).to_pydict()
        starts, ends = ([*each] for each in zip(*spans, strict=True))
        said = {"file_index": [0, 0], "from_timestamp": starts, "to_timestamp": ends}
        columns |= {f"videos/{TOP}/{name}": values for name, values in said.items()}
        if None in ends:
            del columns[f"videos/{TOP}/to_timestamp"]
        pq.write_table(pa.table(columns), root / ROWS)
    return root


def write_mjpeg(path: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """Write a video whose frames have these heights and widths, as a stream copied from several sources may."""
    with av.open(path, "w", format="mp4") as container:
        stream: Any = container.add_stream("mjpeg", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *sizes[0], "yuvj420p"
        for index, (height, width) in enumerate(sizes):
            encoder: Any = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width, encoder.pix_fmt = height, width, "yuvj420p"
            encoder.time_base = Fraction(1, FPS)
            noise = np.random.default_rng(index).integers(0, 255, (height, width, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuvj420p")
            frame.pts = 0
            for packet in [*encoder.encode(frame), *encoder.encode()]:
                packet.stream, packet.pts, packet.dts = stream, index, index
                packet.time_base = Fraction(1, FPS)
                container.mux(packet)
