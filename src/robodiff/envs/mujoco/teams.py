"""The tasks of two to four arms, after RoboFactory's (Qin et al., 2025, arXiv:2503.16408)."""
# ruff: noqa: D101, D102 - what the methods do is told at Task

from typing import ClassVar

import numpy as np

from robodiff.envs.mujoco.expert import Grip, Move, Script, go_home, grasp, pick, place
from robodiff.envs.mujoco.scene import PANDA, Camera, Mount, Object, Part
from robodiff.envs.mujoco.tasks import BLUE, GREEN, MEAT, RED, STEEL, Places, Task, cube, is_stacked
from robodiff.envs.mujoco.world import World, up

RADIUS = 0.65
"""From the middle of the table to the bases of arms that stand around it, m."""
BLACK = (0.15, 0.15, 0.18, 1)


def around(*degrees: float) -> tuple[Mount, ...]:
    """Return arms around the table, each looking to its middle; 0 degrees stands at -x, 90 at -y."""
    angles = np.radians(degrees)
    return tuple(Mount(PANDA, float(-RADIUS * np.cos(a)), float(-RADIUS * np.sin(a)), float(a)) for a in angles)


class TeamTask(Task):
    """A task of several arms."""

    mounts = around(90, -90)
    cameras = (Camera("agentview", (0.95, 0, 0.8), (0, 0, 0.1)),)
    view = Camera("view", (1.25, -0.5, 1.0), (0, 0, 0.2), 45)
    max_steps, size, noise = 400, (240, 320), 0.01


class LiftBarrier(TeamTask):
    name, goal = "lift_barrier", "The barrier is held 15 cm above where it lay."
    objects = (
        Object(
            "barrier",
            (
                Part("box", (0.015, 0.3, 0.04)),
                Part("box", (0.02, 0.02, 0.045), (0, 0.15, 0)),
                Part("box", (0.02, 0.02, 0.045), (0, -0.15, 0)),
            ),
            mass=0.6,
            rest=0.045,
        ),
    )
    max_steps, noise = 200, 0.02

    def places(self, rng: np.random.Generator) -> Places:
        return {"barrier": (rng.uniform(-0.12, 0.12), rng.uniform(-0.03, 0.03), rng.uniform(-0.15, 0.15))}

    def success(self, world: World) -> bool:
        return world.pose("barrier").pos[2] > 0.045 + 0.15 and world.is_touched("barrier")

    def script(self, world: World) -> Script:
        barrier = world.pose("barrier")
        ends = {arm: barrier.at(barrier.point((0, y, 0.02))) for arm, y in enumerate((-0.24, 0.24))}
        yield from pick(world, {arm: grasp(world.arms[arm], end) for arm, end in ends.items()}, lift=0.2)


class TwoRobotsStackCube(TeamTask):
    name, goal = "two_robots_stack_cube", "Cube B rests on cube A in the goal, both let go."
    objects = (cube("cube_a", 0.02, BLUE), cube("cube_b", 0.02, GREEN))
    marks = {"goal": Part("cylinder", (0.11, 0.0005), rgba=(0.9, 0.2, 0.2, 0.5))}  # noqa: RUF012

    def places(self, rng: np.random.Generator) -> Places:
        yaws = rng.uniform(-0.6, 0.6, 2)
        return {
            "cube_a": (rng.uniform(-0.1, 0.1), rng.uniform(-0.25, -0.15), yaws[0]),
            "cube_b": (rng.uniform(-0.1, 0.1), rng.uniform(0.15, 0.25), yaws[1]),
        }

    def success(self, world: World) -> bool:
        return (
            distance(world, "cube_a", "goal") < 0.11
            and is_stacked(world, "cube_b", "cube_a", 0.02)
            and not world.is_touched("cube_a")
        )

    def script(self, world: World) -> Script:
        cubes = {arm: world.pose(name) for arm, name in enumerate(("cube_a", "cube_b"))}
        yield from pick(world, {arm: grasp(world.arms[arm], pose) for arm, pose in cubes.items()})
        yield from place(world, 0, "cube_a", world.mark("goal") + up(0.021))
        yield from go_home(world, 0)
        yield from place(world, 1, "cube_b", world.pose("cube_a").pos + up(0.041))


