"""Choosing the next push on Push-T: a quasi-static model of pushing, ways around the block, a search two pushes deep.

Contact is without friction and the block stops at once when nothing pushes it, so the block's motion depends on the
line along which the agent moves and not on its speed. That makes one line of the agent a table from "how far" to
"where is the block", and hundreds of lines cost a few milliseconds together in NumPy.
"""

from dataclasses import dataclass

import numpy as np

from robodiff.envs.pusht.env import AGENT_RADIUS, GOAL_POSE, TABLE
from robodiff.envs.pusht.geometry import corners_from_pose
from robodiff.envs.pusht.ways import CLEARANCE, REACH, Array, Ways, rotate, to_table

APPROACH_SPEED = 20.0
"""px a step on the way to the block; faster, the agent cuts corners and clips the block."""
PUSH_SPEED = 10.0
"""px a step while pushing."""

_CENTRE = np.array([0.0, 45.0])  # centre of gravity in the frame of the block
_GYRATION_SQUARED = 3000.0  # moment of inertia / mass, px^2
_GOAL_CENTRE = (GOAL_POSE[0] - np.sin(GOAL_POSE[2]) * 45.0, GOAL_POSE[1] + np.cos(GOAL_POSE[2]) * 45.0)
_ARM = 55.0  # px, root mean square of the corners' distances from the centre of gravity, about
_WALL = (8.0, TABLE - 9.0)  # the walls' inner faces
_IMPRECISION = 6.0  # px, to either side of where a push is meant to meet the block
_TILTS = (-0.3, 0.0, 0.3)  # rad between the push and the inward normal


@dataclass(frozen=True)
class Push:
    """A push and the way to it: all in px on the table."""

    path: Array
    """(K, 2) way points from where the agent is to where the push starts, both included."""
    direction: Array
    """(2,) unit vector of the push."""
    length: float
    """How far the agent moves from the last way point."""


def distance_to_goal(pose: Array) -> Array:
    """Return how far blocks are from the goal, px: pose (N, 3) -> (N,); a turn counts with the arm of a typical corner.

    Not the mean distance of the corners: that is flat where the block points backwards, and no push would seem to help.
    """
    turn = (pose[:, 2] - GOAL_POSE[2] + np.pi) % (2 * np.pi) - np.pi
    x = pose[:, 0] - np.sin(pose[:, 2]) * _CENTRE[1] - _GOAL_CENTRE[0]
    y = pose[:, 1] + np.cos(pose[:, 2]) * _CENTRE[1] - _GOAL_CENTRE[1]
    return np.sqrt(x**2 + y**2 + (_ARM * turn) ** 2)


def steps_to_go(pose: Array) -> Array:
    """Estimate the steps that the rest of the task takes: pose (..., 3) -> (...)."""
    flat = pose.reshape(-1, 3)
    distance = distance_to_goal(flat)
    corners = corners_from_pose(flat)
    outside = np.maximum(_WALL[0] - corners, corners - _WALL[1]).clip(0.0).mean(axis=-1)
    return (14.0 * np.log1p(distance) + 0.4 * distance + 5.0 * outside).reshape(pose.shape[:-1])


