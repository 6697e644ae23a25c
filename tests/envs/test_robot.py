"""A simulated environment in real time, on a clock of its own."""

import numpy as np

from robodiff.envs.pusht.spec import SPEC
from robodiff.envs.robot import EnvRobot


class Recorded:
    def __init__(self) -> None:
        self.t = 0.0
        self.robot = EnvRobot(SPEC, ["observation.state"], seed=7, now=lambda: self.t)
        self.robot.reset()
        self.steps: list[float] = []
        step = self.robot._pool.step
        self.robot._pool.step = lambda actions: self.steps.append(float(actions[0][0])) or step(actions)  # type: ignore

    def at(self, time: float, action: float | None = None) -> np.ndarray:
        self.t = time
        state = self.robot.observe()["observation.state"].copy()
        if action is not None:
            self.robot.execute(np.full(2, action, np.float32))
        return state


def test_each_action_holds_for_the_periods_until_the_next() -> None:
    world = Recorded()
    first = world.at(5.0, 100)  # time begins here
    assert world.at(5.04).tolist() == first.tolist()
    world.at(5.1, 200)
    world.at(5.23, 300)  # late, by less than half a period
    world.at(5.5, 400)  # two periods later: its last action holds
    assert world.steps == [100, 200, 300, 300, 300]
    world.robot.close()


def test_the_world_stands_still_where_no_action_has_come_for_a_second() -> None:
    world = Recorded()
    world.at(0.0, 100)
    world.at(60.0, 200)
    assert world.steps == [100] * 10
    world.at(60.1)
    assert world.steps == [100] * 10 + [200]
    world.robot.close()


def test_episodes_depend_on_their_seeds() -> None:
    world = Recorded()
    states = [world.at(0.0)]
    world.robot.reset()
    states.append(world.at(0.0))
    other = EnvRobot(SPEC, ["observation.state"], seed=8)
    other.reset()
    assert states[1].tolist() == other.observe()["observation.state"].tolist()
    assert states[0].tolist() != states[1].tolist()
    assert not world.robot.ended
    assert not world.robot.success
