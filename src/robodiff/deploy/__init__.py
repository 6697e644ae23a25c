"""From a policy to a robot: exported policies, a server and its client, the real-time loop, ROS 2."""
