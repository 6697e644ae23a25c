"""The table of what goes together: everything in it builds and runs, everything else is refused with the table."""

import dataclasses
import itertools
import subprocess
import sys

import pytest

from robodiff.diffusion.samplers import (
    DIFFUSION,
    FLOW,
    PROCESSES,
    SAMPLERS,
    Sampler,
    add_sampler,
    check_sampling,
    find_sampler,
    flow_euler,
)
from robodiff.errors import UsageError

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "flow")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "velocity")
ALLOWED = {
    (sampler, beta_schedule, prediction_type)
    for process in PROCESSES
    for sampler in process.samplers
    for beta_schedule in process.beta_schedules
    for prediction_type in process.prediction_types
}
ONE_PER_SAMPLER = [
    (sampler, process.beta_schedules[0], process.prediction_types[0])
    for process in PROCESSES
    for sampler in process.samplers
]


def test_torch_and_numpy_are_not_imported():
    code = "import sys, robodiff.diffusion.samplers; sys.exit(bool({'torch', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_allowed_is_what_the_design_says():
    diffusion = itertools.product(
        ("DDPM", "DDIM", "DPMSolver++"),
        ("linear", "scaled_linear", "squaredcos_cap_v2"),
        ("epsilon", "sample", "v_prediction"),
    )
    flow = itertools.product(("Flow", "FlowHeun"), ("flow",), ("velocity", "sample"))
    assert set(diffusion) | set(flow) == ALLOWED


@pytest.mark.parametrize("combination", itertools.product(SAMPLERS, BETA_SCHEDULES, PREDICTION_TYPES))
def test_every_other_combination_is_refused_with_the_table(combination):
    if combination in ALLOWED:
        assert check_sampling(*combination, 10, 100).name == combination[0]
        return
    with pytest.raises(UsageError, match="These go together") as error:
        check_sampling(*combination, 10, 100)
    assert all(str(process) in str(error.value) for process in PROCESSES)
    assert any(repr(value) in str(error.value) for value in combination)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("combination", "message"),
    [
        (("DDIM", "cosine", "epsilon"), "sampler='DDIM' does not go with beta_schedule='cosine'. These"),
        (("DDIM", "linear", "eps"), "sampler='DDIM' does not go with prediction_type='eps'. These"),
        (("ddim", "linear", "velocity"), "sampler='DDIM' does not go with prediction_type='velocity'. These"),
        (("DDIM", "flow", "velocity"), "'DDIM' does not go with beta_schedule='flow' and prediction_type='velocity'."),
        (("PNDM", "linear", "epsilon"), "sampler='PNDM' is not known"),
    ],
)
def test_the_message_names_what_is_wrong(combination, message):
    with pytest.raises(UsageError, match=message):
        check_sampling(*combination, 10, 100)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        *((name, name) for name in SAMPLERS),
        ("ddpm", "DDPM"),
        ("ddim", "DDIM"),
        ("dpmsolver", "DPMSolver++"),
        ("dpmsolver++", "DPMSolver++"),
        ("DPM-Solver++", "DPMSolver++"),
        ("dpm++", "DPMSolver++"),
        ("flow", "Flow"),
        ("euler", "Flow"),
        ("flow euler", "Flow"),
        ("heun", "FlowHeun"),
        ("flow_heun", "FlowHeun"),
    ],
)
def test_spellings(spelling, name):
    assert find_sampler(spelling) is SAMPLERS[name]


@pytest.mark.parametrize(("name", "suggestion"), [("unipc", ""), ("DDMP", " Did you mean 'ddpm'?")])
def test_unknown_sampler_lists_the_known_ones(name, suggestion):
    with pytest.raises(UsageError, match="is not known") as error:
        find_sampler(name)
    known = "DDPM, DDIM, DPMSolver++, Flow, FlowHeun"
    assert str(error.value) == f"sampler={name!r} is not known. Known: {known}.{suggestion}"


@pytest.mark.parametrize(("sampler", "beta_schedule", "prediction_type"), ONE_PER_SAMPLER)
def test_steps(sampler, beta_schedule, prediction_type):
    def check(steps):
        check_sampling(sampler, beta_schedule, prediction_type, steps, 100)

    check(1)
    check(100)
    with pytest.raises(UsageError, match="takes 1 "):
        check(0)
    if sampler in ("Flow", "FlowHeun"):
        check(101)
    else:
        with pytest.raises(UsageError, match=r"1 to 100 steps \(num_train_timesteps\), got steps=101"):
            check(101)


def test_options():
    ddim, heun = ("DDIM", "linear", "epsilon", 10, 100), ("heun", "flow", "velocity", 10, 100)
    spacings = {name: sampler.spacing for name, sampler in SAMPLERS.items()}
    assert spacings == {
        "DDPM": "even",
        "DDIM": "even",
        "DPMSolver++": "trailing",
        "Flow": "uniform",
        "FlowHeun": "uniform",
    }
    check_sampling(*ddim, "trailing", eta=1.0, variance="fixed_large")
    for combination, spacing in ((ddim, "linspace"), (ddim, "uniform"), (heun, "leading")):
        with pytest.raises(UsageError, match=f"does not go with spacing='{spacing}'. These go together"):
            check_sampling(*combination, spacing)
    with pytest.raises(UsageError, match=r"eta must lie between 0 .* and 1 .*got 1\.5"):
        check_sampling(*ddim, eta=1.5)
    with pytest.raises(UsageError, match=r"variance='learned' is not known\. Known: fixed_small, fixed_large"):
        check_sampling(*ddim, variance="learned")


def test_a_sampler_is_added_under_names_that_are_free(monkeypatch):
    monkeypatch.setattr("robodiff.diffusion.samplers.SAMPLERS", dict(SAMPLERS))
    mine = Sampler("Mine", flow_euler, FLOW, "uniform", spellings=("my own",))
    assert (mine.registry_kind, mine.registry_name) == ("samplers", "Mine")
    add_sampler(dataclasses.replace(mine, spellings=()))
    add_sampler(mine)  # the latest counts
    assert find_sampler("MY-OWN") is find_sampler("mine") is mine
    assert FLOW.samplers == ("Flow", "FlowHeun", "Mine")
    assert DIFFUSION.samplers == ("DDPM", "DDIM", "DPMSolver++")
    for name, spellings, clash in (("DDIM", (), "'ddim' is DDIM"), ("Other", ("Heun",), "'heun' is FlowHeun")):
        with pytest.raises(UsageError, match=f"sampler='{name}' cannot be added: {clash} already"):
            add_sampler(dataclasses.replace(mine, name=name, spellings=spellings))
