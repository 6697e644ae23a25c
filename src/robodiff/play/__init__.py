"""A person at an environment: demonstrate, watch a policy, disturb it, take over; on a page of this machine."""
