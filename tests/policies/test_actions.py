"""Representations of actions: round trips, what is relative to what, how far apart they are."""

import math

import numpy as np
import pytest
import torch
from tests.policies.test_rotations import exponential
from torch import Tensor, nn

from robodiff.data.normalize import Statistics
from robodiff.data.windows import Windows, WindowShape
from robodiff.errors import UsageError
from robodiff.policies.actions import ActionRepresentation, encoded_statistics
from robodiff.policies.rotations import matrix_to_axis_angle, matrix_to_rotation_6d

OBSERVATIONS = {"observation.state": 7, "observation.eef_pos": 3, "observation.eef_quat": 4}
POSE = {"0:3": "observation.eef_pos", "3:6": "observation.eef_quat"}


def random_actions(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def random_state(batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {key: torch.randn(batch, dim, generator=generator, dtype=torch.float64) for key, dim in OBSERVATIONS.items()}


def test_dimensions_are_encoded_where_they_stand() -> None:
    two_arms = ActionRepresentation(14, ["3:6", "10:13"])
    assert (two_arms.dim, two_arms.encoded_dim, list(two_arms.reference_keys)) == (14, 20, [])
    actions = random_actions(2, 5, 14)
    encoded = two_arms.encode(actions, {})
    assert encoded.shape == (2, 5, 20)
    kept = [0, 1, 2, 9, 10, 11, 12, 19]
    assert encoded[..., kept].equal(actions[..., [0, 1, 2, 6, 7, 8, 9, 13]])
    torch.testing.assert_close(encoded[..., 13:19], matrix_to_rotation_6d(exponential(actions[..., 10:13])))
    torch.testing.assert_close(two_arms.decode(encoded, {}), actions)


@pytest.mark.parametrize(
    "relative_to",
    [
        {"0:3": "observation.eef_pos"},
        {"3:6": "observation.eef_quat"},
        POSE,
        {"0:2": "observation.state[4:6]", "3:6": "observation.state[0:3]", "6:7": "observation.state[6:7]"},
    ],
)
def test_relative_actions_come_back(relative_to: dict[str, str]) -> None:
    representation = ActionRepresentation(7, ["3:6"], relative_to, OBSERVATIONS)
    actions, state = random_actions(4, 6, 7), random_state(4)
    needed = {key: state[key] for key in representation.reference_keys}
    encoded = representation.encode(actions, needed)
    assert encoded.shape == (4, 6, representation.encoded_dim)
    torch.testing.assert_close(representation.decode(encoded, needed), actions)


def test_an_action_that_is_the_current_state_is_nothing() -> None:
    by_vector = {"0:3": "observation.eef_pos", "3:6": "observation.state[0:3]"}
    representation = ActionRepresentation(6, ["3:6"], by_vector, OBSERVATIONS)
    state = random_state(3)
    actions = torch.cat([state["observation.eef_pos"], state["observation.state"][:, :3]], -1)[:, None].expand(3, 4, 6)
    nothing = torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 1, 0], dtype=torch.float64).expand(3, 4, 9)
    torch.testing.assert_close(representation.encode(actions, state), nothing)


def test_relative_is_how_the_action_looks_from_the_state() -> None:
    """Turned together with the state, an action looks the same; axis-angle and quaternion of a state are one."""
    state, action, turn = (exponential(v) for v in random_actions(3, 8, 3))
    by_vector = ActionRepresentation(3, ["0:3"], {"0:3": "observation.eef_pos"}, OBSERVATIONS)

    def encode(action: Tensor, state: Tensor) -> Tensor:
        reference = {"observation.eef_pos": matrix_to_axis_angle(state)}
        return by_vector.encode(matrix_to_axis_angle(action)[:, None], reference)[:, 0]

    torch.testing.assert_close(encode(action, state), matrix_to_rotation_6d(state.mT @ action))
    torch.testing.assert_close(encode(turn @ action, turn @ state), encode(action, state))
    by_quaternion = ActionRepresentation(3, ["0:3"], {"0:3": "observation.eef_quat"}, OBSERVATIONS)
    vector = matrix_to_axis_angle(state)
    half = vector.norm(dim=-1, keepdim=True) / 2
    quaternion = torch.cat([nn.functional.normalize(vector, dim=-1) * half.sin(), half.cos()], -1)
    relative = by_quaternion.encode(matrix_to_axis_angle(action)[:, None], {"observation.eef_quat": quaternion})
    torch.testing.assert_close(relative[:, 0], encode(action, state))


