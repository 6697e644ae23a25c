"""What a training is given and cannot use: recordings, sizes, pretrained weights, places."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from tests.faults.catalogue import SMALL, Place, fault, no_traces
from tests.faults.processes import Seen, Trouble, full_disk, run

from robodiff.data.episodes import Feature
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.policies.checkpoint import save_policy
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy

CAMERA = "observation.image"
VIDEO = f"videos/{CAMERA}/chunk-000/file-001.mp4"
KEPT = "the recording; no run is begun"


def write_set(root: Path) -> None:
    """Three episodes with a camera of 64x80 pixels."""
    random = np.random.default_rng(0)
    writer = LeRobotWriter(root, fps=10, images="h264")
    for _ in range(3):
        walk = random.normal(size=(20, 2)).cumsum(axis=0)
        images = random.integers(0, 256, (20, 3, 64, 80), np.uint8)
        writer.append({CAMERA: images, "observation.state": walk, "action": walk}, task="walk")
    writer.close()


def fit(place: Place, *options: Any, trouble: Trouble | None = None) -> Seen:
    """Train on the set, if it can be trained on."""
    return run("fit", *SMALL, "--data", "LeRobotConfig", "--data.root", place.folder / "SET",
               "--data.cache_dir", place.folder / "CACHE", "--run", place.run, "--trainer.max_steps", 1,
               "--model.observation_keys", f"[{CAMERA}, observation.state]", *options, trouble=trouble)  # fmt: skip


def unusable(name: str, cause: str, code: int, *message: str, options: tuple[Any, ...] = ()) -> Callable[..., Any]:
    """Put what a function does to the folder of a set into the catalogue, and what ``fit`` says of it."""

    def add(prepare: Callable[[Path], object]) -> Callable[[Path], object]:
        def happen(place: Place) -> Seen:
            write_set(place.folder / "SET")
            prepare(place.folder)
            kept = _contents(place.folder / "SET")
            named = [str(option).replace("FOLDER", str(place.folder)) for option in options]
            seen = fit(place, *named).refused(code, *message)
            assert not place.run.exists()
            assert _contents(place.folder / "SET") == kept
            return seen

        happen.__doc__ = name
        fault(cause, KEPT)(happen)
        return prepare

    return add


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@unusable("a video cut short", "the second half of an mp4 removed", 1,
          "file-001.mp4: is not a video, or a broken one", "copy or download it again")  # fmt: skip
def video_cut_short(folder: Path) -> None:
    video = folder / "SET" / VIDEO
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])


@unusable("a broken video", "1200 bytes of an mp4's pictures overwritten", 1, "file-001.mp4: has no whole frame at")
def broken_video(folder: Path) -> None:
    content = bytearray((folder / "SET" / VIDEO).read_bytes())
    start = content.index(b"mdat") + 8
    content[start + 800 : start + 2000] = b"\xff" * 1200
    (folder / "SET" / VIDEO).write_bytes(content)


@unusable("images of another size", "meta/info.json says 48x64", 1,
          "is 64x80 at 10 frames a second, but meta/info.json says 48x64")  # fmt: skip
def another_size(folder: Path) -> None:
    path = folder / "SET" / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"][CAMERA]["shape"] = [48, 64, 3]
    path.write_text(json.dumps(info))


@unusable("a missing column", "action removed from a parquet file", 1, "file-000.parquet: ", "action")
def missing_column(folder: Path) -> None:
    path = folder / "SET" / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["action"]), path)


@unusable("a crop larger than the image", "model.crop_shape [72, 72]", 2,
          f"crop_shape 72x72 is larger than the image: {CAMERA} is 64x80",
          options=("--model.crop_shape", "[72, 72]"))  # fmt: skip
def large_crop(folder: Path) -> None:
    pass


@unusable("no place for decoded images", "data.cache_dir is a file", 1, "CACHE", "cannot be written",
          "set data.cache_dir to a folder that can take it")  # fmt: skip
def cache_is_a_file(folder: Path) -> None:
    (folder / "CACHE").write_text("")


def weights(name: str) -> tuple[Any, ...]:
    """The options that start from the weights in a file."""
    return "--model.use_group_norm", "false", "--model.pretrained_backbone_weights", f"FOLDER/{name}"


@unusable("pretrained weights of another network", "a .safetensors file with other keys and shapes", 2,
          "other.safetensors: ", "weights do not fit the backbone: ", "conv1.weight should be (64, 3, 7, 7)",
          options=weights("other.safetensors"))  # fmt: skip
def other_weights(folder: Path) -> None:
    save_file({"conv1.weight": torch.zeros(8, 3, 7, 7)}, folder / "other.safetensors")


@unusable("pretrained weights that are a program", "a .pth file whose pickle would write a file", 2,
          "evil.pth: is not a state dict", options=weights("evil.pth"))  # fmt: skip
def pickled_program(folder: Path) -> None:
    torch.save({"conv1.weight": Program(folder / "SET" / "written")}, folder / "evil.pth")  # it would be noticed there


class Program:
    """Pickled, it writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


def _environment(name: str, value: str) -> None:
    os.environ[name] = value


@fault("data.repo_id, and HTTPS_PROXY where nobody listens", KEPT)
def no_network(place: Place) -> Seen:
    """a data set of the hub, and no network."""
    trouble = partial(_environment, "HTTPS_PROXY", "http://127.0.0.1:9")
    options = ("--data.root", "null", "--data.repo_id", "nobody/nothing")
    seen = fit(place, *options, trouble=trouble)
    seen.refused(1, "nobody/nothing: cannot be fetched from the hub", "without a network, give the path of its folder")
    assert not place.run.exists()
    offline = fit(place, *options, trouble=partial(_environment, "HF_HUB_OFFLINE", "1"))
    offline.refused(1, "nobody/nothing: cannot be fetched from the hub", "outgoing traffic has been disabled")
    return seen


@fault("no file may become larger than 300 kB (RLIMIT_FSIZE)", "the recording; the same command goes on")
def full_while_images_are_decoded(place: Place) -> Seen:
    """disk full while videos are decoded."""
    write_set(place.folder / "SET")
    small = ("--model.crop_shape", "[40, 40]", "--data.train_batch_size", 2, "--data.val_split", 0)
    seen = fit(place, *small, trouble=full_disk(300_000))
    seen.refused(1, "cannot be written: File too large; free some space there")
    assert not place.run.exists()
    fit(place, *small).done()
    no_traces(place.folder / "CACHE")
    return seen


@fault("a policy trained on images of 64x80, measured in pusht, which has 96x96", "nothing was begun")
def policy_of_another_size(place: Place) -> Seen:
    """a policy that sees images of another size."""
    features = {CAMERA: Feature("image", (3, 64, 80), "uint8"), "action": Feature("vector", (2,), "float32")}
    config = DiffusionConfig(down_dims=(8, 16), n_groups=4, diffusion_step_embed_dim=8)
    save_policy(DiffusionPolicy(config, features, fps=10), place.policy)
    seen = run(*place.eval()).refused(2, f"{CAMERA} is (3, 64, 80) for the policy and (3, 96, 96) in", "pusht")
    assert not place.out.exists()
    return seen
