"""A robodiff policy as a ROS 2 node."""
