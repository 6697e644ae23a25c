"""From windows to a trained policy, with Lightning."""
