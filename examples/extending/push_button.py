"""A button to press: robodiff collect push_button --plugin push_button.py --episodes 20 --out button.zarr"""

import numpy as np

from robodiff.envs.mujoco.expert import Grip, Move, Script, grasp
from robodiff.envs.mujoco.scene import Object, Part
from robodiff.envs.mujoco.spec import task_spec
from robodiff.envs.mujoco.tasks import Places, Task
from robodiff.envs.mujoco.world import World


class PushButton(Task):
    name, goal = "push_button", "The fingers press the button."
    objects = (Object("button", (Part("cylinder", (0.03, 0.015)),), mass=1.0, rest=0.015),)  # m, kg
    max_steps = 100

    def places(self, rng: np.random.Generator) -> Places:
        return {"button": (*rng.uniform(-0.1, 0.1, 2), 0.0)}

    def success(self, world: World) -> bool:
        return world.is_touched("button")

    def script(self, world: World) -> Script:
        above = grasp(world.arms[0], world.pose("button"))
        yield Grip({0: 0.0})
        yield Move({0: above.raised(0.08)})
        yield Move({0: above.raised(0.01)}, pace=0.5)


SPEC = task_spec(PushButton())
