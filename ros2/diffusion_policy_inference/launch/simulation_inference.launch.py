"""Let a policy act on a robot that runs already, simulated or not: its controllers and cameras are launched apart.

ros2 launch diffusion_policy_inference simulation_inference.launch.py checkpoint_path:=runs/first
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    "checkpoint_path": (None, "A run or a policy of robodiff, or one that it exported."),
    "model_dir": ("", "Not used: nothing is imported from it, a policy knows by itself what it is."),
    "inference_rate": ("10.0", "Actions per second; within the time of one the arm gets where an action says."),
    "use_sim_time": ("true", "Whether stamps are of a simulation's clock."),
    "robot_name": ("mycobot_280", "The namespace of the node."),
    "robot_file": ("", "A YAML file with topics, joints and conventions; those of a myCobot 280 without it."),
    "device": ("cpu", "Where the policy computes: cpu or cuda."),
    "log_level": ("info", "From debug to fatal."),
}
"""By name, the default and what it is; one without a default must be given."""
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
