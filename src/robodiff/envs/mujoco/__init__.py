"""A table with one to four arms, simulated by MuJoCo: tasks, their scripted experts, and cameras."""
