"""The tasks of one arm, and what a task is: what lies on the table, what counts as success, how the expert does it."""
# ruff: noqa: D101, D102 - what the methods do is told at Task

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from robodiff.envs.mujoco.expert import Move, Script, grasp, pick, place
from robodiff.envs.mujoco.scene import MYCOBOT, PANDA, Camera, Color, Mount, Object, Part, Scene
from robodiff.envs.mujoco.world import Array, World, up

Places = dict[str, tuple[float, float, float]]
BLUE, GREEN, RED = (0.15, 0.3, 0.8, 1), (0.1, 0.6, 0.2, 1), (0.8, 0.15, 0.15, 1)
WOOD, STEEL, BONE = (0.6, 0.4, 0.2, 1), (0.35, 0.35, 0.4, 1), (0.95, 0.92, 0.85, 1)


class Task(ABC):
    """One task.

    A subclass says what stands on the table, and has three methods; ``spec.task_spec`` makes an environment of it.
    Places and lengths are in m, angles in rad; the table's top is at height 0.
    """

    name: ClassVar[str]
    goal: ClassVar[str]
    """One sentence: what counts as success."""
    mounts: ClassVar[tuple[Mount, ...]] = (Mount(PANDA, -0.615, 0),)
    """The arms, all of one kind."""
    objects: ClassVar[tuple[Object, ...]]
    marks: ClassVar[dict[str, Part]] = {}
    cameras: ClassVar[tuple[Camera, ...]] = (Camera("agentview", (0.5, 0, 0.45), (-0.05, 0, 0.06)),)
    """Those that stand still and are nobody's own."""
    view: ClassVar[Camera] = Camera("view", (0.7, -0.75, 0.75), (-0.25, 0, 0.2), 45)
    """What videos show."""
    head: ClassVar[tuple[float, float, float]] = (0.1, 0.35, 0.6)
    """Where an arm's head camera is: before its base, to the left, and up."""
    fps: ClassVar[float] = 20.0
    """Actions per second; 500 is a multiple of it."""
    max_steps: ClassVar[int] = 200
    size: ClassVar[tuple[int, int]] = (84, 84)
    """Height and width of images, unless others are asked for."""
    noise: ClassVar[float] = 0.02
    """By how much demonstrations are disturbed, rad; as much as leaves the expert at 95 %."""

    @abstractmethod
    def places(self, rng: np.random.Generator) -> Places:
        """Return where each object lies at the start: x, y, and its angle about the vertical."""

    @abstractmethod
    def success(self, world: World) -> bool:
        """Tell whether the goal is reached now."""

    @abstractmethod
    def script(self, world: World) -> Script:
        """Yield the expert's moves; between them it may look at the world."""

    @property
    def scene(self) -> Scene:
        """All that stands there; of each arm there is a head camera, beside it so that it does not hide the table."""
        heads = []
        for index, mount in enumerate(self.mounts):
            forward, left, up = self.head
            x, y = map(float, mount.ahead(forward, left))
            tx, ty = map(float, mount.ahead(0.55 * self.reach))
            heads.append(Camera(f"head{index}", (x, y, up), (tx, ty, 0.0), 60))
        return Scene(self.mounts, self.objects, tuple(self.marks.items()), (self.view, *self.cameras, *heads))

    @property
    def reach(self) -> float:
        """How far from its base an arm works at most, m."""
        return 0.3 if self.mounts[0].arm is MYCOBOT else 1.0


def cube(name: str, half: float, rgba: Color) -> Object:
    """Return a cube of a light wood's weight."""
    return Object(name, (Part("box", (half,) * 3, rgba=rgba),), 6400 * half**3, half)


def is_stacked(world: World, top: str, bottom: str, half: float) -> bool:
    """Tell whether a cube lies on another, let go.

    As in RoboFactory: within half a diagonal and 5 mm sideways, and 5 mm in height.
    """
    offset = world.pose(top).pos - world.pose(bottom).pos
    near = np.hypot(*offset[:2]) <= np.hypot(half, half) + 0.005
    return bool(near and abs(offset[2] - 2 * half) <= 0.005 and not world.is_touched(top))


def apart(rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float], distance: float) -> Array:
    """Return two points (2, 2) of a rectangle, at least so far from each other."""
    while True:
        points = rng.uniform(low, high, (2, 2))
        if np.linalg.norm(points[0] - points[1]) >= distance:
            return points


class LiftCube(Task):
    name, goal = "lift_cube", "The cube is held 4 cm above where it lay."  # robosuite's Lift
    objects = (cube("cube", 0.02, RED),)
    max_steps = 100

    def places(self, rng: np.random.Generator) -> Places:
        return {"cube": (*rng.uniform(-0.1, 0.1, 2), rng.uniform(-np.pi / 4, np.pi / 4))}

    def success(self, world: World) -> bool:
        return world.pose("cube").pos[2] > 0.02 + 0.04 and world.is_touched("cube")  # not thrown

    def script(self, world: World) -> Script:
        yield from pick(world, {0: grasp(world.arms[0], world.pose("cube"))})


