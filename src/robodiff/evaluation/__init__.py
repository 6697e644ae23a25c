"""Rollouts, what may be concluded from them, and what they looked like."""
