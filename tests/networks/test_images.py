"""What is done to images before a network sees them: sizes, crops, colours."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as torchvision_functional

from robodiff.errors import UsageError
from robodiff.networks.images import Preparation, centre_crop, color_jitter, random_crop


def numbered(samples: int, steps: int, height: int, width: int) -> Tensor:
    """Images (B, To, 3, H, W) whose channels hold the row, the column and the sample of every pixel."""
    image = torch.empty(samples, steps, 3, height, width, dtype=torch.uint8)
    image[:, :, 0] = torch.arange(height)[:, None]
    image[:, :, 1] = torch.arange(width)
    image[:, :, 2] = torch.arange(samples)[:, None, None, None]
    return image


def test_a_random_crop_has_exact_pixels_one_place_for_all_frames_and_every_place_for_some_sample() -> None:
    torch.manual_seed(0)
    cropped = random_crop(numbered(200, 2, 7, 9), 5, 6)
    top, left = cropped[:, 0, 0, 0, 0].long(), cropped[:, 0, 1, 0, 0].long()
    assert cropped.shape == (200, 2, 3, 5, 6)
    assert cropped.dtype == torch.uint8
    for sample in range(200):
        rows, columns = top[sample] + torch.arange(5), left[sample] + torch.arange(6)
        expected = numbered(200, 2, 7, 9)[sample][:, :, rows][:, :, :, columns]
        assert cropped[sample].equal(expected)  # both frames, at one place
    assert {*zip(top.tolist(), left.tolist(), strict=True)} == {(t, c) for t in range(3) for c in range(4)}


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (6, 9), (7, 8), (9, 7)])
def test_the_centre_is_torchvisions(size: tuple[int, int]) -> None:
    images = numbered(2, 2, *size)
    assert centre_crop(images, 5, 6).equal(torchvision_functional.center_crop(images, [5, 6]))


def test_training_varies_what_evaluation_does_not() -> None:
    prepare, images = Preparation(crop=(5, 5), jitter=0.5), numbered(50, 2, 8, 8)
    state = torch.random.get_rng_state()
    assert prepare(images, training=False).equal(centre_crop(images, 5, 5))
    assert torch.random.get_rng_state().equal(state)  # evaluation draws nothing
    torch.manual_seed(0)
    first = prepare(images, training=True)
    assert not first.equal(prepare(images, training=True))
    torch.manual_seed(0)
    assert first.equal(prepare(images, training=True))  # decided by the global generator
    fixed = Preparation(crop=(5, 5), random_crop=False)
    assert fixed(images, training=True).equal(centre_crop(images, 5, 5))


def test_the_whole_image_is_left_as_it_was() -> None:
    images = numbered(2, 3, 4, 5)
    assert Preparation()(images, training=True).equal(images)


def test_colours_change_as_torchvision_changes_them_alike_in_all_frames() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 2, 3, 6, 7)).float()
    torch.manual_seed(1)
    changed = color_jitter(images, 0.5)
    torch.manual_seed(1)
    factors = (0.5 + torch.rand(3, 4)).T  # of a sample: brightness, contrast, saturation
    for sample, (brightness, contrast, saturation) in enumerate(factors.tolist()):
        for step in range(2):
            expected = torchvision_functional.adjust_brightness(images[sample, step] / 255, brightness)
            expected = torchvision_functional.adjust_contrast(expected, contrast)
            expected = torchvision_functional.adjust_saturation(expected, saturation)
            torch.testing.assert_close(changed[sample, step] / 255, expected, rtol=0, atol=2e-3)
    assert len(factors.unique()) == 12


def test_resizing_keeps_what_is_linear_and_comes_before_the_crop() -> None:
    ramp = (torch.arange(40, dtype=torch.uint8) * 6).expand(1, 2, 3, 30, 40)
    resized = Preparation(resize=(15, 20), crop=(9, 10))(ramp, training=False)
    assert resized.shape == (1, 2, 3, 9, 10)
    expected = (torch.arange(5, 15) * 2 + 0.5) * 6  # the middle of two pixels each
    torch.testing.assert_close(resized, expected.expand_as(resized))


def test_grey_becomes_three_equal_channels() -> None:
    grey = numbered(3, 2, 6, 6)[:, :, :1]
    seen = Preparation(crop=(4, 4))(grey, training=False)
    assert seen.shape == (3, 2, 3, 4, 4)
    assert (seen == seen[:, :, :1]).all()


def test_sizes_that_do_not_go_together_are_refused() -> None:
    assert Preparation(crop=(84, 80)).size("camera", (3, 96, 96)) == (84, 80)
    assert Preparation(resize=(60, 80)).size("camera", (1, 480, 640)) == (60, 80)
    with pytest.raises(
        UsageError, match=r"crop_shape 84x100 is larger than the image: camera is 96x96; set --model.crop_shape null"
    ):
        Preparation(crop=(84, 100)).size("camera", (3, 96, 96))
    with pytest.raises(UsageError, match="crop_shape 84x84 is larger than the image: camera is 60x90"):
        Preparation(resize=(60, 90), crop=(84, 84)).size("camera", (3, 480, 640))
    with pytest.raises(UsageError, match=r"camera has 4 channels; an encoder takes 1 \(grey\) or 3"):
        Preparation().size("camera", (4, 96, 96))