class StackCube(Task):
    name, goal = "stack_cube", "Cube A rests on cube B, let go."
    half: ClassVar[float] = 0.02
    objects = (cube("cube_a", half, BLUE), cube("cube_b", half, GREEN))
    noise = 0.01
    low: ClassVar[tuple[float, float]] = (-0.1, -0.15)
    high: ClassVar[tuple[float, float]] = (0.1, 0.15)

    def places(self, rng: np.random.Generator) -> Places:
        a, b = apart(rng, self.low, self.high, 4.5 * self.half)
        yaws = rng.uniform(-np.pi / 4, np.pi / 4, 2)
        return {"cube_a": (*a, yaws[0]), "cube_b": (*b, yaws[1])}

    def success(self, world: World) -> bool:
        return is_stacked(world, "cube_a", "cube_b", self.half)

    def script(self, world: World) -> Script:
        yield from pick(world, {0: grasp(world.arms[0], world.pose("cube_a"))})
        yield from place(world, 0, "cube_a", world.pose("cube_b").pos + up(2 * self.half + 0.001))


class StackCubeMyCobot(StackCube):
    name = "stack_cube_mycobot"
    mounts = (Mount(MYCOBOT, 0, 0),)
    half = 0.0125
    objects = (cube("cube_a", half, BLUE), cube("cube_b", half, GREEN))
    low, high = (0.15, -0.07), (0.22, 0.07)
    cameras = (Camera("front", (0.45, 0.12, 0.28), (0.14, 0, 0.05), 55),)
    view = Camera("view", (0.45, -0.3, 0.32), (0.08, 0, 0.1), 45)
    head = (0.05, 0.2, 0.3)
    fps, max_steps, size, noise = 10.0, 150, (240, 424), 0.02


MEAT = Object(
    "meat",
    (
        Part("box", (0.045, 0.022, 0.018), rgba=(0.7, 0.3, 0.25, 1)),
        Part("box", (0.03, 0.008, 0.008), (0.06, 0, 0), BONE),
    ),
    mass=0.15,
    rest=0.018,
)


class PickMeat(Task):
    name, goal = "pick_meat", "The meat is held 15 cm above where it lay."
    objects = (MEAT,)
    size = (240, 320)

    def places(self, rng: np.random.Generator) -> Places:
        return {"meat": (*rng.uniform(-0.1, 0.1, 2), rng.uniform(-0.8, 0.8))}

    def success(self, world: World) -> bool:
        return world.pose("meat").pos[2] > MEAT.rest + 0.15 and world.is_touched("meat")

    def script(self, world: World) -> Script:
        yield from pick(world, {0: grasp(world.arms[0], world.pose("meat"), "y")}, lift=0.2)


class StrikeCube(Task):
    name, goal = "strike_cube", "The hammer's face is within 2.5 cm of the top of the cube, the hammer held."
    face: ClassVar[tuple[float, float, float]] = (0.1, 0, -0.035)
    objects = (
        cube("cube", 0.02, RED),
        Object(
            "hammer",
            (
                Part("box", (0.09, 0.012, 0.012), rgba=WOOD),
                Part("box", (0.02, 0.02, 0.035), (0.1, 0, 0), STEEL),
                Part("box", (0.01, 0.012, 0.0115), (-0.08, 0, -0.0235), WOOD),
            ),
            mass=0.2,
            rest=0.035,
        ),
    )
    size, noise = (240, 320), 0.003

    def places(self, rng: np.random.Generator) -> Places:
        return {
            "hammer": (*rng.uniform((-0.15, -0.2), (-0.05, -0.1)), rng.uniform(-0.4, 0.4)),
            "cube": (*rng.uniform((-0.05, 0.08), (0.08, 0.18)), rng.uniform(-0.7, 0.7)),
        }

    def success(self, world: World) -> bool:
        gap = world.pose("hammer").point(self.face) - world.pose("cube").pos - up(0.02)
        return bool(np.linalg.norm(gap) < 0.025 and world.is_touched("hammer"))

    def script(self, world: World) -> Script:
        hammer = world.pose("hammer")
        yield from pick(world, {0: grasp(world.arms[0], hammer.at(hammer.point((-0.02, 0, 0))), "y")})
        for height in (0.1, 0.015):
            tool = world.arms[0].tool
            way = world.pose("cube").pos + up(0.02 + height) - world.pose("hammer").point(self.face)
            yield Move({0: tool.at(tool.pos + way)})


ONE_ARM = (LiftCube, StackCube, StackCubeMyCobot, PickMeat, StrikeCube)
