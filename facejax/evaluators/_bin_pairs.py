"""The pairs of a `.bin` (see `facejax/data/bins.py`), as verification wants them."""

import numpy as np

from facejax.data.bins import read_bin
from facejax.errors import UserError
from facejax.evaluators._pictures import Pictures

FOLDS = 10


def bin_pairs(path: str, crop: float) -> tuple:
    """Opens a `.bin`; equal images are one picture.

    Folds are ten contiguous runs of pairs, the first of them longer by one if ten doesn't divide
    their number (scikit-learn's unshuffled KFold, which insightface uses).

    Returns:
        Pictures; str[P, 2] people, picture rows i64[P, 2], same bool[P] and folds i64[P]. Nobody is
        named in a `.bin`: people are told apart as far as equal images and matched pairs link them.

    Raises:
        UserError: what `read_bin` refuses, or fewer than ten pairs.
    """
    found = read_bin(path)
    source, same = found.source, found.same
    if len(same) < FOLDS:
        raise UserError(path, f"{len(same)} pairs make no {FOLDS} folds", "fetch the whole set")
    first: dict[bytes, int] = {}
    rows = [
        first.setdefault(image if isinstance(image, bytes) else image.tobytes(), row)
        for row, image in enumerate(r["image"] for r in source.read(range(len(source))))
    ]
    pairs = np.array(rows).reshape(-1, 2)
    people = _linked(pairs[same], len(source))[pairs].astype(str)
    fold = np.repeat(np.arange(FOLDS), [len(part) for part in np.array_split(same, FOLDS)])
    return Pictures(source, crop, path), people, pairs, same, fold


def _linked(pairs: np.ndarray, n: int) -> np.ndarray:
    """i64[n]: the least of all numbers that pairs i64[P, 2] link each number to."""
    least = np.arange(n)
    while True:
        before = least.copy()
        for side in (0, 1):
            np.minimum.at(least, pairs[:, side], before[pairs].min(axis=1))
        if (least == before).all():
            return least
