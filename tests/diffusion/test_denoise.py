"""What holds for samplers whatever the network, and the loop's own promises."""

import math
from itertools import pairwise

import pytest
import torch

from robodiff.diffusion.denoise import denoise, make_table
from robodiff.diffusion.objective import target
from robodiff.diffusion.samplers import DIFFUSION, PROCESSES, SAMPLERS, Row, Sampler, add_sampler, timestep_grid
from robodiff.diffusion.schedule import make_schedule
from robodiff.errors import UsageError

CASES = [
    (sampler, beta_schedule, prediction_type)
    for process in PROCESSES
    for sampler in process.samplers
    for beta_schedule in process.beta_schedules
    for prediction_type in process.prediction_types
]
ONE_PER_SAMPLER = [
    (sampler, process.beta_schedules[-1], process.prediction_types[0])
    for process in PROCESSES
    for sampler in process.samplers
]


def as_prediction(schedule, prediction_type, x, timestep, x0):
    """What a network would predict that believes in x0."""
    alpha, sigma = (value.reshape(-1, 1, 1) for value in schedule.coefficients(timestep, dtype=x.dtype))
    alpha, sigma = alpha.expand_as(x), sigma.expand_as(x)
    return target(prediction_type, x0, (x - alpha * x0) / sigma, alpha, sigma)


def bell(schedule, prediction_type, mean=0.7, spread=0.3):
    """The ideal network for data ~ N(mean, spread^2), for which the probability-flow ODE has a closed solution."""

    def predict(x, timestep):
        alpha, sigma = (value.reshape(-1, 1, 1) for value in schedule.coefficients(timestep, dtype=x.dtype))
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        return as_prediction(schedule, prediction_type, x, timestep, mean + gain * (x - alpha * mean))

    return predict


