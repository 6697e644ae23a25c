"""Image encoders: features, keypoints, norms, pretrained and frozen backbones, one or many cameras."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import functional as torchvision_functional

from robodiff.errors import UsageError
from robodiff.networks.backbones import BackboneConfig
from robodiff.networks.images import Preparation
from robodiff.networks.vision import CameraEncoders, EncoderConfig, ImageEncoder, SpatialSoftmax

STRIDE = 32
SHAPE = (3, 40, 36)
TOP, WRIST = "observation.images.top", "observation.images.wrist"


def images(samples: int = 2, steps: int = 2, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (samples, steps, *shape), dtype=torch.uint8, generator=torch.manual_seed(seed))


def encoder(size: tuple[int, int] = SHAPE[1:], **changes: object) -> ImageEncoder:
    options: dict = {"keypoints": 8, "group_norm": True, "pixels": ["half"], "freeze": False, **changes}
    torch.manual_seed(0)
    backbone = BackboneConfig(group_norm=options["group_norm"])
    return ImageEncoder(size, EncoderConfig(backbone, options["freeze"], options["keypoints"]), options["pixels"])


def cameras_of(shapes: dict, preparation: Preparation = Preparation(), **options: Any) -> CameraEncoders:  # noqa: B008
    backbone = BackboneConfig(group_norm=options.pop("group_norm", True), pretrained=options.pop("pretrained", None))
    config = EncoderConfig(backbone, options.pop("freeze", False), options.pop("keypoints", 32))
    return CameraEncoders(shapes, preparation, config, **options)


@pytest.fixture(scope="module")
def resnet() -> models.ResNet:
    """A ResNet-18 whose batch normalisation has seen something."""
    torch.manual_seed(0)
    net = models.resnet18()
    with torch.no_grad():
        net(torch.randn(4, 3, 40, 40) * 2)
    return net.eval()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_features_are_torchvisions(resnet: models.ResNet, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pth" else save_file)(resnet.state_dict(), file)
    ours = cameras_of({TOP: SHAPE}, Preparation(), keypoints=None, group_norm=False, pretrained=str(file)).eval()
    ours.load_pretrained()
    net = copy.deepcopy(resnet)
    net.fc = nn.Identity()  # type: ignore[assignment]
    imagenet = models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    seen = images()
    normalised = torchvision_functional.normalize(seen[1] / 255, imagenet.mean, imagenet.std)
    with torch.no_grad():
        torch.testing.assert_close(ours({TOP: seen})[TOP][1], net(normalised), rtol=1e-4, atol=1e-5)


def test_pixels_are_normalised_once() -> None:
    black_to_white = torch.linspace(0, 255, 3).view(3, 1, 1, 1).expand(3, 3, 36, 36)
    for pixels, expected in (
        ("half", [-1.0, 0.0, 1.0]),
        ("imagenet", [-0.485 / 0.229, (0.5 - 0.485) / 0.229, 0.515 / 0.229]),
    ):
        seen: list[Tensor] = []
        network = encoder((36, 36), pixels=[pixels])
        network.backbone.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        network(black_to_white)
        torch.testing.assert_close(seen[0][:, 0, 0, 0], torch.tensor(expected))


def test_a_sharp_peak_gives_its_place() -> None:
    softmax = SpatialSoftmax(channels=2, keypoints=2, cells=(3, 5))
    softmax.maps.weight.data = torch.eye(2)[:, :, None, None]
    features = torch.zeros(1, 2, 3, 5)
    features[0, 0, 2, 1] = 100  # last row, second of five columns
    places = softmax(features)
    torch.testing.assert_close(places[0], torch.tensor([[-0.5, 1.0], [0.0, 0.0]]))  # a flat map: the middle


def test_spatial_softmax_is_the_expected_place() -> None:
    torch.manual_seed(0)
    softmax, features = SpatialSoftmax(channels=6, keypoints=4, cells=(3, 5)), torch.randn(2, 6, 3, 5)
    maps = np.einsum("kc,nchw->nkhw", softmax.maps.weight.detach().numpy()[:, :, 0, 0], features.numpy())
    likely = np.exp(maps) / np.exp(maps).sum((2, 3), keepdims=True)
    y, x = np.meshgrid(np.linspace(-1, 1, 3), np.linspace(-1, 1, 5), indexing="ij")
    expected = np.stack([(likely * x).sum((2, 3)), (likely * y).sum((2, 3))], axis=-1)
    np.testing.assert_allclose(softmax(features).detach().numpy(), expected, atol=1e-6)


def test_a_keypoint_is_where_its_cell_looks() -> None:
    network = encoder((320, 320), group_norm=False).eval()  # 10 x 10 cells
    for parameter in network.backbone.parameters():
        if parameter.ndim == 4:
            parameter.data.fill_(1 / parameter[0].numel())
    network.backbone.maxpool = nn.AvgPool2d(3, 2, 1)  # of equal pixels the maximum is the first, not the middle
    pixels = torch.full((1, 3, 320, 320), 200.0, requires_grad=True)
    network._maps(pixels, network.mean, network.std)[0, 0, 5, 4].backward()  # the weights are symmetric around the cell
    looks = pixels.grad[0, 0]  # type: ignore[index]
    centre = looks.sum(0) @ torch.arange(320.0) / looks.sum(), looks.sum(1) @ torch.arange(320.0) / looks.sum()
    torch.testing.assert_close(torch.stack(centre), torch.tensor([4.0, 5]) * STRIDE, rtol=0, atol=2.0)

    network.pool = SpatialSoftmax(512, 1, (10, 10))
    network.pool.maps.weight.data.zero_()
    network.pool.maps.weight.data[0, 0] = 1
    peaked = torch.zeros(1, 512, 10, 10)
    peaked[0, 0, 5, 4] = 100
    network._maps = lambda *_: peaked  # type: ignore[method-assign]
    torch.testing.assert_close(network.keypoints(pixels.unsqueeze(0)), torch.tensor([[[[4.0 * STRIDE, 5 * STRIDE]]]]))


def test_views_are_what_the_network_sees() -> None:
    cameras = cameras_of({TOP: (3, 60, 50)}, Preparation(crop=(40, 36)), keypoints=8).eval()
    seen = images(shape=(3, 60, 50))
    view = cameras.views({TOP: seen})[TOP]
    assert view.image.equal(seen[..., 10:50, 7:43])
    assert view.keypoints is not None
    assert view.keypoints.shape == (2, 2, 8, 2)
    assert view.keypoints.min() >= 0
    assert view.keypoints.max() <= STRIDE  # two cells each way: at pixel 0 and 32
    average = cameras_of({TOP: SHAPE}, Preparation(resize=(20, 20)), keypoints=None).eval()
    view = average.views({TOP: images()})[TOP]
    assert (view.image.shape, view.image.dtype, view.keypoints) == ((2, 2, 3, 20, 20), torch.uint8, None)


def test_a_frozen_backbone_neither_learns_nor_counts() -> None:
    network = encoder(group_norm=False, freeze=True).train()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(images().flatten(0, 1)).square().sum().backward()
    optimizer.step()
    trained = {key for key, value in network.state_dict().items() if not value.equal(before[key])}
    assert trained == {"pool.maps.weight", "out.0.weight", "out.0.bias"}
    assert all(p.grad is None for p in network.backbone.parameters())
    assert network.training
    assert not any(module.training for module in network.backbone.modules())


def test_an_unfrozen_backbone_learns_and_counts() -> None:
    network = encoder(group_norm=False).train()
    before = copy.deepcopy(network.state_dict())
    network(images().flatten(0, 1)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.backbone.parameters())
    assert not network.state_dict()["backbone.bn1.running_mean"].equal(before["backbone.bn1.running_mean"])


def test_one_encoder_or_one_for_each_camera() -> None:
    seen = {TOP: images(seed=1), WRIST: images(seed=2)}
    shapes = dict.fromkeys(seen, SHAPE)
    shared, separate = (cameras_of(shapes, Preparation(), keypoints=8, separate=s).eval() for s in (False, True))
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(separate) == 2 * count(shared)
    assert [*separate.encoders] == ["observation/images/top", "observation/images/wrist"]
    assert shared.dims == separate.dims == {TOP: 16, WRIST: 16}
    calls: list[Tensor] = []
    shared.encoders["shared"].register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0]))
    with torch.no_grad():
        together = shared(seen)
        alone = {key: shared({TOP: value, WRIST: value})[TOP] for key, value in seen.items()}
        features = separate(seen)
    assert calls[0].shape == (8, *SHAPE)  # two cameras, two samples, two frames in one call
    for camera in seen:
        torch.testing.assert_close(together[camera], alone[camera], rtol=1e-4, atol=1e-5)
        assert features[camera].shape == (2, 2, 16)
    assert not torch.allclose(features[TOP], separate({TOP: seen[WRIST], WRIST: seen[TOP]})[WRIST])


def test_cameras_of_different_sizes_and_colours() -> None:
    shapes = {TOP: (3, 48, 64), WRIST: (1, 40, 40)}
    seen = {camera: images(shape=shape) for camera, shape in shapes.items()}
    separate = cameras_of(shapes, Preparation(), keypoints=4, separate=True)
    assert {camera: f.shape for camera, f in separate(seen).items()} == dict.fromkeys(shapes, (2, 2, 8))
    shared = cameras_of(shapes, Preparation(crop=(36, 40)), keypoints=4)
    assert {camera: f.shape for camera, f in shared(seen).items()} == dict.fromkeys(shapes, (2, 2, 8))
    with pytest.raises(UsageError, match=r"differ in size: .*top 48x64, .*wrist 40x40; .*use_separate_rgb_encoder"):
        cameras_of(shapes, Preparation())


def test_no_camera_no_parameter() -> None:
    for separate in (False, True):
        cameras = cameras_of({}, Preparation(), pretrained="absent.pth", separate=separate)
        cameras.load_pretrained()  # nothing to load
        assert (cameras.state_dict(), cameras.dims, cameras({})) == ({}, {}, {})


@pytest.mark.parametrize("size", [(32, 64), (64, 32)])
def test_too_few_pixels_for_a_place_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=rf"{TOP} {size[0]}x{size[1]}: .* needs > 32 pixels"):
        cameras_of({TOP: (3, *size)}, Preparation())
    assert cameras_of({TOP: (3, *size)}, Preparation(), keypoints=None).dims == {TOP: 512}
