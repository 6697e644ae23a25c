"""Run a policy on a real or simulated robot whose controllers and cameras are running already.

ros2 launch diffusion_policy_inference simulation_inference.launch.py checkpoint_path:=runs/first
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    "checkpoint_path": (None, "A robodiff run, a policy, or an exported policy."),
    "model_dir": ("", "Ignored: no code is imported from it."),
    "inference_rate": (
        "10.0",
        "Hz; the arm is to reach a target within one period. The policy acts at the rate of its recording.",
    ),
    "use_sim_time": ("true", "Whether stamps are from a simulation's clock."),
    "robot_name": ("mycobot_280", "The namespace of the node."),
    "robot_file": ("", "A YAML file with topics, joints and conventions; those of a myCobot 280 by default."),
    "device": ("cpu", "Device that computes the policy: cpu or cuda."),
    "log_level": ("info", "From debug to fatal."),
}
"""Default and description by name; an argument without a default is required."""
TYPES = {"inference_rate": float, "use_sim_time": bool}
PARAMETERS = [name for name in ARGUMENTS if name not in ("robot_name", "log_level")]


def generate_launch_description() -> LaunchDescription:
    """Return the node with its arguments."""
    values = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    node = Node(
        package="diffusion_policy_inference",
        executable="model_inference_node",
        namespace=values["robot_name"],
        parameters=[{name: ParameterValue(values[name], value_type=TYPES.get(name, str)) for name in PARAMETERS}],
        arguments=["--ros-args", "--log-level", values["log_level"]],
        output="screen",
    )
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, node])
