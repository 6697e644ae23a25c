"""LeRobot data sets, formats v2.1 and v3.0."""
