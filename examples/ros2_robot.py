"""A simulated myCobot 280 behind ROS 2's topics, without an installation of ROS: what a policy meets on the robot.

python examples/ros2_robot.py --episodes 3          # in one terminal
robodiff run POLICY --robot ros2:robot.yaml         # in another; see docs/ros2.md
"""

import argparse

import numpy as np

from robodiff.deploy.ros2_config import read_config
from robodiff.deploy.ros2_simulated import serve_robot
from robodiff.envs.spec import AnyEnv, get_env_spec


class SimulatedArm:
    """An environment, episode after episode."""

    def __init__(self, env: AnyEnv, seed: int, episodes: int) -> None:
        self.env, self.seed, self.left = env, seed, episodes
        self.observation, _ = env.reset(seed=seed)

    def observe(self) -> dict[str, np.ndarray]:
        return self.observation

    def execute(self, action: np.ndarray) -> None:
        self.observation, _, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            print(f"episode {self.seed}: {'success' if info['is_success'] else 'no success'}", flush=True)
            self.seed, self.left = self.seed + 1, self.left - 1
            self.observation, _ = self.env.reset(seed=self.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", default="stack_cube_mycobot", help="an environment with observation.state")
    parser.add_argument("--robot", default="", help="the file that the policy is given, too; see docs/ros2.md")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=0.5, help="seconds without a command until the arm holds")
    options = parser.parse_args()
    config, spec = read_config(options.robot), get_env_spec(options.env)
    cameras = ["observation.images.front"] if config.cameras is None else config.cameras
    keys = ["observation.state", *cameras, *config.vectors]
    arm = SimulatedArm(spec.make(keys), options.seed, options.episodes)
    print("ready", flush=True)
    serve_robot(
        arm,
        {key: spec.features[key] for key in [*keys, "action"]},
        config,
        rate=spec.fps,
        timeout=options.timeout,
        goes_on=lambda: arm.left > 0,
    )


if __name__ == "__main__":
    main()
