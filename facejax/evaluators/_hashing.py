"""Splits and orders by hash: they depend on names alone, so they survive added pictures."""

import hashlib
from collections.abc import Sequence

import numpy as np

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = (0.6, 0.2, 0.2)
"""Shares of the people of the parts of a probe."""


def hash_share(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_people(people: Sequence[str], shares: Sequence[float]) -> np.ndarray:
    """Deals people to parts by the hash of their name; all of a person's pictures share a part.

    Args:
        people: str[n], person of each picture.
        shares: of each part, adding up to 1.

    Returns:
        i64[n], part numbers.
    """
    upper = np.cumsum(shares)[:-1]
    part = {p: int(np.searchsorted(upper, hash_share(p), side="right")) for p in set(people)}
    return np.array([part[p] for p in people])
