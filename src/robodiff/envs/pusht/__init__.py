"""Push-T: the simulation, its scripted expert, and the demonstrations inside the package."""
