"""Install the node and its launch file; robodiff itself is installed by pip, see docs/ros2.md."""

from setuptools import find_packages, setup

NAME = "diffusion_policy_inference"

setup(
    name=NAME,
    version="0.2.0",
    packages=find_packages(),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/simulation_inference.launch.py"]),
    ],
    install_requires=["setuptools", "robodiff"],
    license="Apache-2.0",
    entry_points={"console_scripts": [f"model_inference_node = {NAME}.model_inference_node:main"]},
)
