"""Rotations against the matrix exponential, at every angle and in both precisions."""

import math

import pytest
import torch
from torch import Tensor, nn

from robodiff.policies.rotations import (
    angle_between,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rotation_6d,
    quaternion_to_matrix,
    rotation_6d_to_matrix,
)

ROUND_TRIP = {torch.float64: 1e-14, torch.float32: 1e-6}


def exponential(axis_angle: Tensor) -> Tensor:
    """The rotation by its definition: the exponential of the cross product's matrix."""
    x, y, z = axis_angle.unbind(-1)
    o = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3)))


def axes() -> Tensor:
    """Coordinate axes, their diagonals, and others: (A, 3) unit length."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)
    random = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return nn.functional.normalize(torch.cat([corners[corners.any(1)], random]), dim=-1)


ANGLES = [0, 1e-15, 1e-12, 1e-8, 1e-4, 0.5, 2, 3, math.pi - 1e-4, math.pi - 1e-8, math.pi - 1e-12, math.pi]


@pytest.mark.parametrize("angle", [*ANGLES, math.pi + 1e-6, 4, 6])
def test_axis_angle_is_the_exponential_of_the_cross_product(angle: float) -> None:
    torch.testing.assert_close(axis_angle_to_matrix(angle * axes()), exponential(angle * axes()), atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("angle", ANGLES)
def test_rotations_come_back_at_every_angle(angle: float, dtype: torch.dtype) -> None:
    there = (angle * axes()).to(dtype)
    matrix = axis_angle_to_matrix(there)
    back = matrix_to_axis_angle(rotation_6d_to_matrix(matrix_to_rotation_6d(matrix)))
    assert back.dtype == dtype
    assert back.double().norm(dim=-1).max() <= math.pi + 1e-6
    torch.testing.assert_close(exponential(back.double()), exponential(there.double()), atol=ROUND_TRIP[dtype], rtol=0)
    if angle < 3.1:  # near pi, the axis and its opposite are the same rotation
        torch.testing.assert_close(back, there, atol=ROUND_TRIP[dtype], rtol=0)


def test_six_numbers_are_the_first_two_rows() -> None:
    quarter_turn = axis_angle_to_matrix(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    rows = torch.tensor([0.0, -1, 0, 1, 0, 0], dtype=torch.float64)  # columns would be 0 1 0 -1 0 0
    torch.testing.assert_close(matrix_to_rotation_6d(quarter_turn), rows, atol=1e-15, rtol=0)


def test_any_six_numbers_give_a_rotation() -> None:
    numbers = torch.randn(500, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = rotation_6d_to_matrix(numbers)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3).double().expand(500, 3, 3), atol=1e-12, rtol=0)
    torch.testing.assert_close(matrix.det(), torch.ones(500).double())
    along_first = (matrix[:, 0] * numbers[:, :3]).sum(-1)
    torch.testing.assert_close(along_first, numbers[:, :3].norm(dim=-1))
    assert ((matrix[:, 1] * numbers[:, 3:]).sum(-1) > 0).all()


@pytest.mark.parametrize("length", [1.0, -0.01, 30.0])
def test_quaternions_are_xyzw_of_any_length_and_sign(length: float) -> None:
    angle = 2.5
    quaternion = torch.cat([axes() * math.sin(angle / 2), torch.full((len(axes()), 1), math.cos(angle / 2))], -1)
    torch.testing.assert_close(quaternion_to_matrix(length * quaternion), exponential(angle * axes()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("angle", ANGLES)
def test_the_angle_between_rotations(angle: float, dtype: torch.dtype) -> None:
    first = exponential(2 * axes().flip(0))
    second = matrix_to_axis_angle(first @ exponential(angle * axes())).to(dtype)
    found = angle_between(matrix_to_axis_angle(first).to(dtype), second)
    wanted = torch.full((len(axes()),), angle, dtype=dtype)
    torch.testing.assert_close(found, wanted, atol=ROUND_TRIP[dtype], rtol=0)
