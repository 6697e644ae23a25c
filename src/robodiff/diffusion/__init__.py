"""The mathematics of diffusion and flow matching: schedules, objectives and samplers. Knows nothing of robots."""
