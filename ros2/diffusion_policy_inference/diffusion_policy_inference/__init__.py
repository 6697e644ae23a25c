"""A robodiff policy as a node of ROS 2."""