class ThreeRobotsStackCube(TeamTask):
    name, goal = "three_robots_stack_cube", "Cube C rests on B, B on A in the goal, all let go."
    mounts = around(0, 120, 240)
    objects = (cube("cube_a", 0.02, BLUE), cube("cube_b", 0.02, GREEN), cube("cube_c", 0.02, RED))
    marks = TwoRobotsStackCube.marks
    max_steps = 600

    def places(self, rng: np.random.Generator) -> Places:
        places = {}
        for mount, item in zip(self.mounts, self.objects, strict=True):  # each before its arm
            x, y = mount.ahead(rng.uniform(0.4, 0.48), rng.uniform(-0.08, 0.08))
            places[item.name] = (x, y, mount.yaw + rng.uniform(-0.6, 0.6))
        return places

    def success(self, world: World) -> bool:
        return (
            distance(world, "cube_a", "goal") < 0.12
            and is_stacked(world, "cube_c", "cube_b", 0.02)
            and is_stacked(world, "cube_b", "cube_a", 0.02)
            and not world.is_touched("cube_a")
        )

    def script(self, world: World) -> Script:
        names = ("cube_a", "cube_b", "cube_c")
        yield from pick(world, {arm: grasp(world.arms[arm], world.pose(name)) for arm, name in enumerate(names)})
        yield from go_home(world, 1, 2)
        for arm, name in enumerate(names):
            below = world.pose(names[arm - 1]).pos if arm else world.mark("goal") - up(0.019)
            yield from place(world, arm, name, below + up(0.041))
            yield from go_home(world, arm)


SHOE = Object(
    "shoe",
    (
        Part("box", (0.022, 0.075, 0.018), rgba=RED),
        Part("box", (0.022, 0.025, 0.015), (0, -0.05, 0.033), RED),
    ),
    mass=0.15,
    rest=0.018,
)
DELIVERED = Part("box", (0.1, 0.1, 0.0005), (0, 0.25, 0), (0.9, 0.8, 0.2, 0.5))


class PassShoe(TeamTask):
    name, goal = "pass_shoe", "The shoe lies within 10 cm of the goal, let go."
    objects = (SHOE,)
    marks = {"goal": DELIVERED}  # noqa: RUF012
    noise = 0.005

    def places(self, rng: np.random.Generator) -> Places:
        return {"shoe": (rng.uniform(-0.1, 0.1), rng.uniform(-0.3, -0.22), rng.uniform(-0.4, 0.4))}

    def success(self, world: World) -> bool:
        return is_delivered(world, "shoe")

    def script(self, world: World) -> Script:
        shoe = world.pose("shoe")
        heel = grasp(world.arms[0], shoe.at(shoe.point((0, -0.05, 0.03))))
        yield from pick(world, {0: heel})
        yield Move({0: heel.at([0, -0.05, 0.25])})
        shoe = world.pose("shoe")
        toe = grasp(world.arms[1], shoe.at(shoe.point((0, 0.05, 0))))
        yield Move({1: toe.raised(0.1)})
        yield Move({1: toe}, 0.6)
        yield Grip({1: 0.0})
        yield Grip({0: 1.0})
        yield Move({0: heel.at([0, -0.05, 0.33])}, 0.6)
        yield from go_home(world, 0)
        yield from place(world, 1, "shoe", world.mark("goal") + up(0.019))


class LongPipelineDelivery(TeamTask):
    name, goal = "long_pipeline_delivery", "The shoe, handed on by four arms in a row, lies within 10 cm of the goal."
    mounts = tuple(Mount(PANDA, -0.65, y) for y in (-0.9, -0.3, 0.3, 0.9))
    objects = (SHOE,)
    marks = {"goal": Part("box", (0.1, 0.1, 0.0005), (-0.15, -1.2, 0), DELIVERED.rgba)}  # noqa: RUF012
    cameras = (Camera("agentview", (1.4, 0, 1.2), (-0.2, 0, 0), 65),)
    view = Camera("view", (1.5, -1.3, 1.1), (-0.25, -0.05, 0.15), 55)
    max_steps = 700

    def places(self, rng: np.random.Generator) -> Places:
        return {"shoe": (rng.uniform(-0.2, -0.1), rng.uniform(0.95, 1.1), np.pi / 2 + rng.uniform(-0.3, 0.3))}

    def success(self, world: World) -> bool:
        return is_delivered(world, "shoe")

    def script(self, world: World) -> Script:
        for arm in (3, 2, 1, 0):  # each lays it down half-way to the next
            between = [-0.12, (self.mounts[arm].y + self.mounts[arm - 1].y) / 2, 0]
            shoe = world.pose("shoe")
            yield from pick(world, {arm: grasp(world.arms[arm], shoe.at(shoe.point((0, -0.05, 0.03))))})
            yield from place(world, arm, "shoe", (world.mark("goal") if arm == 0 else between) + up(0.019))
            yield from go_home(world, arm)


POT = Object(
    "pot",
    (
        Part("box", (0.09, 0.09, 0.004), (0, 0, 0.004), STEEL),
        *(Part("box", (0.09, 0.005, 0.03), (0, y, 0.035), STEEL) for y in (-0.085, 0.085)),
        *(Part("box", (0.005, 0.09, 0.03), (x, 0, 0.035), STEEL) for x in (-0.085, 0.085)),
    ),
    mass=2.0,
    rest=0.0,
)
LID = Object(
    "lid",
    (
        Part("box", (0.1, 0.1, 0.004), rgba=(0.5, 0.5, 0.55, 1)),
        Part("box", (0.015, 0.03, 0.02), (0, 0, 0.024), BLACK),
    ),
    mass=0.15,
    rest=0.07,
)


