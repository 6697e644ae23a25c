"""Whole trajectories against diffusers in float64, with the same noise and the same nonlinear fake network."""

import numpy as np
import pytest
import torch
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_flow_match_euler_discrete,
)

from robodiff.diffusion.denoise import denoise, make_table
from robodiff.diffusion.samplers import DIFFUSION, timestep_grid
from robodiff.diffusion.schedule import make_schedule

N = 100
TOLERANCE = 1e-9  # relative to the largest value of the trajectory's step
STEPS = (7, 10, 33, 50, 100)

schedules = pytest.mark.parametrize("beta_schedule", DIFFUSION.beta_schedules)
predictions = pytest.mark.parametrize("prediction_type", DIFFUSION.prediction_types)
clipping = pytest.mark.parametrize("clip_range", [None, 1.0, 0.6])


class AllFloat64:
    """A module that gives float64 to who asks for float32."""

    def __init__(self, module):
        self.module = module
        self.float32 = module.float64

    def __getattr__(self, name):
        return getattr(self.module, name)


@pytest.fixture(autouse=True)
def oracle_in_float64(monkeypatch):
    # The oracle's code is left as it is, but its betas, sigmas and intermediate casts are float64.
    for module in (
        scheduling_ddpm,
        scheduling_ddim,
        scheduling_dpmsolver_multistep,
        scheduling_flow_match_euler_discrete,
    ):
        monkeypatch.setattr(module, "torch", AllFloat64(torch))
        monkeypatch.setattr(module, "np", AllFloat64(np))


def fake_network(x, timestep):
    time = timestep.to(x.dtype).reshape(-1, 1, 1)
    return torch.tanh(1.3 * x + 0.02 * time - 0.5) + 0.3 * torch.sin(0.1 * time) * x.roll(1, dims=1)


def draw_noise(rows):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1 + rows, 2, 8, 3, dtype=torch.float64, generator=generator)


def our_trajectory(table, noise, clip_range):
    """Every x that the network sees, and the sample."""
    seen = []

    def spy(x, timestep):
        seen.append(x)
        return fake_network(x, timestep)

    sample = denoise(table, spy, noise, clip_range)
    return [*seen, sample]


def their_trajectory(oracle, noise, step):
    x = noise[0]
    trajectory = [x]
    for index, timestep in enumerate(oracle.timesteps):
        prediction = fake_network(x, timestep.expand(len(x)))
        x = step(prediction, timestep, x, index).prev_sample
        assert x.dtype == torch.float64
        trajectory.append(x)
    return trajectory


def assert_same(ours, theirs, case):
    assert len(ours) == len(theirs), case
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        difference = ((our - their).abs().max() / their.abs().max()).item()
        assert difference <= TOLERANCE, f"{case}: step {index} differs by {difference:.1e}"


def ddpm_oracle(monkeypatch, beta_schedule, prediction_type, clip_range, variance, spacing):
    oracle = scheduling_ddpm.DDPMScheduler(
        N,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        variance_type=variance,
        clip_sample=clip_range is not None,
        clip_sample_range=clip_range or 1.0,
        timestep_spacing=spacing,
        steps_offset=0,
    )
    assert oracle.betas.dtype == torch.float64

    def step(noise):
        def one(prediction, timestep, x, index):
            monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: noise[1 + index])
            return oracle.step(prediction, timestep, x)

        return one

    return oracle, step


@schedules
@predictions
@clipping
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm(monkeypatch, beta_schedule, prediction_type, clip_range, variance):
    schedule = make_schedule(beta_schedule, N)
    oracle, step = ddpm_oracle(monkeypatch, beta_schedule, prediction_type, clip_range, variance, "leading")
    for steps in STEPS:
        oracle.set_timesteps(steps)
        table = make_table("DDPM", schedule, prediction_type, steps, "leading", variance=variance)
        noise = draw_noise(len(table.rows))
        assert list(table.timesteps) == oracle.timesteps.tolist()
        ours = our_trajectory(table, noise, clip_range)
        assert_same(ours, their_trajectory(oracle, noise, step(noise)), f"{steps} steps")


