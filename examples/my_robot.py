"""A robot for robodiff run: copy it, and put your driver in the place of this one.

robodiff run runs/first --robot examples/my_robot.py --seconds 20
"""

import threading
import time

import numpy as np

HOLD_AFTER = 0.5
"""Seconds without a command after which the driver holds still: a killed policy sends none."""


class Driver:
    """Stands for the robot's own side: a point that moves to where it is sent, at 50 Hz, until commands stop coming."""

    def __init__(self) -> None:
        self.position = self.goal = np.full(2, 256.0)
        self.commanded = 0.0
        threading.Thread(target=self._control, daemon=True).start()

    def send(self, goal: np.ndarray) -> None:
        self.goal, self.commanded = goal, time.monotonic()

    def _control(self) -> None:
        while True:
            if time.monotonic() - self.commanded > HOLD_AFTER:
                self.goal = self.position
            self.position = self.position + 0.1 * (self.goal - self.position)
            time.sleep(0.02)


class MyRobot:
    """What the policy observes and does, by the names and in the units of its recording: robodiff data info tells."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.corners = np.tile([300.0, 300.0], 8)  # what a camera would see of a block that lies still

    def observe(self) -> dict[str, np.ndarray]:
        """Vectors (D,), images (3, H, W) uint8."""
        return {"observation.state": self.driver.position, "observation.environment_state": self.corners}

    def execute(self, action: np.ndarray) -> None:
        """Begin to do it, and return at once."""
        self.driver.send(action)

    def stop(self) -> None:
        """Called once, however an episode ends."""
        self.driver.send(self.driver.position)


def make_robot() -> MyRobot:
    return MyRobot()
