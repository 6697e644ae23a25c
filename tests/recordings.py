"""Small recordings in the formats of others: 4 episodes of 30 to 33 frames, in which the state follows the action."""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

EPISODES = 4
SIZE = (48, 64)
"""Height and width of the cameras."""


def episode(number: int, width: int = 3) -> dict[str, np.ndarray]:
    """State and action (L, width) float32, and images (L, H, W, 3) uint8 of one flat colour each, which JPEG keeps."""
    random, length = np.random.default_rng(number), 30 + number
    action = random.normal(size=(length, width)).cumsum(0).astype(np.float32)
    state = np.concatenate([np.zeros((1, width), np.float32), action[:-1]])
    colours = np.stack([np.full(length, 200), 40 + np.arange(length), np.full(length, 10 * number)], 1).astype(np.uint8)
    images = np.broadcast_to(colours[:, None, None], (length, *SIZE, 3)).copy()
    images[:, :8, :8] = 255 - images[:, :8, :8]
    return {"state": state, "action": action, "images": images}


def encoded(image: np.ndarray, form: str = "JPEG") -> bytes:
    """Return the bytes of a picture file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    return file.getvalue()


def write_aloha(folder: Path, compress: bool = False, episodes: int = EPISODES) -> Path:
    """ALOHA's folder; compressed pictures are what cv2.imencode makes of RGB: red and blue are swapped in the file."""
    folder.mkdir(parents=True)
    for number in range(episodes):
        values = episode(number)
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file.attrs["sim"] = True
            file["observations/qpos"], file["action"] = values["state"], values["action"]
            file["observations/qvel"] = np.gradient(values["state"], axis=0)
            for camera in ("cam_high", "cam_low"):
                images = values["images"]
                if compress:
                    rows = [encoded(image[..., ::-1]) for image in images]
                    padded = np.zeros((len(rows), max(map(len, rows))), np.uint8)
                    for row, data in zip(padded, rows, strict=True):
                        row[: len(data)] = np.frombuffer(data, np.uint8)
                    file[f"observations/images/{camera}"] = padded
                else:
                    file.create_dataset(f"observations/images/{camera}", data=images, chunks=(1, *images.shape[1:]))
            if compress:
                file.attrs["compress"], file["compress_len"] = True, np.zeros((2, len(images)))
    return folder


def write_maniskill(path: Path, agents: int = 1, episodes: int = EPISODES, sidecar: bool = True) -> Path:
    """A file of ManiSkill: one observation more than actions; of several agents as RoboFactory has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for number in range(episodes):
            values, group = episode(number), file.create_group(f"traj_{number}")
            frames = len(values["state"]) - 1
            for agent in range(agents):
                place = f"/panda-{agent}" if agents > 1 else ""
                group[f"actions{place}"] = values["action"][:frames] + agent
                group[f"obs/agent{place}/qpos"] = values["state"] + agent
                group[f"obs/agent{place}/qvel"] = values["state"] * 0.1
            cameras = (
                [f"head_camera_agent{n}" for n in range(agents)] + ["head_camera_global"] if agents > 1 else ["base"]
            )
            for place, camera in enumerate(cameras):
                images = values["images"]
                images[:, -1, -1] = place
                sensor = group.create_group(f"obs/sensor_data/{camera}")
                sensor.create_dataset("rgb", data=images, compression="gzip", chunks=(4, *images.shape[1:]))
                sensor["depth"] = np.ones((frames + 1, *SIZE, 1), np.int16)
                group[f"obs/sensor_param/{camera}/intrinsic_cv"] = np.zeros((frames + 1, 3, 3))
            group["obs/extra/tcp_pose"] = np.concatenate([values["state"], values["state"]], 1)
            group["success"] = np.arange(frames) == frames - 1
            group["env_states/actors/cube"] = np.zeros((frames + 1, 13))
    if sidecar:
        rows = [{"episode_id": n, "episode_seed": 100 + n, "success": n > 0} for n in range(episodes)]
        info = {"env_id": "PickCube-v1", "env_kwargs": {"sim_config": {"control_freq": 25}}}
        path.with_suffix(".json").write_text(json.dumps({"env_info": info, "episodes": rows}))
    return path


def write_npz(path: Path, episodes: int = EPISODES) -> Path:
    """One file with ``episode_ends``, or a folder with a file an episode."""
    every = [episode(number) for number in range(episodes)]
    if path.suffix == ".npz":
        path.parent.mkdir(parents=True, exist_ok=True)
        joined = {key: np.concatenate([values[key] for values in every]) for key in every[0]}
        np.savez_compressed(path, **joined, episode_ends=np.cumsum([len(v["state"]) for v in every]), fps=15.0)
    else:
        path.mkdir(parents=True)
        for number, values in enumerate(every):
            np.savez(path / f"{number}.npz", **values)
    return path


def write_table(path: Path, episodes: int = EPISODES) -> Path:
    """CSV or Parquet with a row a frame, and pictures in a folder beside it."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {}
    for number in range(episodes):
        values = episode(number)
        (path.parent / f"pictures/{number}").mkdir(parents=True)
        for frame in range(len(values["state"])):
            picture = f"pictures/{number}/{frame}.png"
            (path.parent / picture).write_bytes(encoded(values["images"][frame], "PNG"))
            row = {"episode": number, "timestamp": frame / 20, "front": picture, "task": f"task {number % 2}"}
            row |= {f"state_{n}": values["state"][frame, n] for n in range(3)}
            row |= {f"action_{n}": values["action"][frame, n] for n in range(3)}
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    table = pa.table(columns)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def write_odd(folder: Path, described: bool = True, episodes: int = EPISODES) -> Path:
    """What nobody knows: a folder for each run, with a log and a folder of pictures."""
    for number in range(episodes):
        values, run = episode(number), folder / f"runs/run_{number}"
        (run / "front").mkdir(parents=True)
        for frame, image in enumerate(values["images"]):
            (run / f"front/{frame}.jpg").write_bytes(encoded(image))
        rows = np.concatenate([values["state"], values["action"], np.arange(len(values["state"]))[:, None] / 30], 1)
        head = "j0,j1,j2,u0,u1,u2,time"
        np.savetxt(run / "log.csv", rows, fmt="%.9g", delimiter=",", header=head, comments="")
    if described:
        (folder / "recording.yaml").write_text(
            "episodes: runs/*\nfps: 30\narrays:\n"
            "  observation.images.front: front/*.jpg\n"
            "  observation.state: {source: log.csv, columns: [j0, j1, j2], unit: rad}\n"
            "  action: {source: log.csv, columns: [u0, u1, u2]}\n"
        )
    return folder


