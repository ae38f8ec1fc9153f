"""Pieces of `facejax.clean`: NumPy alone, blocked, no matrix of all records by all records."""