def test_rotations_are_as_far_apart_as_the_angle_between_them() -> None:
    representation = ActionRepresentation(5, ["1:4"])
    assert representation.distances == [(0,), (1, 2, 3), (4,)]
    action = torch.tensor([[7.0, 0, 0, math.pi - 0.1, -1]], dtype=torch.float64)
    others = torch.tensor([[[9.0, 0, 0, 0.1 - math.pi, -1]], [[7, 0, 0, 0, 2]]], dtype=torch.float64)
    wanted = torch.tensor([[[2, 0.2, 0]], [[0, math.pi - 0.1, 3]]], dtype=torch.float64)
    torch.testing.assert_close(representation.distance(action, others), wanted)  # of (1, 5) to each of (2, 1, 5)


def test_gradients_are_those_of_the_map_also_at_no_rotation() -> None:
    representation = ActionRepresentation(7, ["3:6"], POSE, OBSERVATIONS)
    actions, state = random_actions(1, 3, 7), random_state(1)
    assert torch.autograd.gradcheck(lambda a: representation.encode(a, state), actions.requires_grad_())
    encoded = representation.encode(actions, state).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: representation.decode(e, state), encoded)

    absolute = ActionRepresentation(3, ["0:3"])
    for angle in (0.0, 1e-13, 1e-6):
        at = torch.full((1, 1, 3), angle, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda a: absolute.decode(absolute.encode(a, {}), {}), at)
        torch.testing.assert_close(jacobian.reshape(3, 3), torch.eye(3).double(), atol=1e-6, rtol=0)
    half_turn = torch.tensor([[[math.pi, 0, 0]]], requires_grad=True)
    absolute.decode(absolute.encode(half_turn, {}), {}).sum().backward()
    assert half_turn.grad is not None
    assert half_turn.grad.isfinite().all()


def test_autocast_does_not_round_rotations() -> None:
    representation = ActionRepresentation(7, ["3:6"], POSE, OBSERVATIONS)
    actions = random_actions(2, 3, 7).float()
    state = {key: value.float() for key, value in random_state(2).items()}
    with torch.autocast("cpu", torch.bfloat16):
        back = representation.decode(representation.encode(actions, state), state)
    torch.testing.assert_close(back, actions, atol=1e-5, rtol=0)


def test_nothing_branches_on_values() -> None:
    """What exports and captures into a CUDA graph also maps over a batch, and vmap refuses a branch at once."""
    representation = ActionRepresentation(7, ["3:6"], POSE, OBSERVATIONS)
    actions, state = random_actions(5, 1, 4, 7), {key: value[:, None] for key, value in random_state(5).items()}
    encoded = torch.vmap(representation.encode)(actions, state)
    torch.testing.assert_close(torch.vmap(representation.decode)(encoded, state), actions)


