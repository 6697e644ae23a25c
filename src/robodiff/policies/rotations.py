"""Rotations: axis-angle, quaternions, matrices, and the six numbers that a network learns best.

Rotations that are close to one another can have distant axis-angles (at an angle of pi the axis flips), which no smooth
network can follow. The first two rows of the rotation matrix change as smoothly as the rotation does, and any six
numbers that a network puts out give a rotation back: "On the Continuity of Rotation Representations in Neural
Networks", Zhou et al. 2019, arXiv:1812.07035. The rows follow one another (x, y, z of the first, then of the second),
as in pytorch3d and thereby in the original diffusion_policy; the paper itself writes columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TINY_ANGLE = 1e-12
"""Radians. From here down sin(x) / x is 1 in float64, too."""


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Turn (..., 3) axis times angle, radians, into rotation matrices (..., 3, 3); the gradient at zero is exact."""
    half = _length(axis_angle) / 2
    quaternion = torch.cat([axis_angle * (half.sin() / (2 * half)), half.cos()], -1)
    return quaternion_to_matrix(quaternion)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Turn rotation matrices (..., 3, 3) into (..., 3) axis times angle, radians, the angle in [0, pi].

    By way of the quaternion, whose half angle is well defined at 0 and at pi, where the arc cosine of the trace is not.
    """
    quaternion = _matrix_to_quaternion(matrix)
    quaternion = torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)  # the shorter way round
    sine = _length(quaternion[..., :3])
    return quaternion[..., :3] * (2 * torch.atan2(sine, quaternion[..., 3:]) / sine)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Turn (..., 4) x, y, z, w of any length above 0 into rotation matrices (..., 3, 3)."""
    x, y, z, w = F.normalize(quaternion, dim=-1).unbind(-1)
    elements = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(elements, -1).unflatten(-1, (3, 3))


def angle_between(axis_angle: Tensor, other: Tensor) -> Tensor:
    """Return the angle of the rotation from one to the other, (..., 3) axis-angle each: (...) radians in [0, pi]."""
    turn = product(axis_angle_to_matrix(axis_angle).mT, axis_angle_to_matrix(other))
    return matrix_to_axis_angle(turn).norm(dim=-1)


def nearer_way_round(axis_angle: Tensor, other: Tensor, counts: Tensor) -> Tensor:
    """Return (..., 3) axis times angle, or the same rotation about the opposite axis where that is nearer to another.

    Args:
        axis_angle: (..., 3), the angles in [0, pi].
        other: what to be near to, (3,).
        counts: bool (3,), which numbers are compared.
    """
    angle = _length(axis_angle)
    opposite = axis_angle * ((angle - 2 * torch.pi) / angle)
    distance, distance_of_opposite = (
        ((way - other) * counts).square().sum(-1, keepdim=True) for way in (axis_angle, opposite)
    )
    return torch.where(distance_of_opposite < distance, opposite, axis_angle)


def _matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Turn rotation matrices (..., 3, 3) into unit quaternions x, y, z, w (..., 4) of either sign.

    The elements of the matrix add up to 4 q q^T, every row of which is q times a number. The row with the largest
    diagonal element is the farthest from zero: its length is at least 2.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    outer = [
        1 + xx - yy - zz, xy + yx, xz + zx, zy - yz,
        xy + yx, 1 - xx + yy - zz, yz + zy, xz - zx,
        xz + zx, yz + zy, 1 - xx - yy + zz, yx - xy,
        zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz,
    ]  # fmt: skip
    rows = torch.stack(outer, -1).unflatten(-1, (4, 4))
    largest = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]  # (..., 1, 1)
    row = rows.gather(-2, largest.expand(*largest.shape[:-1], 4)).squeeze(-2)  # (..., 4)
    return F.normalize(row, dim=-1)


def matrix_to_rotation_6d(matrix: Tensor) -> Tensor:
    """Return the first two rows (..., 6) of rotation matrices (..., 3, 3)."""
    return matrix[..., :2, :].flatten(-2)


def rotation_6d_to_matrix(rotation_6d: Tensor) -> Tensor:
    """Turn any (..., 6) into rotation matrices (..., 3, 3), by Gram and Schmidt (Zhou et al. 2019, section B).

    The first three numbers give the direction of the first row, the second three that of the second as far as it is
    perpendicular. Where either has none, what comes out is finite and no rotation.
    """
    first = F.normalize(rotation_6d[..., :3], dim=-1)
    second = rotation_6d[..., 3:]
    second = F.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply (..., 3, 3) by (..., 3, 3), in full: autocast and TF32 would leave a matmul 3 digits."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def _length(vector: Tensor) -> Tensor:
    """Return the lengths (..., 1) of (..., n), at least TINY_ANGLE: fit to divide by, and with finite gradients."""
    return vector.square().sum(-1, keepdim=True).clamp_min(TINY_ANGLE**2).sqrt()
