"""Push-T: a round agent pushes a T-shaped block onto its goal. Observations by name around gym-pusht's simulation.

Everything is in pixels of a 512 x 512 table, y pointing down, angles in radians. A pose is (x, y, angle) of the block's
origin, the middle of the outer edge of the bar of the T. The agent follows its target position with a PD controller and
moves the block, never the other way round; friction stops the block as soon as nothing pushes it.
"""

import os
import warnings
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from robodiff.data.episodes import ACTION, Feature
from robodiff.envs.pusht.geometry import CORNERS, XY, corners_from_pose, pose_from_corners
from robodiff.envs.spec import box, select_keys
from robodiff.errors import RobodiffError, UsageError

TABLE = 512.0
"""Side of the table in px; a target position lies in 0..TABLE."""
AGENT_RADIUS = 15.0
"""Radius of the agent in px."""
GOAL_POSE = (256.0, 256.0, np.pi / 4)
"""Where the block belongs: x, y in px and angle in rad."""
SUCCESS_COVERAGE = 0.95
"""The share of the goal's area that the block has to cover, and more."""
MAX_STEPS = 300
FPS = 10
IMAGE_SIZE = 96
RENDER_SIZE = 384

STATE = "observation.state"
ENVIRONMENT_STATE = "observation.environment_state"
IMAGE = "observation.image"
OBSERVATIONS = {
    STATE: Feature("vector", (2,), "float32", names=XY, unit="px"),
    ENVIRONMENT_STATE: Feature("vector", (16,), "float32", names=CORNERS, unit="px"),
    IMAGE: Feature("image", (3, IMAGE_SIZE, IMAGE_SIZE), "uint8"),
}
FEATURES = {**OBSERVATIONS, ACTION: Feature("vector", (2,), "float32", names=XY, unit="px")}


