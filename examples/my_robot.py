"""A robot for robodiff run: copy this file, and replace the driver with yours.

robodiff run runs/first --robot examples/my_robot.py --seconds 20
"""

import threading
import time

import numpy as np

HOLD_AFTER = 0.5
"""Seconds without a command after which the driver holds still: a killed policy sends no more."""


class Driver:
    """Stand-in for a robot's controller: a point that moves towards its goal at 50 Hz until commands stop arriving."""

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
    """The robot, with the names and units of the policy's recording, which robodiff data info shows."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.corners = np.tile([300.0, 300.0], 8)  # a block that lies still, as a camera would see it

    def observe(self) -> dict[str, np.ndarray]:
        """Return vectors (D,), images (3, H, W) uint8."""
        return {"observation.state": self.driver.position, "observation.environment_state": self.corners}

    def execute(self, action: np.ndarray) -> None:
        """Start an action, and return at once."""
        self.driver.send(action)

    def stop(self) -> None:
        """Hold still; called once when an episode ends, for whatever reason."""
        self.driver.send(self.driver.position)


def make_robot() -> MyRobot:
    return MyRobot()