@schedules
@pytest.mark.parametrize("steps", [1, 7, 10, 33, 100])
def test_ddpm_trailing(monkeypatch, beta_schedule, steps):
    # Only fixed_small: with fixed_large and trailing spacing the oracle adds noise to the final sample.
    oracle, step = ddpm_oracle(monkeypatch, beta_schedule, "epsilon", 1.0, "fixed_small", "trailing")
    oracle.set_timesteps(steps)
    table = make_table("DDPM", make_schedule(beta_schedule, N), "epsilon", steps, spacing="trailing")
    noise = draw_noise(len(table.rows))
    assert_same(our_trajectory(table, noise, 1.0), their_trajectory(oracle, noise, step(noise)), f"{steps} steps")


def ddim_oracle(beta_schedule, prediction_type, clip_range, spacing):
    return scheduling_ddim.DDIMScheduler(
        N,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        clip_sample=clip_range is not None,
        clip_sample_range=clip_range or 1.0,
        timestep_spacing=spacing,
        steps_offset=0,
        set_alpha_to_one=True,
    )


def assert_ddim_same(oracle, table, steps, eta, clip_range):
    oracle.set_timesteps(steps)
    noise = draw_noise(len(table.rows))
    assert list(table.timesteps) == oracle.timesteps.tolist()

    def step(prediction, timestep, x, index):
        return oracle.step(prediction, timestep, x, eta=eta, variance_noise=noise[1 + index])

    ours = our_trajectory(table, noise, clip_range)
    assert_same(ours, their_trajectory(oracle, noise, step), f"{steps} steps, eta {eta}")


@schedules
@predictions
@clipping
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(beta_schedule, prediction_type, clip_range, eta):
    schedule = make_schedule(beta_schedule, N)
    oracle = ddim_oracle(beta_schedule, prediction_type, clip_range, "leading")
    for steps in STEPS:
        table = make_table("DDIM", schedule, prediction_type, steps, "leading", eta=eta)
        assert_ddim_same(oracle, table, steps, eta, clip_range)


@schedules
@pytest.mark.parametrize(
    "steps", [1, 10, 50, 100]
)  # the oracle steps to t - N // steps, the grid's own where N divides
def test_ddim_trailing(beta_schedule, steps):
    oracle = ddim_oracle(beta_schedule, "epsilon", 1.0, "trailing")
    table = make_table("DDIM", make_schedule(beta_schedule, N), "epsilon", steps, spacing="trailing", eta=0.5)
    assert_ddim_same(oracle, table, steps, 0.5, 1.0)


@schedules
@predictions
def test_dpmsolver_plus_plus(beta_schedule, prediction_type):
    schedule = make_schedule(beta_schedule, N)
    oracle = scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler(
        N,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    for steps in (1, 2, 3, *STEPS):
        oracle.set_timesteps(steps)
        table = make_table("DPMSolver++", schedule, prediction_type, steps)
        noise = draw_noise(0)
        assert list(table.timesteps) == oracle.timesteps.tolist()
        theirs = their_trajectory(oracle, noise, lambda prediction, t, x, _: oracle.step(prediction, t, x))
        assert_same(our_trajectory(table, noise, None), theirs, f"{steps} steps")


def test_flow_euler():
    oracle = scheduling_flow_match_euler_discrete.FlowMatchEulerDiscreteScheduler(N)
    for steps in (1, 2, 3, *STEPS, 200):
        oracle.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
        table = make_table("Flow", make_schedule("flow", N), "velocity", steps)
        noise = draw_noise(0)
        np.testing.assert_allclose(table.timesteps, oracle.timesteps, rtol=1e-12)
        theirs = their_trajectory(oracle, noise, lambda prediction, t, x, _: oracle.step(prediction, t, x))
        assert_same(our_trajectory(table, noise, None), theirs, f"{steps} steps")


@pytest.mark.parametrize("num_train_timesteps", [50, 100, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_timesteps_at_every_step_count(num_train_timesteps, spacing):
    oracle = scheduling_ddpm.DDPMScheduler(num_train_timesteps, timestep_spacing=spacing)
    for steps in range(2, num_train_timesteps + 1):
        oracle.set_timesteps(steps)
        # By rounding, the oracle's trailing grid now and then ends with one timestep too many, -1.
        theirs = oracle.timesteps.tolist()[:steps]
        assert timestep_grid(num_train_timesteps, steps, spacing) == theirs, steps
