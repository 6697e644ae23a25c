"""The tasks as environments that the registry knows, by their names: ``spec.lift_cube``."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from robodiff.data.episodes import ACTION, Feature, joined_unit
from robodiff.documents import AtLeast, Document
from robodiff.envs.mujoco.actions import SPACES
from robodiff.envs.mujoco.env import TableEnv, TableExpert, observed
from robodiff.envs.mujoco.expert import COLLISION, UNREACHABLE
from robodiff.envs.mujoco.library import mujoco
from robodiff.envs.mujoco.scene import TIMESTEP
from robodiff.envs.mujoco.take_over import TableTakeOver
from robodiff.envs.mujoco.tasks import ONE_ARM, Task
from robodiff.envs.mujoco.teams import SEVERAL_ARMS
from robodiff.envs.mujoco.touch import TOUCH
from robodiff.envs.spec import EnvSpec
from robodiff.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TableOptions(Document):
    """Options of every task."""

    action_space: Literal["joints", "degrees", "eef", "eef_delta"] = "joints"
    """What an action of an arm is: absolute joint targets in rad and the gripper's opening from 0 to 1; the same in
    degrees and per cent; the tool's position in m, its rotation as an axis times an angle in rad, and the gripper from
    -1 (open) to 1; or changes of these, of which 1 is 0.05 m and 0.5 rad."""
    size: str | None = None
    """Height and width of images, such as 84x84; the task's own when not given."""


def task_spec(task: Task, options: TableOptions | None = None) -> EnvSpec:
    """Return the environment of a task.

    Raises:
        UsageError: a size that is none, or too large to be drawn; or a task that cannot be simulated.
    """
    _check(task)
    options = options or TableOptions()
    space, size = options.action_space, _size(task, options.size)
    joints, arms = len(task.mounts[0].arm.home), len(task.mounts)
    names = SPACES[space].names(joints)
    every = tuple(f"{index}.{name}" if arms > 1 else name for index in range(arms) for name in names)
    action = Feature(
        "vector", (len(every),), "float32", every, joined_unit([(SPACES[space].unit(joints), len(names))] * arms)
    )

    def make(keys: Collection[str]) -> TableEnv:
        return TableEnv(task, keys, space, size)

    return EnvSpec(
        name=task.name,
        make=make,
        features={**{key: each.feature for key, each in observed(task, space, size).items()}, ACTION: action},
        fps=task.fps,
        success=task.goal,
        success_reward=1.0,
        version=lambda: f"MuJoCo {mujoco.__version__}",
        max_steps=task.max_steps,
        agents={str(i): slice(i * len(names), (i + 1) * len(names)) for i in range(arms)} if arms > 1 else {},
        options=TableOptions,
        configure=lambda options: task_spec(task, options),
        expert=lambda noise: TableExpert(make, noise),
        expert_options=_expert_options(task.noise),
        take_over=TableTakeOver,
        failures=(UNREACHABLE, COLLISION),
        snapshot=TableEnv.snapshot,
        restore=TableEnv.restore,
        glance=TableEnv.glance,
        touch=TOUCH,
    )


def _check(task: Task) -> None:
    """Refuse what cannot be simulated as it is said."""
    cycles = round(1 / TIMESTEP)
    problem = None
    if not task.objects or len({mount.arm for mount in task.mounts}) != 1:
        problem = "expected an object at least, and arms of one kind"
    elif task.fps <= 0 or cycles % task.fps:
        problem = f"expected fps of which {cycles} is a multiple, such as 10, 20 or 25; found {task.fps:g}"
    elif taken := {camera.name for camera in task.cameras} & {"wrist", "head", "robot0_eye_in_hand"}:
        problem = f"an arm has a camera {min(taken)!r} of its own; choose another name"
    if problem:
        raise UsageError(f"the task {task.name}: {problem}")


def _size(task: Task, text: str | None) -> tuple[int, int]:
    """Return height and width."""
    if text is None:
        return task.size
    try:
        height, width = map(int, text.split("x"))
    except ValueError:
        height = width = 0
    if not (0 < height <= 480 and 0 < width <= 640):
        raise UsageError(f"size: expected HEIGHTxWIDTH of at most 480x640, such as 84x84; found {text!r}")
    return height, width


def _expert_options(usual: float) -> type[Document]:
    @dataclass(frozen=True, kw_only=True)
    class TableExpertOptions(Document):
        """Options of the scripted expert."""

        noise: Annotated[float, AtLeast(0)] = usual
        """By how much what the joints are told is disturbed, rad, so that demonstrations show how to come back; what is
        recorded is what was meant."""

    return TableExpertOptions


_TASKS = {task.name: task for task in (*ONE_ARM, *SEVERAL_ARMS)}


def __getattr__(name: str) -> Any:
    if name not in _TASKS:
        raise AttributeError(name)
    return task_spec(_TASKS[name]())
