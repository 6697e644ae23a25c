"""Backbones: torchvision's and timm's, up to which map, and the weights that they start from."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from robodiff.errors import RobodiffError, UsageError
from robodiff.networks.backbones import (
    BackboneConfig,
    feature_map,
    fold_norms,
    load_backbone,
    make_backbone,
    read_weights,
)


@pytest.fixture(scope="module")
def resnet() -> models.ResNet:
    """A ResNet-18 whose batch normalisation has seen something."""
    torch.manual_seed(0)
    network = models.resnet18()
    network(torch.randn(4, 3, 40, 40) * 2)
    return network.eval()


@pytest.mark.parametrize(("name", "channels", "parameters"), [("resnet18", 512, 11_176_512),
                         ("resnet34", 512, 21_284_672), ("resnet50", 2048, 23_508_032)])  # fmt: skip
def test_group_normalisation_takes_the_place_of_every_batch_normalisation(
    name: str, channels: int, parameters: int
) -> None:
    for group_norm, expected, other in ((True, nn.GroupNorm, nn.BatchNorm2d), (False, nn.BatchNorm2d, nn.GroupNorm)):
        body, form = make_backbone(BackboneConfig(name, group_norm=group_norm), (64, 96))
        norms = [module for module in body.modules() if isinstance(module, expected)]
        assert not any(isinstance(module, other) for module in body.modules())
        assert len(norms) == {"resnet18": 20, "resnet34": 36, "resnet50": 53}[name]
        assert (form.shape, form.stride) == ((channels, 2, 3), 32)
        assert sum(p.numel() for p in body.parameters()) == parameters  # torchvision's, less the classifier
        if group_norm:
            assert all(norm.num_channels == 16 * norm.num_groups for norm in norms)  # type: ignore[union-attr]


def test_a_resnet_up_to_an_earlier_map(resnet: models.ResNet) -> None:
    config = BackboneConfig(stride=8, group_norm=False, pretrained="weights.pth")
    body, form = make_backbone(config, (64, 96))
    assert (form.shape, form.stride) == ((128, 8, 12), 8)
    load_backbone(body.eval(), config, resnet.state_dict())
    images = torch.randn(2, 3, 64, 96, generator=torch.manual_seed(0))
    stem = nn.Sequential(*list(resnet.children())[:4])
    with torch.no_grad():
        expected = resnet.layer2(resnet.layer1(stem(images)))
        torch.testing.assert_close(feature_map(body, images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="resnet18 has maps of stride 4, 8, 16, 32; found backbone_stride 7"):
        make_backbone(BackboneConfig(stride=7), (64, 96))


def test_a_network_of_timm_up_to_a_map(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("tf_efficientnet_lite0")
    whole(torch.randn(4, 3, 64, 64))
    whole.eval()
    save_file(whole.state_dict(), file := tmp_path / "weights.safetensors")
    config = BackboneConfig("timm:tf_efficientnet_lite0", 16, group_norm=False, pretrained=str(file))
    body, form = make_backbone(config, (64, 96))
    assert (form.shape, form.stride, form.pixels) == ((112, 4, 6), 16, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    assert sum(p.numel() for p in body.parameters()) < sum(p.numel() for p in whole.parameters()) / 3
    load_backbone(body.eval(), config, read_weights(config))
    images = torch.randn(2, 3, 64, 96, generator=torch.manual_seed(0))
    with torch.no_grad():
        expected = whole.forward_intermediates(images, indices=[3], intermediates_only=True)[0]
        torch.testing.assert_close(feature_map(body, images), expected)
        folded = fold_norms(body)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(feature_map(folded, images), expected, rtol=1e-4, atol=1e-4)
    assert any(isinstance(module, nn.BatchNorm2d) for module in body.modules())


@pytest.mark.parametrize(("name", "pretrained", "mean"), [("mobilenetv3_large_100", None, 0.485),
                         ("mobilenetv3_large_100.miil_in21k", None, 0), ("mobilenetv3_large_100", "miil_in21k", 0),
                         ("mobilenetv3_large_100.miil_in21k", "weights.pth", 0)])  # fmt: skip
def test_pixels_are_those_that_the_weights_were_trained_on(name: str, pretrained: str | None, mean: float) -> None:
    _, form = make_backbone(BackboneConfig(f"timm:{name}", group_norm=False, pretrained=pretrained), (64, 64))
    assert form.pixels[0][0] == mean


def test_a_transformers_places_are_fitted_to_images_of_another_size() -> None:
    torch.manual_seed(0)
    whole = timm.create_model("vit_tiny_patch16_224")
    config = BackboneConfig("timm:vit_tiny_patch16_224", group_norm=False, pretrained="weights.pth")
    weights = {key: value.clone() for key, value in whole.state_dict().items()}
    for size in (224, 224), (64, 96):
        body, form = make_backbone(config, size)
        load_backbone(body, config, weights)
        whole.set_input_size(size)
        assert form.shape == (192, size[0] // 16, size[1] // 16)
        torch.testing.assert_close(body.state_dict()["model.pos_embed"], whole.pos_embed.detach())


def test_what_no_file_holds_of_a_network_is_made_when_it_is_loaded() -> None:
    with torch.device("meta"):
        body, _ = make_backbone(BackboneConfig("timm:resnetblur18", group_norm=False), (64, 64))
    weights = make_backbone(BackboneConfig("timm:resnetblur18", group_norm=False), (64, 64))[0].state_dict()
    body.load_state_dict(weights, assign=True)
    assert feature_map(body.eval(), torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_normalisation_is_folded_into_convolutions(resnet: models.ResNet) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.manual_seed(0))
    folded = fold_norms(resnet)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images), resnet(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("timm:tf_efficientnet_lite", None, r"timm has no network 'tf_efficientnet_lite'; .* Did you mean 'tf_eff"),
        ("timm:tf_efficientnet_lite0", 6, r"has maps of stride 2, 4, 8, 16, 32; found backbone_stride 6"),
        ("timm:vit_tiny_patch16_224", 8, r"has maps of stride 16; found backbone_stride 8"),
        ("timm:vgg11", 64, r"timm:vgg11"),
        ("timm:resnet10t.in22k", None, r"timm has no weights 'in22k' for timm:resnet10t; there is c3_in1k"),
    ],
)
def test_what_timm_cannot_give_is_told(name: str, stride: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_backbone(BackboneConfig(name, stride, group_norm=False), (64, 64))


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(RobodiffError, match=r"needs the extra timm: pip install 'robodiff\[timm\]'"):
        make_backbone(BackboneConfig("timm:resnet18", group_norm=False), (64, 64))


def test_timms_weights_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BackboneConfig("timm:tf_efficientnet_lite0", group_norm=False, pretrained="in1k")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RobodiffError, match=r"in1k could not be downloaded from the hub: .*give the file"):
        read_weights(config)
    with pytest.raises(UsageError, match=r"no weights 'in2k' for timm:tf_efficientnet_lite0; there is in1k, or give"):
        read_weights(BackboneConfig("timm:tf_efficientnet_lite0", pretrained="in2k"))
    with pytest.raises(UsageError, match=r"no weights 'in2k' for timm:resnet10t.c3_in1k; there is c3_in1k, or give"):
        read_weights(BackboneConfig("timm:resnet10t.c3_in1k", pretrained="in2k"))


def test_weights_that_do_not_fit_are_named(resnet: models.ResNet, tmp_path: Path) -> None:
    def load(weights: object, suffix: str = "pth") -> None:
        torch.save(weights, tmp_path / f"weights.{suffix}")
        file = str(tmp_path / f"weights.{suffix}")
        config = BackboneConfig(group_norm=False, pretrained=file)
        load_backbone(make_backbone(config, (40, 36))[0], config, read_weights(config))

    weights = resnet.state_dict()
    load({key: value for key, value in weights.items() if "num_batches_tracked" not in key and "fc." not in key})
    less = {key: value for key, value in weights.items() if key != "layer1.0.conv1.weight"}
    with pytest.raises(UsageError, match=r"pth: 1 weights .* layer1\.0\.conv1\.weight should be .*, is absent"):
        load(less)
    with pytest.raises(UsageError, match=r"1 weights .*bn1\.weight should be \(64,\), is \(3,\)"):
        load({**weights, "bn1.weight": torch.zeros(3), "module.conv1": torch.zeros(1)})
    for nothing in ({"model": weights}, [1], nn.Linear(1, 1)):
        with pytest.raises(UsageError, match=r"weights\.pth: is not a state dict"):
            load(nothing)
    with pytest.raises(UsageError, match=r"weights\.safetensors: is not a state dict"):
        load(weights, "safetensors")
    with pytest.raises(RobodiffError, match=r"absent\.pth: cannot be read: No such file"):
        read_weights(BackboneConfig(pretrained=str(tmp_path / "absent.pth")))
    with pytest.raises(RobodiffError, match=r"absent\.safetensors: cannot be read: No such file"):
        read_weights(BackboneConfig(pretrained=str(tmp_path / "absent.safetensors")))


def test_weights_by_torchvisions_name(resnet: models.ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def download(url: str, *, weights_only: bool, **_: object) -> dict[str, Tensor]:
        asked.append((url.rsplit("/", 1)[1], weights_only))
        return resnet.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    for name in ("IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1", "DEFAULT"):
        assert read_weights(BackboneConfig(pretrained=name)).keys() == resnet.state_dict().keys()
    assert asked == [("resnet18-f37072fd.pth", True)] * 3
    for name in ("ResNet34_Weights.IMAGENET1K_V1", "IMAGENET1K_V2", "r3m"):
        with pytest.raises(UsageError, match=f"no weights '{name}' for resnet18; there is IMAGENET1K_V1, "):
            read_weights(BackboneConfig(pretrained=name))

    def offline(url: str, **_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        RobodiffError, match=r"could not be downloaded from https://.*no route.*give the file: .*resnet34-.*pth"
    ):
        read_weights(BackboneConfig("resnet34", pretrained="IMAGENET1K_V1"))