@pytest.mark.parametrize(
    ("rotations", "relative_to", "message"),
    [
        (["3-6"], {}, "rotations: a range is written '0:3'.*found '3-6'"),
        ([186], {}, "in a YAML file with its quotes; found 186"),
        (["5:8"], {}, "rotations: the range 5:8 is not within the dimensions 0:7"),
        (["-3:0"], {}, "not within"),
        (["3:5"], {}, "axis-angle is 3 numbers; the range 3:5 has 2"),
        (["2:5", "3:6"], {}, "2:5 and 3:6 overlap"),
        (["3:6", "3:6"], {}, "3:6 and 3:6 overlap"),
        (["3:6"], {"0:6": "observation.state[0:6]"}, "0:6 and 3:6 overlap"),
        (["3:6"], {"3:5": "observation.state[0:2]"}, "3:5 and 3:6 overlap"),
        ([], {"0:3": "observation.eef_pos", "2:4": "observation.state[0:2]"}, "0:3 and 2:4 overlap"),
        ([], {"3:3": "observation.state[0:3]"}, "relative_to: the range 3:3"),
        ([], {"0:3": "observation.eef_po"}, "relative_to 0:3: .* Did you mean 'observation.eef_pos'"),
        ([], {"0:3": "observation.state[0:3"}, r"observation.state\[0:3 is no observed vector"),
        ([], {"0:3": "observation.state"}, "expected 3 numbers; observation.state has 7"),
        ([], {"0:3": "observation.state[0:2]"}, "expected 3 numbers"),
        ([], {"0:3": "observation.state[5:8]"}, "observation.state: the range 5:8 is not within"),
        ([], {"0:3": "observation.state[]"}, "a range is written"),
        (["3:6"], {"3:6": "observation.state[0:6]"}, "3 numbers .axis-angle. or 4 .quaternion x, y, z, w.; .* has 6"),
    ],
)
def test_what_cannot_be_meant_is_refused(rotations: list, relative_to: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        ActionRepresentation(7, rotations, relative_to, OBSERVATIONS)
    assert len(str(error.value)) < 240


@pytest.fixture
def training() -> tuple[np.ndarray, dict[str, np.ndarray], Windows, np.ndarray]:
    """Actions, references, windows of the first and the last of three episodes, and the frames of the two."""
    random = np.random.default_rng(0)
    actions = random.normal([1e3, 0, 0, 0, 0, 0, 1], [1, 1, 10, 1, 1, 1, 0], (90, 7)).astype(np.float32)
    actions[30:50] += 100  # held out
    references = {key: random.normal(size=(90, dim)).astype(np.float32) for key, dim in OBSERVATIONS.items()}
    windows = Windows(np.array([30, 50, 90]), WindowShape(2, 8, 4, frame_stride=2), np.array([0, 2]))
    return actions, references, windows, np.r_[0:30, 50:90]


def assert_same(found: Statistics, wanted: Statistics) -> None:
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [7, 4096])
def test_statistics_of_absolute_actions_count_every_training_frame_once(training: tuple, chunk: int) -> None:
    actions, _, windows, frames = training
    representation = ActionRepresentation(7, ["3:6"])
    encoded = representation.encode(torch.from_numpy(actions)[None], {})[0].numpy()
    assert_same(
        encoded_statistics(representation, {"action": actions}, windows, slice(None), chunk),
        Statistics.of(encoded, frames),
    )


@pytest.mark.parametrize(("chunk", "steps"), [(7, slice(None)), (4096, slice(None)), (7, slice(1, 5))])
def test_statistics_of_relative_actions_are_of_what_training_sees(training: tuple, chunk: int, steps: slice) -> None:
    actions, references, windows, _ = training
    representation = ActionRepresentation(7, ["3:6"], POSE, OBSERVATIONS)
    seen = []
    for window in range(len(windows)):
        frames, _ = windows.frames(np.array([window]))
        current = {key: torch.from_numpy(array[windows.now[[window]]]) for key, array in references.items()}
        seen.append(representation.encode(torch.from_numpy(actions[frames[:, steps]]), current)[0].numpy())
    every = np.concatenate(seen)
    found = encoded_statistics(representation, {"action": actions, **references}, windows, steps, chunk)
    assert_same(found, Statistics.of(every, np.arange(len(every))))
    assert found.max[0] < 1010  # the held-out episode is not among them


@pytest.mark.parametrize("relative_to", [{}, POSE])
def test_mean_and_variance_are_of_what_was_recorded(relative_to: dict[str, str]) -> None:
    representation = ActionRepresentation(7, ["3:6"], relative_to, OBSERVATIONS)
    actions = random_actions(50, 7)
    turns = torch.tensor([math.pi - 0.2, math.pi - 0.1, 0.1 - math.pi, 0.2 - math.pi]).repeat(13)[:50]
    actions[:, 3:6] = torch.stack([0 * turns, 0 * turns, turns], -1)  # about z, by way of pi
    mean, variance = representation.mean(actions), representation.variance(actions)
    numbers = [0, 1, 2, 6]
    torch.testing.assert_close(mean[numbers], actions[:, numbers].mean(0))
    torch.testing.assert_close(variance[[0, 1, 2, 4]], actions[:, numbers].var(0, correction=0))
    assert mean[3:6].norm() == pytest.approx(math.pi, abs=0.01)
    assert variance[3] == pytest.approx((0.1**2 + 0.2**2) / 2, rel=0.02)
