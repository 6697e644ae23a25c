"""Schedules against their closed forms and against diffusers, and the training draws."""

import copy
import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from robodiff.diffusion.samplers import DIFFUSION
from robodiff.diffusion.schedule import DiffusionSchedule, make_schedule
from robodiff.errors import UsageError


def closed_form(beta_schedule, n):
    """alpha^2 of each timestep, by plain Python products."""

    def beta(i):
        if beta_schedule == "linear":
            return 1e-4 + (0.02 - 1e-4) * i / (n - 1)
        if beta_schedule == "scaled_linear":
            return (math.sqrt(1e-4) + (math.sqrt(0.02) - math.sqrt(1e-4)) * i / (n - 1)) ** 2
        f = [math.cos((j / n + 0.008) / 1.008 * math.pi / 2) ** 2 for j in (i, i + 1)]
        return min(1 - f[1] / f[0], 0.999)

    return [math.prod(1 - beta(j) for j in range(i + 1)) for i in range(n)]


@pytest.mark.parametrize("beta_schedule", DIFFUSION.beta_schedules)
@pytest.mark.parametrize("n", [100, 1000])
def test_diffusion_schedules(beta_schedule, n):
    schedule = make_schedule(beta_schedule, n)
    assert isinstance(schedule, DiffusionSchedule)
    assert schedule.num_train_timesteps == n
    assert schedule.alpha.dtype == schedule.sigma.dtype == torch.float64
    expected = torch.tensor(closed_form(beta_schedule, n), dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha**2, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(schedule.alpha**2 + schedule.sigma**2, torch.ones(n, dtype=torch.float64))
    oracle = DDPMScheduler(n, beta_schedule=beta_schedule).alphas_cumprod
    torch.testing.assert_close(schedule.alpha.float() ** 2, oracle, rtol=1e-3, atol=1e-6)
    assert (schedule.alpha.diff() < 0).all()


def test_the_cosine_follows_the_cosine():
    # All but the last beta, which is capped, telescope: alpha_t^2 = f(t + 1) / f(0).
    n = 100
    f = torch.cos((torch.arange(n + 1, dtype=torch.float64) / n + 0.008) / 1.008 * math.pi / 2) ** 2
    schedule = make_schedule("squaredcos_cap_v2", n)
    alpha, _ = schedule.coefficients(torch.arange(n - 1), dtype=torch.float64)
    torch.testing.assert_close(alpha**2, f[1:n] / f[0], rtol=1e-10, atol=0)


def test_flow_is_the_straight_line():
    schedule = make_schedule("flow", 100)
    s = torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)
    alpha, sigma = schedule.coefficients(s * 100, dtype=torch.float64)
    torch.testing.assert_close(alpha, 1 - s)
    torch.testing.assert_close(sigma, s)


@pytest.mark.parametrize("beta_schedule", ["squaredcos_cap_v2", "flow"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_add_noise(beta_schedule, dtype):
    schedule = make_schedule(beta_schedule, 100)
    x0, noise = torch.randn(2, 3, 16, 2, dtype=dtype)
    timesteps = torch.tensor([0, 50, 99])
    alpha, sigma = schedule.coefficients(timesteps, dtype=dtype)
    noisy = schedule.add_noise(x0, noise, timesteps)
    assert noisy.dtype == alpha.dtype == sigma.dtype == dtype
    for row in range(3):
        torch.testing.assert_close(noisy[row], alpha[row] * x0[row] + sigma[row] * noise[row])


def test_uniform_draws_cover_the_diffusion_timesteps_evenly():
    schedule = make_schedule("linear", 100)
    timesteps = schedule.timesteps_from_uniform((torch.arange(1000) + 0.5) / 1000)
    assert timesteps.dtype == torch.int64
    assert timesteps.bincount().tolist() == [10] * 100
    largest = torch.nextafter(torch.tensor([1.0]), torch.tensor([0.0]))
    for n in (1, 3, 100, 1000):
        schedule = make_schedule("squaredcos_cap_v2", n)
        assert schedule.timesteps_from_uniform(largest).item() == n - 1
        assert schedule.timesteps_from_uniform(torch.ones(1)).item() == n - 1  # 1 - 1e-9 in float32
        assert schedule.timesteps_from_uniform(torch.zeros(1)).item() == 0


def test_uniform_draws_of_the_flow_never_reach_clean_data():
    schedule = make_schedule("flow", 100)
    largest = torch.nextafter(torch.tensor([1.0]), torch.tensor([0.0]))
    uniform = torch.cat([torch.zeros(1), torch.tensor([0.25]), largest])
    timesteps = schedule.timesteps_from_uniform(uniform)
    assert timesteps.dtype == torch.float32
    assert timesteps[:2].tolist() == [100.0, 75.0]
    assert timesteps[2] > 0


def test_a_schedule_survives_copies_and_the_meta_device():
    with torch.device("meta"):
        schedule = make_schedule("squaredcos_cap_v2", 100)
    timesteps = torch.tensor([3])
    alpha, _ = schedule.coefficients(timesteps)
    torch.testing.assert_close(copy.deepcopy(schedule).coefficients(timesteps)[0], alpha)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine", 100), "beta_schedule='cosine' is not known.*squaredcos_cap_v2"),
        (("linear", 0), "num_train_timesteps must be at least 1"),
        (("linear", 100, 0.0, 0.02), "betas satisfy 0 < beta_start <= beta_end < 1"),
        (("linear", 100, 1e-4, 1.0), "betas satisfy 0 < beta_start <= beta_end < 1"),
        (("linear", 100, 0.02, 1e-4), "betas satisfy 0 < beta_start <= beta_end < 1"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises((UsageError, ValueError), match=message):
        make_schedule(*arguments)
