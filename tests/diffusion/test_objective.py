"""Targets, their inversion and the loss."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from robodiff.diffusion.objective import _MIXTURES, conversion, diffusion_loss, target
from robodiff.diffusion.samplers import PROCESSES
from robodiff.diffusion.schedule import make_schedule
from robodiff.errors import UsageError

PAIRS = [
    (beta_schedule, prediction_type)
    for process in PROCESSES
    for beta_schedule in process.beta_schedules
    for prediction_type in process.prediction_types
]


def test_every_prediction_type_of_the_table_is_defined():
    assert set(_MIXTURES) == {name for process in PROCESSES for name in process.prediction_types}


def test_targets():
    x0, noise = torch.randn(2, 3, 16, 2)
    alpha, sigma = torch.tensor([0.6, 0.8, 1.0]), torch.tensor([0.8, 0.6, 0.0])
    torch.testing.assert_close(target("epsilon", x0, noise, alpha, sigma), noise, rtol=0, atol=0)
    torch.testing.assert_close(target("sample", x0, noise, alpha, sigma), x0, rtol=0, atol=0)
    torch.testing.assert_close(target("velocity", x0, noise, alpha, sigma), noise - x0)
    velocity = target("v_prediction", x0, noise, alpha, sigma)
    torch.testing.assert_close(velocity[0], 0.6 * noise[0] - 0.8 * x0[0])
    torch.testing.assert_close(velocity[2], noise[2])


def test_v_prediction_is_that_of_diffusers():
    x0, noise = torch.randn(2, 4, 16, 2)
    timesteps = torch.tensor([0, 30, 60, 99])
    schedule = make_schedule("squaredcos_cap_v2", 100)
    ours = target("v_prediction", x0, noise, *schedule.coefficients(timesteps))
    oracle = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2").get_velocity(x0, noise, timesteps)
    torch.testing.assert_close(ours, oracle, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("beta_schedule", "prediction_type"), PAIRS)
def test_conversion_inverts_the_target(beta_schedule, prediction_type):
    schedule = make_schedule(beta_schedule, 100)
    timesteps = torch.tensor([1, 30, 60, 99 if beta_schedule != "flow" else 100])
    x0, noise = torch.randn(2, 4, 8, dtype=torch.float64)
    alpha, sigma = schedule.coefficients(timesteps, dtype=torch.float64)
    noisy = schedule.add_noise(x0, noise, timesteps)
    prediction = target(prediction_type, x0, noise, alpha, sigma)
    for row in range(4):
        convert = conversion(prediction_type, alpha[row].item(), sigma[row].item())
        found_x0 = convert.x0_from_x * noisy[row] + convert.x0_from_prediction * prediction[row]
        found_eps = convert.eps_from_x * noisy[row] + convert.eps_from_prediction * prediction[row]
        torch.testing.assert_close(found_x0, x0[row], rtol=1e-9, atol=1e-9)
        # At s = 1 of the flow all of x is noise; at the first levels noise is a small difference of large numbers.
        torch.testing.assert_close(found_eps, noise[row], rtol=1e-9, atol=1e-9)


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(ValueError, match="epsilon does not determine"):
        conversion("epsilon", 0.0, 1.0)
    with pytest.raises(ValueError, match="sample does not determine"):
        conversion("sample", 1.0, 0.0)
    with pytest.raises(UsageError, match="prediction_type='score' is not known"):
        conversion("score", 0.6, 0.8)


def test_loss_without_mask_is_the_mean():
    prediction, truth = torch.randn(2, 5, 16, 3)
    loss, per_sample = diffusion_loss(prediction, truth)
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(prediction, truth))
    torch.testing.assert_close(per_sample, (prediction - truth).square().mean(dim=(1, 2)))


def test_full_mask_changes_nothing():
    prediction, truth = torch.randn(2, 5, 16, 3)
    expected = diffusion_loss(prediction, truth)
    found = diffusion_loss(prediction, truth, torch.ones(5, 16, dtype=torch.bool))
    torch.testing.assert_close(found, expected)


def test_masked_loss_weighs_every_valid_element_alike():
    prediction, truth = torch.randn(2, 3, 4, 2)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    squares = (prediction - truth).square()
    loss, per_sample = diffusion_loss(prediction, truth, mask)
    torch.testing.assert_close(loss, squares[mask].mean())
    torch.testing.assert_close(per_sample, torch.stack([squares[0].mean(), squares[1, 0].mean(), torch.tensor(0.0)]))


def test_padding_never_leaks_into_loss_or_gradients():
    prediction = torch.randn(2, 4, 2, requires_grad=True)
    truth = torch.randn(2, 4, 2)
    truth[0, 2:] = torch.nan
    truth[1] = torch.nan
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    loss, per_sample = diffusion_loss(prediction, truth, mask)
    loss.backward()
    assert per_sample[1] == 0
    assert torch.isfinite(loss)
    assert prediction.grad is not None
    assert (prediction.grad[~mask] == 0).all()
    assert (prediction.grad[mask] != 0).all()


def test_nothing_valid_is_zero():
    prediction = torch.randn(2, 4, 2, requires_grad=True)
    loss, per_sample = diffusion_loss(prediction, torch.randn(2, 4, 2), torch.zeros(2, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert per_sample.tolist() == [0, 0]
    assert prediction.grad is not None
    assert (prediction.grad == 0).all()


def test_half_precision_predictions_are_compared_in_full_precision():
    loss, per_sample = diffusion_loss(torch.randn(2, 4, 2).bfloat16(), torch.randn(2, 4, 2))
    assert loss.dtype == per_sample.dtype == torch.float32


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="differ in shape"):
        diffusion_loss(torch.zeros(2, 4, 2), torch.zeros(2, 4, 1))
    with pytest.raises(ValueError, match=r"valid_mask must be \(2, 4\)"):
        diffusion_loss(torch.zeros(2, 4, 2), torch.zeros(2, 4, 2), torch.ones(2, 3, dtype=torch.bool))
