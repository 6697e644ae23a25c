"""The table of what goes together: everything in it builds and runs, everything else is refused with the table."""

import itertools
import subprocess
import sys

import pytest

from robodiff.diffusion.combinations import (
    BETA_SCHEDULES,
    COMBINATIONS,
    PREDICTION_TYPES,
    SAMPLERS,
    canonical_sampler,
    check_combination,
    check_options,
    check_steps,
    default_spacing,
)

ALLOWED = {
    (sampler, beta_schedule, prediction_type)
    for process in COMBINATIONS
    for sampler in process.samplers
    for beta_schedule in process.beta_schedules
    for prediction_type in process.prediction_types
}


def test_torch_is_not_imported():
    code = "import sys, robodiff.diffusion.combinations; sys.exit('torch' in sys.modules)"
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
        check_combination(*combination)
        return
    with pytest.raises(ValueError, match="These go together") as error:
        check_combination(*combination)
    assert all(str(process) in str(error.value) for process in COMBINATIONS)
    assert any(repr(value) in str(error.value) for value in combination)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("combination", "found"),
    [
        (("DDIM", "cosine", "epsilon"), "beta_schedule='cosine' is not known"),
        (("DDIM", "linear", "eps"), "prediction_type='eps' is not known"),
        (("DDIM", "linear", "velocity"), "prediction_type='velocity' does not go with beta_schedule='linear'"),
        (("DDIM", "flow", "velocity"), "sampler='DDIM' does not go with beta_schedule='flow'"),
        (("PNDM", "linear", "epsilon"), "sampler='PNDM' is not known"),
    ],
)
def test_the_message_names_what_is_wrong(combination, found):
    with pytest.raises(ValueError, match=found):
        check_combination(*combination)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        *((name, name) for name in SAMPLERS),
        ("ddpm", "DDPM"),
        ("ddim", "DDIM"),
        ("dpmsolver++", "DPMSolver++"),
        ("DPM-Solver++", "DPMSolver++"),
        ("flow", "Flow"),
        ("euler", "Flow"),
        ("heun", "FlowHeun"),
        ("flow_heun", "FlowHeun"),
    ],
)
def test_spellings(spelling, name):
    assert canonical_sampler(spelling) == name


def test_unknown_sampler_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"sampler='unipc' is not known.*DDPM, DDIM, DPMSolver\+\+, Flow, FlowHeun"):
        canonical_sampler("unipc")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps(sampler):
    check_steps(sampler, 1, 100)
    check_steps(sampler, 100, 100)
    with pytest.raises(ValueError, match="at least 1"):
        check_steps(sampler, 0, 100)
    if sampler in ("Flow", "FlowHeun"):
        check_steps(sampler, 101, 100)
    else:
        with pytest.raises(ValueError, match="1 to 100 steps, got steps=101: more than the 100 timesteps"):
            check_steps(sampler, 101, 100)


def test_options():
    assert [default_spacing(sampler) for sampler in SAMPLERS] == ["leading", "leading", "trailing", None, None]
    check_options("DDIM", "trailing", eta=1.0, variance="fixed_large")
    with pytest.raises(ValueError, match="spacing='linspace' is not known"):
        check_options("DDIM", "linspace")
    with pytest.raises(ValueError, match="spacing='leading' does not go with FlowHeun"):
        check_options("heun", "leading")
    with pytest.raises(ValueError, match=r"eta must lie between 0 .* and 1 .*got 1\.5"):
        check_options("DDIM", eta=1.5)
    with pytest.raises(ValueError, match="variance='learned' is not known"):
        check_options("DDPM", variance="learned")