class PlaceFood(TeamTask):
    name, goal = "place_food", "The meat lies in the pot, let go."
    objects = (MEAT, POT, LID)

    def places(self, rng: np.random.Generator) -> Places:
        x, y = rng.uniform(-0.05, 0.05, 2)
        meat = rng.uniform((-0.1, 0.22), (0.1, 0.3))
        return {"pot": (x, y, 0.0), "lid": (x, y, 0.0), "meat": (*meat, np.pi / 2 + rng.uniform(-0.5, 0.5))}

    def success(self, world: World) -> bool:
        offset = world.pose("meat").pos - world.pose("pot").pos
        return bool(offset[2] < 0.1 and np.hypot(*offset[:2]) < 0.1 and not world.is_touched("meat"))

    def script(self, world: World) -> Script:
        lid = world.pose("lid")
        handle = grasp(world.arms[0], lid.at(lid.point((0, 0, 0.03))))
        yield from pick(world, {0: handle, 1: grasp(world.arms[1], world.pose("meat"), "y")}, lift=0.2)
        yield Move({0: world.arms[0].tool.at([0, -0.3, 0.3])})
        yield from place(world, 1, "meat", world.pose("pot").pos + up(0.035))


class CameraAlignment(TeamTask):
    name, goal = "camera_alignment", "Two arms hold the camera and one the meat, both 20 cm above the table."
    mounts = around(90, -90, 0)
    objects = (
        Object(
            "camera",
            (
                Part("box", (0.02, 0.2, 0.025), rgba=BLACK),
                Part("cylinder", (0.02, 0.01), (0.03, 0, 0), (0.4, 0.4, 0.5, 1)),
            ),
            mass=0.4,
            rest=0.025,
        ),
        MEAT,
    )

    def places(self, rng: np.random.Generator) -> Places:
        return {
            "camera": (rng.uniform(0.0, 0.08), rng.uniform(-0.03, 0.03), rng.uniform(-0.1, 0.1)),
            "meat": (rng.uniform(-0.3, -0.22), rng.uniform(-0.08, 0.08), rng.uniform(-0.5, 0.5)),
        }

    def success(self, world: World) -> bool:
        return all(world.pose(name).pos[2] > 0.2 and world.is_touched(name) for name in ("camera", "meat"))

    def script(self, world: World) -> Script:
        camera, meat = world.pose("camera"), world.pose("meat")
        ends = {arm: camera.at(camera.point((0, y, 0))) for arm, y in enumerate((-0.17, 0.17))}
        grasps = {arm: grasp(world.arms[arm], end) for arm, end in ends.items()}
        yield from pick(world, {**grasps, 2: grasp(world.arms[2], meat, "y")}, lift=0.23)


class TakePhoto(CameraAlignment):
    name = "take_photo"
    goal = "Camera and meat held 20 cm up, the meat before the lens, the fourth arm's tool at the button."
    mounts = around(90, -90, 0, 180)
    cameras = (Camera("agentview", (0.75, 0.75, 0.75), (0, 0, 0.1)),)
    view = Camera("view", (0.8, 0.95, 1.55), (0, 0, 0.15), 45)
    button: ClassVar[tuple[float, float, float]] = (0, 0, 0.035)

    def success(self, world: World) -> bool:
        camera = world.pose("camera")
        is_pressed = np.linalg.norm((world.arms[3].tool.pos - camera.point(self.button))[:2]) < 0.035
        is_before = abs(world.pose("meat").pos[1] - camera.pos[1]) < 0.08
        return bool(super().success(world) and is_pressed and is_before)

    def script(self, world: World) -> Script:
        yield from super().script(world)
        meat, camera = world.arms[2].tool, world.pose("camera")
        yield Move({2: meat.at([meat.pos[0], camera.pos[1], meat.pos[2]])})
        yield Grip({3: 0.0})
        button = world.arms[3].home_tool.at(world.pose("camera").point(self.button))
        yield Move({3: button.raised(0.08)})
        yield Move({3: button.raised(0.005)}, 0.5)


def distance(world: World, item: str, mark: str) -> float:
    """Return how far an object is from a mark sideways, m."""
    return float(np.linalg.norm((world.pose(item).pos - world.mark(mark))[:2]))


def is_delivered(world: World, item: str) -> bool:
    """Tell whether an object lies within 10 cm of the goal, let go."""
    return distance(world, item, "goal") < 0.1 and world.pose(item).pos[2] < 0.05 and not world.is_touched(item)


SEVERAL_ARMS = (
    *(LiftBarrier, TwoRobotsStackCube, PassShoe, PlaceFood, ThreeRobotsStackCube, CameraAlignment, TakePhoto),
    LongPipelineDelivery,
)
