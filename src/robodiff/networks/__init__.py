"""Tensors in, tensors out: the networks, which know nothing of robots, data or training."""
