"""Planning a run on hardware that need not be there: what it needs, and how fast it can be."""