class PushTEnv(gymnasium.Env[Any, Any]):
    """Push-T with the observations that were asked for, and no others computed.

    Observations: ``observation.state`` (2,) float32, the agent's x, y; ``observation.environment_state`` (16,) float32,
    the block's corners x0, y0, x1, y1, ...; ``observation.image`` (3, 96, 96) uint8.
    Action: (2,) float32, the position that the agent is to move to, 0..512 px, at 10 Hz; values outside are clipped.
    Reward: coverage of the goal / 0.95, at most 1. Terminated when the coverage exceeds 0.95, truncated after
    ``max_steps``. ``info``: ``coverage``, ``is_success``. After ``reset(seed=s)`` all depends on ``s`` and the actions.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": FPS}

    def __init__(
        self, observation_keys: Collection[str] = (STATE, ENVIRONMENT_STATE), max_steps: int = MAX_STEPS
    ) -> None:
        self._keys = select_keys("pusht", observation_keys, OBSERVATIONS)
        self.observation_space = gymnasium.spaces.Dict({key: box(OBSERVATIONS[key]) for key in self._keys})
        self.action_space = gymnasium.spaces.Box(0.0, TABLE, (2,), np.float32)
        self.render_mode = "rgb_array"
        self.max_steps = max_steps
        self._simulation = _make_simulation()
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Draw a new start: from ``seed`` alone if it is given, else from the generator as the last reset left it."""
        super().reset(seed=seed, options=options)
        self._simulation.reset(seed=seed)
        self._simulation._last_action = None
        self._steps = 0
        coverage = self.coverage
        return self.observe(), {"coverage": coverage, "is_success": coverage > SUCCESS_COVERAGE}

    def step(self, action: NDArray[np.floating]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Move the agent towards ``action`` (2,), px, for a tenth of a second."""
        target = _finite("an action", action, 2)
        _, reward, success, _, info = self._simulation.step(np.clip(target, 0.0, TABLE))
        self._steps += 1
        result = {"coverage": float(info["coverage"]), "is_success": bool(success)}
        return self.observe(), float(reward), bool(success), self._steps >= self.max_steps, result

    def render(self) -> NDArray[np.uint8]:
        """Draw the table for a person: (384, 384, 3) uint8, with a cross where the last action points."""
        return self._simulation.render()

    @property
    def coverage(self) -> float:
        """The share of the goal's area that the block covers, 0..1."""
        return float(self._simulation._get_coverage())

    @property
    def state(self) -> NDArray[np.float64]:
        """All that the simulation remembers, (7,): agent x, y, block x, y, angle (0..2 pi), agent velocity x, y."""
        agent, block = self._simulation.agent, self._simulation.block
        return np.array([*agent.position, *block.position, block.angle % (2 * np.pi), *agent.velocity])

    def set_state(self, state: NDArray[np.floating]) -> None:
        """Put the simulation into ``state``, (5,) or (7,) as :attr:`state` gives it; without velocity the agent rests.

        The step counter stays. gym-pusht's own ``reset_to_state`` is not used: it displaces the block (it sets the
        position before the angle, which then turns the block about its centre of gravity).
        """
        _place(self._simulation, _finite("a state", state, 5, 7))

    def snapshot(self) -> NDArray[np.float64]:
        """Return all that the episode remembers, (8,): :attr:`state` and the steps taken."""
        return np.array([*self.state, self._steps])

    def restore(self, snapshot: NDArray[np.float64]) -> None:
        """Go on from a snapshot."""
        self.set_state(snapshot[:7])
        self._steps = int(snapshot[7])

    def observe(self) -> dict[str, NDArray[Any]]:
        """Return what is seen now."""
        observe = {
            STATE: lambda: np.array(self._simulation.agent.position, dtype=np.float32),
            ENVIRONMENT_STATE: lambda: corners_from_pose(self.state[None, 2:5])[0].astype(np.float32),
            IMAGE: lambda: _draw(self._simulation),
        }
        return {key: observe[key]() for key in self._keys}


def _finite(what: str, values: NDArray[np.floating], *lengths: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape not in [(length,) for length in lengths] or not np.isfinite(array).all():
        raise UsageError(f"{what} of pusht is {' or '.join(map(str, lengths))} finite numbers; found {values!r}")
    return array


def render_observation(state: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Draw ``observation.image`` (3, 96, 96) of a recorded state: agent x, y, block x, y px and angle rad."""
    simulation = _drawing_simulation()
    _place(simulation, np.asarray(state, dtype=np.float64))
    return _draw(simulation)


def draw_scene(observation: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8] | None:
    """Draw a recorded observation for a person, (H, W, 3) uint8 of the whole table; None if it does not say enough."""
    if STATE in observation and ENVIRONMENT_STATE in observation:
        simulation = _drawing_simulation()
        _place(simulation, np.concatenate([observation[STATE], pose_from_corners(observation[ENVIRONMENT_STATE])[0]]))
        simulation._last_action = None
        return simulation.render()
    return observation[IMAGE].transpose(1, 2, 0) if IMAGE in observation else None  # CHW -> HWC


def _make_simulation() -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pygame's own use of pkg_resources
            import cv2
            import pygame
            from gym_pusht.envs.pusht import PushTEnv as Simulation
            from gym_pusht.envs.pusht import pymunk_to_shapely
    except ImportError as error:
        # OpenCV, with which it draws, misses system libraries.
        remedy = "apt install libgl1 libglib2.0-0" if ".so" in str(error) else "pip install 'robodiff[train]'"
        raise RobodiffError(f"pusht needs gym-pusht ({error}): {remedy}") from error

    class OrderedSimulation(Simulation):
        """gym-pusht's simulation, with a coverage that is the same to the last digit every time, and drawn faster.

        pymunk keeps the shapes of a body in a set, and the area of their union depends on their order in its last bit.
        """

        def _get_coverage(self) -> float:
            shapes = sorted(self.block.shapes, key=lambda shape: [tuple(v) for v in shape.get_vertices()])
            goal = pymunk_to_shapely(self.get_goal_pose_body(self.goal_pose), shapes)
            return goal.intersection(pymunk_to_shapely(self.block, shapes)).area / goal.area

        def _get_img(self, screen: Any, width: int, height: int, render_action: bool = False) -> Any:
            # The same pixels as gym-pusht's, which copies them column by column.
            pixels = np.frombuffer(pygame.image.tobytes(screen, "RGB"), np.uint8).reshape(*screen.get_size()[::-1], 3)
            image: Any = cv2.resize(pixels, (width, height))
            if render_action and self._last_action is not None:
                size = min(width, height) / 96
                place = (np.array(self._last_action) / TABLE * [height, width]).astype(np.int32)
                cv2.drawMarker(image, place.tolist(), (255, 0, 0), cv2.MARKER_CROSS, int(8 * size), int(size))
            return image

    return OrderedSimulation(
        obs_type="state",
        observation_width=IMAGE_SIZE,
        observation_height=IMAGE_SIZE,
        visualization_width=RENDER_SIZE,
        visualization_height=RENDER_SIZE,
    )


@lru_cache(maxsize=1)
def _drawing_simulation() -> Any:
    return _make_simulation()


def _place(simulation: Any, state: NDArray[np.float64]) -> None:
    # A new space: the old one remembers contact forces, which would carry over into the restored state.
    simulation._setup()
    simulation.agent.position = (float(state[0]), float(state[1]))
    if len(state) == 7:
        simulation.agent.velocity = (float(state[5]), float(state[6]))
    simulation.block.angle = float(state[4])
    simulation.block.position = (float(state[2]), float(state[3]))
    simulation.space.reindex_shapes_for_body(simulation.agent)
    simulation.space.reindex_shapes_for_body(simulation.block)


def _draw(simulation: Any) -> NDArray[np.uint8]:
    return np.ascontiguousarray(simulation._render(visualize=False).transpose(2, 0, 1))  # HWC -> CHW
