"""How good a map is: at borders, by object size, how sure of itself, and from a sample of points."""
