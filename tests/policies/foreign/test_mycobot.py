"""Checkpoints of the myCobot code base: they act as its formulas say, and what is none is refused and not run."""

import argparse
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import resnet34

from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.checkpoint import load_policy, save_policy
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.foreign.mycobot import mycobot_policy
from robodiff.policies.foreign.reader import read_checkpoint

CAMERA, SIZE = "observation.images.front", (48, 60)
ARGS = {"state_dim": 7, "hidden_dim": 256, "num_mlp_layers": 4, "image_feature_dim": 512, "image_size": 64,
        "diffusion_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "data_dir": "eps"}  # fmt: skip


class Original(nn.Module):
    """The document's network: a ResNet-34 of the image, the timestep embedded, four layers of 256, ReLU and dropout."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Identity(), nn.Linear(64, 128), nn.Mish(), nn.Linear(128, 64))
        self.image_encoder = resnet34()
        self.image_encoder.fc = nn.Identity()
        layers: list[nn.Module] = []
        for width in (7 + 64 + 512, 256, 256, 256):
            layers += [nn.Linear(width, 256), activation(), nn.Dropout(0.1)]
        self.mlp = nn.Sequential(*layers, nn.Linear(256, 7))

    def features(self, images: Tensor) -> Tensor:
        return self.image_encoder(images)

    def time(self, t: int) -> Tensor:
        angles = t * torch.exp(torch.arange(32) * (-np.log(10_000) / 31))
        return self.time_mlp(torch.cat([angles.sin(), angles.cos()]))

    def forward(self, x: Tensor, t: int, features: Tensor) -> Tensor:
        return self.mlp(torch.cat([x, self.time(t).expand(len(x), -1), features], dim=1))


class Later(Original):
    """The later one: the parts of the ResNet in a sequence, layer normalisation, GELU, the timestep at every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.image_backbone = nn.Sequential(*list(self.image_encoder.children())[:-2])
        self.time_mlp[2] = nn.GELU()
        del self.image_encoder, self.mlp
        self.input_projection = self.layer(7 + 512)
        self.layers = nn.ModuleList(self.layer(256 + 64) for _ in range(4))
        self.output_projection = nn.Linear(256, 7)

    @staticmethod
    def layer(width: int) -> nn.ModuleDict:
        return nn.ModuleDict({"layers": nn.Sequential(nn.Linear(width, 256), nn.LayerNorm(256), nn.GELU())})

    def features(self, images: Tensor) -> Tensor:
        return self.image_backbone(images).mean((2, 3))

    def forward(self, x: Tensor, t: int, features: Tensor) -> Tensor:
        time, x = self.time(t).expand(len(x), -1), self.input_projection["layers"](torch.cat([x, features], dim=1))
        for layer in self.layers:
            x = layer["layers"](torch.cat([x, time], dim=1))  # type: ignore[index]
        return self.output_projection(x)


def p_sample_loop(model: Original, pixels: Tensor, noise: Tensor, args: dict[str, Any]) -> Tensor:
    """The document's sampler: (B, 3, H, W) from 0 to 1, as its transform resizes them, and noise (1 + N, B, 7)."""
    betas = torch.linspace(args["beta_start"], args["beta_end"], args["diffusion_timesteps"])
    products = torch.cumprod(1 - betas, 0)
    before = F.pad(products[:-1], (1, 0), value=1.0)
    variance = betas * (1 - before) / (1 - products)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    features, x, fresh = model.features((pixels - mean) / std), noise[0], iter(noise[1:])
    for t in reversed(range(len(betas))):
        x = (x - betas[t] * model(x, t, features) / (1 - products[t]).sqrt()) / (1 - betas[t]).sqrt()
        x = x + variance[t].sqrt() * next(fresh) if t else x
    return x


def trained(model: Original) -> Original:
    """A network whose batch normalisation has statistics of its own."""
    with torch.no_grad():
        for _ in range(3):
            model.features(torch.randn(4, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def original() -> Original:
    torch.manual_seed(0)
    return trained(Original())


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a checkpoint as the document's ``train.py`` does."""

    def write(weights: Any, args: Any = ARGS, **options: Any) -> Path:
        content = {"epoch": 1000, "model_state_dict": weights, "optimizer_state_dict": {}, "train_loss": 0.0123}
        content["args"] = args
        torch.save(content, tmp_path / "model_best.pth", **options)
        return tmp_path / "model_best.pth"

    return write


def imported(path: Path, activation: str | None = None) -> DiffusionPolicy:
    return mycobot_policy(path, read_checkpoint(path), SIZE, activation)


@pytest.mark.parametrize(
    ("steps", "make", "activation"),
    [(1000, Original, None), (50, partial(Original, nn.Mish), "mish"), (50, Later, None)],
)
def test_acts_as_the_original_with_the_same_noise(
    steps: int, make: Callable[[], Original], activation: str | None, save: Callable[..., Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    original, args = trained(make()), {**ARGS, "diffusion_timesteps": steps}
    save_policy(imported(save(original.state_dict(), args), activation), tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    images = torch.randint(0, 256, (2, 1, 3, *SIZE), dtype=torch.uint8)
    noise = torch.randn(1 + steps, 2, 1, 7)
    assert policy.noise_shape(2) == (1 + steps, 2, 1, 7)
    actions = policy.predict_chunk({CAMERA: images}, noise=noise).actions
    pixels = F.interpolate(images[:, 0].float(), (64, 64), mode="bilinear", antialias=True) / 255
    with torch.no_grad():
        expected = p_sample_loop(original, pixels, noise[:, :, 0], args)
    torch.testing.assert_close(actions[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_acts_from_images_as_the_original_prepares_them(original: Original, save: Callable[..., Path]) -> None:
    """PIL rounds what it resizes to whole steps of 255; here it is not rounded."""
    policy = imported(save(original.state_dict(), {**ARGS, "diffusion_timesteps": 20}))
    image, noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8), torch.randn(21, 1, 1, 7)
    transform = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()])
    pixels = transform(Image.fromarray(image))
    seen = policy.cameras.views({CAMERA: torch.from_numpy(image).permute(2, 0, 1)[None, None]})[CAMERA].image
    assert (seen[0, 0].float() - 255 * pixels).abs().max() <= 1.01
    actions = policy.predict_chunk({CAMERA: torch.from_numpy(image).permute(2, 0, 1)[None, None]}, noise=noise).actions
    with torch.no_grad():
        expected = p_sample_loop(original, pixels[None], noise[:, :, 0], {**ARGS, "diffusion_timesteps": 20})
    torch.testing.assert_close(actions[:, 0], expected, rtol=0.01, atol=0.01)


def test_reads_what_torch_writes_in_other_ways(original: Original, save: Callable[..., Path]) -> None:
    """Args as a Namespace, a loss that NumPy computed, the old format, a ResNet in a sequence; and weights alone."""
    weights, resnet = original.state_dict(), original.image_encoder.state_dict()
    places = dict(zip(dict(original.image_encoder.named_children()), "0123456789", strict=False))
    listed = {key: value for key, value in weights.items() if not key.startswith("image_encoder")}
    for key, value in resnet.items():
        part, _, rest = key.partition(".")
        listed[f"image_encoder.{places[part]}.{rest}"] = value
    args = argparse.Namespace(**{**ARGS, "num_layers": 4, "best": np.float64(0.1)})
    path = save(listed, args, _use_new_zipfile_serialization=False)
    policies = [imported(path)]
    torch.save(weights, path)
    policies.append(imported(path))
    for policy in policies:
        state = policy.state_dict()
        assert all(torch.equal(state[f"cameras.encoders.shared.backbone.{key}"], resnet[key]) for key in resnet)
        assert all(torch.equal(value, weights[key]) for key, value in policy.denoiser.state_dict().items())
    assert [policy.config.resize_shape for policy in policies] == [(64, 64), (224, 224)]


class Evil:
    """Would make a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("where", ["args", "weights", "bare", "old", "plain", 3, 4, 5])
def test_code_in_a_checkpoint_is_refused_by_name_and_not_run(where: str | int, save: Callable[..., Path]) -> None:
    path = save({})
    marker = path.with_name("marker")
    evil = Evil(marker)
    if isinstance(where, int):
        torch.save({"w": torch.zeros(2), "x": evil}, path, pickle_protocol=where)
    elif where == "plain":
        path.write_bytes(pickle.dumps({"args": evil}))
    elif where == "bare":
        torch.save(evil, path)
    else:
        save({"w": evil} if where == "weights" else {}, {"x": evil}, _use_new_zipfile_serialization=where != "old")
    with pytest.raises(RobodiffError, match=f"names {os.name}.system, which reading it would call; refused") as refused:
        read_checkpoint(path)
    assert len(str(refused.value).splitlines()) == 2
    assert not marker.exists()
    with path.open("rb") as file:
        pickle.load(file) if where == "plain" else torch.load(path, weights_only=False)
    assert marker.exists()  # it would have


def test_what_stands_for_a_class_keeps_values_and_does_nothing(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(hidden_dim=256), "loss": np.float64(0.5)}, tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    assert content["args"].state == {"hidden_dim": 256}
    assert {type(value).__name__ for value in content.values()} == {"Inert"}


SMALL = {"mlp.0.bias": torch.zeros(4), "mlp.3.bias": torch.zeros(7), "time_mlp.3.bias": torch.zeros(4)}


@pytest.mark.parametrize(
    ("weights", "args", "problem"),
    [
        (SMALL, {"hidden_dim": 8}, "args contradict the weights: hidden_dim is 8, 4 in the weights"),
        (SMALL, {"num_layers": 4}, "num_layers is 4, 1 in the weights"),
        (SMALL, {"num_mlp_layers": "many"}, "num_mlp_layers is 'many', 1"),
        (SMALL, {"state_dim": 14}, "state_dim is 14, 7 in"),
        (SMALL, {"diffusion_timesteps": 0}, "num_train_timesteps: expected int >= 1"),
        (SMALL, {"num_layers": torch.ones(2)}, "holds a Tensor in its configuration, which is no plain value"),
        (SMALL, {"image_size": "large"}, "resize_shape"),
        (SMALL, {"beta_end": [2]}, "beta_end: expected float"),
        (SMALL, {"beta_start": 0.5}, "betas must rise"),
        (SMALL, [256], "args by their names"),
        (SMALL, {}, "should be (64, 3, 7, 7), is absent"),
        ({**SMALL, "mlp.0.weight": torch.zeros(1).expand(4, 2**40)}, {}, "its tensors are larger than the file"),
        ({**SMALL, "mlp.0.weight": torch.zeros(4).to_sparse()}, {}, "expected weights, tensors by their names"),
        ({**SMALL, "mlp.0.bias": torch.tensor(1.0)}, {}, "such as mlp.0.bias and time_mlp.3.bias; found mlp.0.bias"),
        (
            {"output_projection.weight": torch.zeros(2)},
            {},
            "such as input_projection.layers.0.bias and time_mlp.3.bias; found output",
        ),
        ({"layers.0.weight": torch.zeros(2)}, {}, "such as mlp.0.bias and time_mlp.3.bias; found layers.0.weight"),
        ({}, {}, "found a dict"),
        ([torch.zeros(2)], {}, "expected weights, tensors by their names"),
        ({"mlp.0.weight": 3}, {}, "expected weights, tensors by their names"),
    ],
)
def test_what_does_not_fit_is_told(weights: Any, args: Any, problem: str, save: Callable[..., Path]) -> None:
    with pytest.raises(UsageError) as refused:
        imported(save(weights, args))
    assert problem in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_compressed_checkpoint_is_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    """torch would take the compressed bytes for numbers."""
    with ZipFile(save(SMALL)) as saved, ZipFile(tmp_path / "zipped.pth", "w", ZIP_DEFLATED) as zipped:
        for name in saved.namelist():
            zipped.writestr(name, saved.read(name))
    with pytest.raises(UsageError, match=r"zipped\.pth: was compressed after torch\.save wrote it; take the file as"):
        read_checkpoint(tmp_path / "zipped.pth")


def test_files_that_are_no_checkpoint(save: Callable[..., Path], tmp_path: Path) -> None:
    truncated, text, new = tmp_path / "truncated.pth", tmp_path / "text.pth", tmp_path / "new.pth"
    truncated.write_bytes(save(SMALL).read_bytes()[:-200])
    text.write_text("weights")
    new.write_bytes(pickle.dumps({"model_state_dict": {}}, protocol=5))
    for path in (tmp_path / "absent.pth", tmp_path, truncated, text, new):
        with pytest.raises(RobodiffError) as refused:
            read_checkpoint(path)
        assert str(refused.value).startswith(f"{path}: ")
        assert len(str(refused.value).splitlines()) == 1
    torch.save([1], text)
    with pytest.raises(UsageError, match=r"expected a dictionary of weights; found a list"):
        read_checkpoint(text)