@pytest.mark.parametrize(("sampler", "beta_schedule", "prediction_type"), CASES)
def test_a_network_that_knows_the_answer_gives_it_at_every_step_count(sampler, beta_schedule, prediction_type):
    schedule = make_schedule(beta_schedule, 20)
    x0 = torch.rand(2, 8, 3, dtype=torch.float64) * 2 - 1

    def perfect(x, timestep):
        return as_prediction(schedule, prediction_type, x, timestep, x0)

    for steps in range(1, 21):
        for spacing in SAMPLERS[sampler].process.spacings:
            table = make_table(sampler, schedule, prediction_type, steps, spacing, eta=1.0)
            noise = torch.randn(table.noise_rows, 2, 8, 3, dtype=torch.float64)
            for clip_range in (None, 1.0):
                sample = denoise(table, perfect, noise, clip_range)
                torch.testing.assert_close(sample, x0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sampler", DIFFUSION.samplers)
@pytest.mark.parametrize("spacing", ["leading", "trailing", None])
def test_one_step_starts_at_the_last_timestep(sampler, spacing):
    table = make_table(sampler, make_schedule("squaredcos_cap_v2", 100), "epsilon", 1, spacing)
    assert table.timesteps == (99,)
    assert not table.stochastic


@pytest.mark.parametrize("sampler", ["Flow", "FlowHeun"])
def test_one_step_of_the_flow_starts_at_noise(sampler):
    assert make_table(sampler, make_schedule("flow", 100), "velocity", 1).timesteps == (100.0,)


@pytest.mark.parametrize(("sampler", "beta_schedule", "prediction_type"), ONE_PER_SAMPLER)
def test_the_last_row_is_the_clean_sample_without_noise(sampler, beta_schedule, prediction_type):
    for variance in ("fixed_small", "fixed_large"):
        for spacing in SAMPLERS[sampler].process.spacings:
            schedule = make_schedule(beta_schedule, 100)
            table = make_table(sampler, schedule, prediction_type, 10, spacing, eta=1.0, variance=variance)
            last = table.rows[-1]
            assert (last.a, last.c, last.d, last.e) == (0.0, 0.0, 0.0, 0.0)
            assert last.b == pytest.approx(1.0, abs=1e-9)


def test_rows_and_noise():
    diffusion, flow = make_schedule("squaredcos_cap_v2", 100), make_schedule("flow", 100)
    for table, rows, stochastic in [
        (make_table("ddpm", diffusion, "epsilon", 10), 10, True),
        (make_table("ddim", diffusion, "epsilon", 10), 10, False),
        (make_table("ddim", diffusion, "epsilon", 10, eta=0.1), 10, True),
        (make_table("dpm-solver++", diffusion, "epsilon", 10), 10, False),
        (make_table("euler", flow, "velocity", 10), 10, False),
        (make_table("heun", flow, "velocity", 10), 19, False),
    ]:
        assert (len(table.rows), table.stochastic) == (rows, stochastic)
        assert table.noise_rows == (1 + rows if stochastic else 1)
        assert hash(table) == hash(table)


def test_flow_grid():
    table = make_table("Flow", make_schedule("flow", 100), "velocity", 4)
    assert table.timesteps == (100.0, 75.0, 50.0, 25.0)
    table = make_table("FlowHeun", make_schedule("flow", 100), "velocity", 4)
    assert table.timesteps == (100.0, 75.0, 75.0, 50.0, 50.0, 25.0, 25.0)


def test_heun_is_the_textbook_method():
    def velocity(x, s):
        return torch.tanh(x - s) + 0.3 * x

    for steps in (1, 2, 3, 10, 64):
        table = make_table("FlowHeun", make_schedule("flow", 100), "velocity", steps)
        noise = torch.randn(1, 2, 8, 3, dtype=torch.float64)
        sample = denoise(table, lambda x, timestep: velocity(x, timestep.reshape(-1, 1, 1) / 100), noise)
        x = noise[0]
        for i in range(steps):
            s, after = 1 - i / steps, 1 - (i + 1) / steps
            euler = x + (after - s) * velocity(x, s)
            last = i == steps - 1
            x = euler if last else x + (after - s) / 2 * (velocity(x, s) + velocity(euler, after))
        torch.testing.assert_close(sample, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("sampler", "beta_schedule", "prediction_type", "order"),
    [
        ("Flow", "flow", "velocity", 1),
        ("Flow", "flow", "sample", 1),
        ("FlowHeun", "flow", "velocity", 2),
        ("FlowHeun", "flow", "sample", 2),
    ],
)
def test_order_of_convergence_to_the_ode(sampler, beta_schedule, prediction_type, order):
    schedule = make_schedule(beta_schedule, 100)
    noise = torch.randn(1, 4, 8, 3, dtype=torch.float64)
    exact = 0.7 + 0.3 * noise[0]  # the flow keeps each sample's quantile

    def error(steps):
        table = make_table(sampler, schedule, prediction_type, steps)
        return (denoise(table, bell(schedule, prediction_type), noise) - exact).abs().max().item()

    assert error(400) < 1e-2 / order**4
    assert math.log2(error(200) / error(400)) == pytest.approx(order, abs=0.15)


def test_dpmsolver_plus_plus_beats_ddim_on_the_ode():
    schedule = make_schedule("squaredcos_cap_v2", 1000)
    noise = torch.randn(1, 4, 8, 3, dtype=torch.float64)
    exact = 0.7 + 0.3 * noise[0]

    def error(sampler):
        table = make_table(sampler, schedule, "epsilon", 20, "trailing")
        return (denoise(table, bell(schedule, "epsilon"), noise) - exact).abs().max().item()

    assert error("DPMSolver++") < error("DDIM") / 3


def test_ddim_with_all_the_noise_is_ddpm():
    schedule = make_schedule("squaredcos_cap_v2", 100)
    noise = torch.randn(11, 2, 8, 3, dtype=torch.float64)
    samples = [
        denoise(make_table(sampler, schedule, "epsilon", 10, eta=1.0), bell(schedule, "epsilon"), noise)
        for sampler in ("DDPM", "DDIM")
    ]
    torch.testing.assert_close(samples[0], samples[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sampler", "beta_schedule", "prediction_type"), ONE_PER_SAMPLER)
def test_samples_have_the_distribution_of_the_data(sampler, beta_schedule, prediction_type):
    schedule = make_schedule(beta_schedule, 100)
    table = make_table(sampler, schedule, prediction_type, 100)
    noise = torch.randn(table.noise_rows, 2000, 1, 1, generator=torch.Generator().manual_seed(0))
    samples = denoise(table, bell(schedule, prediction_type), noise)
    assert samples.mean().item() == pytest.approx(0.7, abs=0.03)
    assert samples.std().item() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(("sampler", "beta_schedule", "prediction_type"), ONE_PER_SAMPLER)
def test_what_is_seen_is_clean_at_every_evaluation_and_comes_out_as_it_is(sampler, beta_schedule, prediction_type):
    schedule = make_schedule(beta_schedule, 100)
    table = make_table(sampler, schedule, prediction_type, 8)
    values = torch.rand(2, 8, 3, dtype=torch.float64)
    mask = torch.zeros(2, 8, 3, dtype=torch.bool)
    mask[:, :3] = True
    mask[1, :, 2] = True
    network = bell(schedule, prediction_type)
    evaluations = []

    def spy(x, timestep):
        assert torch.equal(x[mask], values[mask].to(x.dtype))
        evaluations.append(timestep)
        return network(x, timestep)

    noise = torch.randn(table.noise_rows, 2, 8, 3)
    sample = denoise(table, spy, noise, clip_range=1.0, seen=(values, mask))
    assert len(evaluations) == len(table.rows)
    assert sample.dtype == torch.float32
    assert torch.equal(sample[mask], values[mask].float())
    assert not torch.equal(sample[~mask], values[~mask].float())


@pytest.mark.parametrize(("sampler", "beta_schedule", "prediction_type"), ONE_PER_SAMPLER)
def test_known_elements_have_the_noise_of_training_and_come_out_exactly(sampler, beta_schedule, prediction_type):
    schedule = make_schedule(beta_schedule, 100)
    table = make_table(sampler, schedule, prediction_type, 8)
    values, weights = torch.rand(2, 8, 3, dtype=torch.float64), torch.zeros(1, 8, 1)
    weights[:, :3], weights[:, 3:5] = 1, 0.5
    network, visited = bell(schedule, prediction_type), []

    def spy(x, timestep):
        visited.append((timestep, x))
        return network(x, timestep)

    noise = torch.randn(table.noise_rows, 2, 8, 3, dtype=torch.float64)
    sample = denoise(table, spy, noise, clip_range=1.0, known=(values, weights))
    assert torch.allclose(sample[:, :3], values[:, :3], rtol=0, atol=1e-12)
    free = denoise(table, network, noise, clip_range=1.0)
    torch.testing.assert_close(sample[:, 5:], free[:, 5:])  # this network looks at each element alone
    wish, without = ((each - values)[:, 3:5].abs().mean() for each in (sample, free))
    assert wish < 0.8 * without
    if not table.stochastic:
        alpha, sigma = schedule.coefficients(visited[0][0], dtype=torch.float64)
        own = (noise[0] - alpha[0] * values) / sigma[
            0
        ]  # the noise in the noise, where sampling starts a little below it
        for timestep, x in visited:
            exact = schedule.add_noise(values, own, timestep)
            torch.testing.assert_close(x[:, :3], exact[:, :3], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes(dtype):
    seen = []

    def network(x, timestep):
        seen.append(timestep.dtype)
        return 0.1 * x

    for sampler, beta_schedule, prediction_type in ONE_PER_SAMPLER:
        table = make_table(sampler, make_schedule(beta_schedule, 100), prediction_type, 5)
        sample = denoise(table, network, torch.randn(table.noise_rows, 2, 8, 3, dtype=dtype), 1.0)
        assert sample.dtype == dtype
        expected = torch.promote_types(dtype, torch.float32) if beta_schedule == "flow" else torch.int64
        assert set(seen) == {expected}
        seen.clear()


def test_noise_of_the_wrong_size_is_refused():
    schedule = make_schedule("squaredcos_cap_v2", 100)
    stochastic, still = (make_table(sampler, schedule, "epsilon", 10) for sampler in ("DDPM", "DDIM"))
    with pytest.raises(ValueError, match=r"leading size 11, got \(10, "):
        denoise(stochastic, lambda x, _: x, torch.zeros(10, 2, 8, 3))
    with pytest.raises(ValueError, match=r"leading size 1, got \(2, "):
        denoise(still, lambda x, _: x, torch.zeros(2, 2, 8, 3))
    noise = torch.randn(11, 2, 8, 3)
    network = bell(schedule, "epsilon")
    assert torch.equal(denoise(still, network, noise), denoise(still, network, noise[:1]))


def first_order(levels):
    """DPM-Solver++ of first order, as a plugin would write it; without clipping it is DDIM."""
    ratios = [then.sigma / now.sigma for now, then in pairwise(levels)]
    return [
        Row(now.timestep, a=ratio, b=then.alpha - ratio * now.alpha)
        for ratio, (now, then) in zip(ratios, pairwise(levels), strict=True)
    ]


def test_a_sampler_from_outside_is_found_by_name_and_runs(monkeypatch):
    monkeypatch.setattr("robodiff.diffusion.samplers.SAMPLERS", dict(SAMPLERS))
    add_sampler(Sampler("FirstOrder", first_order, DIFFUSION, "leading", spellings=("DPM1",)))
    schedule = make_schedule("squaredcos_cap_v2", 100)
    noise = torch.randn(1, 2, 8, 3, dtype=torch.float64)
    expected = denoise(make_table("DDIM", schedule, "epsilon", 10), bell(schedule, "epsilon"), noise)
    for name in ("FirstOrder", "first_order", "dpm-1"):
        sample = denoise(make_table(name, schedule, "epsilon", 10), bell(schedule, "epsilon"), noise)
        torch.testing.assert_close(sample, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(UsageError, match=r"(?s)'FirstOrder' does not go with beta_schedule='flow'.*\| FirstOrder,"):
        make_table("FirstOrder", make_schedule("flow", 100), "sample", 10, "trailing")


def test_what_does_not_go_together_is_refused():
    diffusion, flow = make_schedule("squaredcos_cap_v2", 100), make_schedule("flow", 100)
    with pytest.raises(UsageError, match="These go together"):
        make_table("DDIM", flow, "velocity", 10)
    with pytest.raises(UsageError, match="These go together"):
        make_table("Flow", diffusion, "epsilon", 10)
    for sampler in DIFFUSION.samplers:
        with pytest.raises(UsageError, match=r"1 to 100 steps .*got steps=101"):
            make_table(sampler, diffusion, "epsilon", 101)
    with pytest.raises(UsageError, match="sampler='Flow' does not go with spacing='leading'"):
        make_table("Flow", flow, "velocity", 10, spacing="leading")


@pytest.mark.parametrize("beta_schedule", DIFFUSION.beta_schedules)
def test_coefficients_are_finite_at_every_step_count(beta_schedule):
    for n in (1, 2, 10, 1000):
        schedule = make_schedule(beta_schedule, n)
        for steps in sorted({1, 2, 3, 7, n // 2, n - 1, n} & set(range(1, n + 1))):
            for sampler in DIFFUSION.samplers:
                for spacing in DIFFUSION.spacings:
                    table = make_table(sampler, schedule, "epsilon", steps, spacing, eta=1.0)
                    assert all(math.isfinite(value) for row in table.rows for value in row)
                    assert table.timesteps == tuple(sorted(set(table.timesteps), reverse=True))
                    assert len(table.timesteps) == steps


class Exported(torch.nn.Module):
    def __init__(self, table):
        super().__init__()
        self.table = table
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, noise):
        def network(x, timestep):
            return self.layer(x) + timestep.reshape(-1, 1, 1) / 100

        return denoise(self.table, network, noise, clip_range=1.0)


@pytest.mark.parametrize(("sampler", "beta_schedule", "prediction_type"), ONE_PER_SAMPLER)
def test_export_with_a_free_batch_size(sampler, beta_schedule, prediction_type):
    table = make_table(sampler, make_schedule(beta_schedule, 100), prediction_type, 3)
    module = Exported(table).eval()
    example = torch.randn(table.noise_rows, 2, 8, 3)
    program = torch.export.export(module, (example,), dynamic_shapes=({1: torch.export.Dim("batch", min=2)},))
    noise = torch.randn(table.noise_rows, 5, 8, 3)
    torch.testing.assert_close(program.module()(noise), module(noise))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("sampler", "beta_schedule", "prediction_type"), ONE_PER_SAMPLER)
def test_cuda_graph(sampler, beta_schedule, prediction_type):
    table = make_table(sampler, make_schedule(beta_schedule, 100), prediction_type, 10)
    module = Exported(table).eval().cuda()
    noise = torch.randn(table.noise_rows, 4, 8, 3, device="cuda")
    with torch.no_grad():
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            module(noise)  # warm-up
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = module(noise)
        noise.normal_()
        graph.replay()
        torch.testing.assert_close(captured, module(noise))


@pytest.mark.kind("more denoising steps that are worse")
@pytest.mark.parametrize("sampler", ["DDPM", "DDIM"])
@pytest.mark.parametrize("steps", [34, 51, 60, 75])
def test_more_steps_are_not_worse(sampler, steps):
    fewer = max(count for count in range(1, steps) if 100 % count == 0)
    assert error_of(sampler, steps) <= error_of(sampler, fewer) + 1e-3
    assert error_of(sampler, steps) < 0.5 * error_of(sampler, steps, "leading")


def error_of(sampler, steps, spacing=None):
    """How far the mean of the samples of the ideal network is off."""
    schedule = make_schedule("squaredcos_cap_v2", 100)
    table = make_table(sampler, schedule, "sample", steps, spacing)
    noise = torch.randn(table.noise_rows, 4, 5000, 1, generator=torch.manual_seed(0), dtype=torch.float64)
    return abs(denoise(table, bell(schedule, "sample", mean=0.7, spread=0.1), noise).mean().item() - 0.7)


@pytest.mark.kind("more denoising steps that are worse")
@pytest.mark.parametrize("levels", [20, 50, 100, 1000])
def test_even_steps_start_near_the_noisiest_level(levels):
    for steps in range(1, levels + 1):
        grid = timestep_grid(levels, steps, "even")
        assert levels - 1 >= grid[0] > (levels - 2 if steps == 1 else levels - levels / steps - 1)
        assert len(grid) == len(set(grid)) == steps
        assert grid == sorted(grid, reverse=True)
        if levels % steps == 0:  # what was saved without a spacing samples as it did
            assert grid == timestep_grid(levels, steps, "leading")
        else:
            assert max(a - b for a, b in pairwise(grid)) <= levels // steps + 1
