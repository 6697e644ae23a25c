"""Gymnasium environments, the scripted experts that demonstrate on them, and collecting their demonstrations."""