JOINTS = ("joint_a", "joint_b", "joint_c")


def write_rosbag(
    path: Path, number: int = 0, storage: str = "mcap", compress: bool = False, **options: Any
) -> dict[str, np.ndarray]:
    """A bag with joint states at 20 Hz, a camera at 10 Hz, which begins last, and commands between its images.

    ``options``: ``skip`` topics; ``silent``, a topic that is so after 1 s for 1.5 s; ``late``, one that speaks when the
    others have ended; ``short``, where commands lack a joint at frame 5; ``encoding`` of images; ``cut`` bytes at the
    end. Returns what ``episode`` does.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_HUMBLE)

    def message(kind: str, *values: Any) -> tuple[str, Any]:
        return kind, types.types[kind](*values)

    def stamp(name: str, time: float) -> Any:
        return types.types[f"builtin_interfaces/msg/{name}"](int(time), round(time % 1 * 1e9))

    def header(time: float) -> Any:
        return types.types["std_msgs/msg/Header"](stamp("Time", time), "")

    def joint_state(time: float, positions: np.ndarray) -> tuple[str, Any]:
        none = np.zeros(0)
        order = [2, 0, 1, 3]  # not that of the commands, and one joint more
        joints = [[*JOINTS, "wheel"][place] for place in order]
        return message(
            "sensor_msgs/msg/JointState",
            header(time),
            joints,
            np.append(positions, 9.0).astype(float)[order],
            none,
            none,
        )

    def trajectory(time: float, positions: np.ndarray) -> tuple[str, Any]:
        none, kind = np.zeros(0), "trajectory_msgs/msg/JointTrajectoryPoint"
        point = types.types[kind](positions.astype(float), none, none, none, stamp("Duration", 0.1))
        return message("trajectory_msgs/msg/JointTrajectory", header(time), [*JOINTS[: len(positions)]], [point])

    def image(time: float, pixels: np.ndarray) -> tuple[str, Any]:
        if compress:
            data = np.frombuffer(encoded(pixels, "PNG"), np.uint8)
            return message("sensor_msgs/msg/CompressedImage", header(time), "rgb8; png compressed", data)
        encoding, (height, width, _) = options.get("encoding", "rgb8"), pixels.shape
        shown = pixels[..., ::-1] if encoding == "bgr8" else pixels
        padded = np.pad(shown.reshape(height, -1), ((0, 0), (0, 5)))  # rows are longer than the image is wide
        values = header(time), height, width, encoding, 0, padded.shape[1], np.ascontiguousarray(padded).reshape(-1)
        return message("sensor_msgs/msg/Image", *values)

    values, start = episode(number), 1_700_000_000.0
    said: list[tuple[float, str, tuple[str, Any]]] = []
    for frame in range(len(values["state"])):
        time = start + frame / 10
        said.append((time - 0.004, "/joint_states", joint_state(time, values["state"][frame])))
        said.append((time + 0.046, "/joint_states", joint_state(time, values["state"][frame] + 100)))  # is not taken
        said.append(
            (
                time + 0.03,
                "/arm_controller/joint_trajectory",
                trajectory(time, values["action"][frame][: 2 if frame == 5 and "short" in options else 3]),
            )
        )
        if frame >= 2:
            said.append(
                (time, "/head/color/image_raw" + "/compressed" * compress, image(time, values["images"][frame]))
            )
        said.append((time, "/rosout", message("std_msgs/msg/String", "hello")))
    said = [each for each in said if each[1] not in options.get("skip", ())]
    silent = options.get("silent")
    said = [each for each in said if each[1] != silent or not 0 <= each[0] - start - 1 < 1.5]
    said = [(each[0] + 60 * (each[1] == options.get("late")), *each[1:]) for each in said]
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=types)
            for _, topic, (kind, _) in said
            if topic not in [each.topic for each in writer.connections]
        }
        for time, topic, (kind, content) in sorted(said, key=lambda each: each[0]):
            writer.write(connections[topic], round(time * 1e9), types.serialize_cdr(content, kind))
    if cut := options.get("cut"):
        file = next(path.glob("*.mcap"))
        file.write_bytes(file.read_bytes()[:-cut])
    return values