def simulate_pushes(agent: Array, direction: Array, pose: Array, spacing: float, count: int) -> Array:
    """Move agents along straight lines and return where the block is: (count + 1, N, 3).

    agent: (N, 2) px; direction: (N, 2) unit vectors; pose: (N, 3); spacing: px between two results.
    Each advance that makes agent and block overlap is undone by the impulse at the contact that a frictionless solver
    would apply (rigid body, mass 1, moment ``_GYRATION_SQUARED``).
    """
    poses = np.empty((count + 1, *pose.shape))
    poses[0] = pose
    angle = pose[:, 2].copy()
    cos, sin = np.cos(angle), np.sin(angle)
    x = pose[:, 0] - sin * _CENTRE[1]  # centre of gravity
    y = pose[:, 1] + cos * _CENTRE[1]
    agent_x, agent_y = agent[:, 0].copy(), agent[:, 1].copy()
    advance_x, advance_y = spacing * direction[:, 0], spacing * direction[:, 1]
    for index in range(1, count + 1):
        agent_x += advance_x
        agent_y += advance_y
        offset_x, offset_y = agent_x - x, agent_y - y
        body_x = cos * offset_x + sin * offset_y
        body_y = cos * offset_y - sin * offset_x + _CENTRE[1]
        # The nearest point of the block, box by box.
        near_x, near_y = body_x.clip(-60.0, 60.0), body_y.clip(0.0, 30.0)
        stem_x, stem_y = body_x.clip(-15.0, 15.0), body_y.clip(30.0, 120.0)
        squared = (body_x - near_x) ** 2 + (body_y - near_y) ** 2
        stem_squared = (body_x - stem_x) ** 2 + (body_y - stem_y) ** 2
        stem = stem_squared < squared
        near_x, near_y = np.where(stem, stem_x, near_x), np.where(stem, stem_y, near_y)
        distance = np.sqrt(np.where(stem, stem_squared, squared)) + 1e-9
        depth = (AGENT_RADIUS - distance).clip(0.0)
        normal_x, normal_y = (near_x - body_x) / distance, (near_y - body_y) / distance  # from agent into block
        lever = near_x * normal_y - (near_y - _CENTRE[1]) * normal_x
        impulse = depth / (1.0 + lever**2 / _GYRATION_SQUARED)
        x += impulse * (cos * normal_x - sin * normal_y)
        y += impulse * (sin * normal_x + cos * normal_y)
        angle += impulse * lever / _GYRATION_SQUARED
        cos, sin = np.cos(angle), np.sin(angle)
        poses[index, :, 0] = x + sin * _CENTRE[1]
        poses[index, :, 1] = y - cos * _CENTRE[1]
        poses[index, :, 2] = angle
    return poses


def plan_push(agent: Array, pose: Array, beam: int = 10) -> Push | None:
    """Return the push that, with the best one after it, promises the fewest steps; None if no push helps.

    agent: (2,) px; pose: (3,). Nothing is drawn at random, and ties go to the first candidate.
    """
    first = _candidates(agent, pose)
    if first is None:
        return None
    best, best_cost = None, np.inf
    for index in np.argsort(first.cost, kind="stable")[:beam]:
        if not np.isfinite(first.cost[index]):
            break
        onward = steps_to_go(first.end_pose[index])
        after = _candidates(first.end_agent[index], first.end_pose[index])
        if after is not None:
            onward = min(onward, after.cost.min())
        cost = first.steps[index] + onward
        if cost < best_cost - 1e-9:
            best, best_cost = index, cost
    if best is None:
        return None
    path = Ways(agent, pose).path(first.start[best])
    return Push(path, first.direction[best], float(first.length[best]))


def steer_push(agent: Array, direction: Array, pose: Array) -> tuple[Array, float]:
    """Return the direction (2,) and the length (px) that are best for a push under way, from where things really are.

    The direction may turn a little; turning costs, so that noise in the state does not make it flutter.
    """
    turns = np.linspace(-0.3, 0.3, 7)
    directions = np.stack([rotate(direction, turn) for turn in turns])
    longest = 2.0 * distance_to_goal(pose[None])[0] + 2 * CLEARANCE
    spacing = float(np.clip(longest / 60, 0.5, 2.0))
    count = int(min(longest, 120.0) / spacing) + 1
    agents = np.broadcast_to(agent, directions.shape)
    poses = simulate_pushes(agents, directions, np.broadcast_to(pose, (len(turns), 3)), spacing, count)
    distance = spacing * np.arange(count + 1)
    cost = steps_to_go(poses) + distance[:, None] / PUSH_SPEED + 3.0 * np.abs(turns)
    length_index, turn_index = np.unravel_index(np.argmin(cost), cost.shape)
    return directions[turn_index], float(distance[length_index])


