"""A synthetic scene with known truth, and the run that maps it."""