@dataclass(frozen=True)
class _Candidates:
    start: Array  # (C, 2) px, where the push starts
    direction: Array  # (C, 2)
    length: Array  # (C,) px
    steps: Array  # (C,) of the way and the push
    cost: Array  # (C,) steps of the way, the push and the estimated rest
    end_agent: Array  # (C, 2)
    end_pose: Array  # (C, 3)


def _contacts() -> tuple[Array, Array]:
    """Return where pushes start, clear of the sides of the block, in its frame: points and inward normals."""
    sides = [  # two ends of the contact points on a side, outward normal
        ((-56, 0), (56, 0), (0, -1)),
        ((60, 4), (60, 26), (1, 0)),
        ((-60, 4), (-60, 26), (-1, 0)),
        ((41, 30), (57, 30), (0, 1)),
        ((-57, 30), (-41, 30), (0, 1)),
        ((15, 56), (15, 116), (1, 0)),
        ((-15, 56), (-15, 116), (-1, 0)),
        ((-12, 120), (12, 120), (0, 1)),
    ]
    points, normals = [], []
    for one, other, outward in sides:
        ends, out = np.array([one, other], dtype=float), np.array(outward, dtype=float)
        count = round(np.linalg.norm(ends[1] - ends[0]) / 7.0) + 1
        for share in np.linspace(0.0, 1.0, count):
            points.append(ends[0] * (1 - share) + ends[1] * share + REACH * out)
            normals.append(-out)
    return np.array(points), np.array(normals)


_CONTACT_POINTS, _CONTACT_NORMALS = _contacts()


def _candidates(agent: Array, pose: Array) -> _Candidates | None:
    """Return all pushes that can be reached, each with its best length."""
    way_lengths = Ways(agent, pose).lengths(_CONTACT_POINTS)
    reachable = np.flatnonzero(np.isfinite(way_lengths))
    if len(reachable) == 0:
        return None
    start = np.tile(to_table(_CONTACT_POINTS[reachable], pose), (len(_TILTS), 1))
    normals = rotate(_CONTACT_NORMALS[reachable], pose[2])
    direction = np.concatenate([rotate(normals, tilt) for tilt in _TILTS])
    way = np.tile(way_lengths[reachable], len(_TILTS))
    longest = 2.0 * distance_to_goal(pose[None])[0] + 2 * CLEARANCE
    spacing = float(np.clip(longest / 50, 0.5, 2.5))
    count = int(min(longest, 150.0) / spacing) + 1
    # A push is judged by what it does on average when it meets the block a little to the left or to the right, too: one
    # that must hit a pixel would be a poor example to somebody who cannot.
    sideways = _IMPRECISION * np.stack([-direction[:, 1], direction[:, 0]], axis=-1)
    starts = np.concatenate([start, start - sideways, start + sideways])
    every = simulate_pushes(
        starts, np.tile(direction, (3, 1)), np.broadcast_to(pose, (len(starts), 3)), spacing, count
    )  # (count + 1, 3 C, 3)
    poses = every[:, : len(start)]
    distance = spacing * np.arange(count + 1)
    agents = start + distance[:, None, None] * direction  # (count + 1, C, 2)
    rest = steps_to_go(every).reshape(count + 1, 3, -1).mean(axis=1) + distance[:, None] / PUSH_SPEED
    rest[((agents < 2.0) | (agents > TABLE - 2.0)).any(axis=-1)] = np.inf
    # What does not gain a step is no push; a few of these would otherwise be chosen for where they leave the agent.
    rest[rest > steps_to_go(pose) - 1.0] = np.inf
    chosen = np.argmin(rest, axis=0)
    rows = np.arange(len(start))
    way_steps = way / APPROACH_SPEED + 4.0  # coming to rest before the push and at its end
    steps = way_steps + distance[chosen] / PUSH_SPEED
    return _Candidates(
        start,
        direction,
        distance[chosen],
        steps,
        way_steps + rest[chosen, rows],
        agents[chosen, rows],
        poses[chosen, rows],
    )
