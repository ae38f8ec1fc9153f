"""Balanced pairs for verification, drawn from who is on the pictures of a source.

As in LFW's View 2, pairs lie in ten contiguous folds, nobody is in two folds, and each fold has
first its pairs of one person, then as many of two people. Within a fold and a kind every picture is
used about equally often. The draw depends on the seed, the pictures' names and who is on them, and
on no random generator.
"""

from collections.abc import Sequence

import numpy as np

from facejax.errors import UserError
from facejax.evaluators._hashing import hash_share

FOLDS = 10
MOST_PER_KIND = 300
"""Pairs of each kind per fold that "auto" draws at most, as many as LFW has."""


def draw_pairs(
    names: Sequence[str], people: np.ndarray, wanted: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws pairs of pictures.

    Args:
        names: of the N pictures.
        people: i64[N], person of each, -1 where unknown: such pictures are in no pair.
        wanted: pairs in all; None uses each picture about once in either kind, up to 6,000 pairs.
        seed: another one gives other pairs.

    Returns:
        i64[P, 2] picture numbers, bool[P] whether they show one person, and i64[P] folds.

    Raises:
        UserError: too few people or pictures for what is wanted.
    """
    order = np.argsort([hash_share(f"{seed}/{name}") for name in names], kind="stable")
    order = order[people[order] >= 0]
    fold = _fold_of(people[order])
    folds = [order[fold == f] for f in range(FOLDS)]
    most = min(_most(people[rows]) for rows in folds)
    if most < 1:
        what = f"no ten folds of {len(np.unique(people[order]))} people have pairs of both kinds"
        remedy = "give 20 people or more, 10 or more of them with two pictures"
        raise UserError("pairs", what, remedy)
    if wanted is None:
        each = min(MOST_PER_KIND, most, *(len(rows) // 2 for rows in folds))
    else:
        each = wanted // (2 * FOLDS)
        if wanted != 2 * FOLDS * each or not 1 <= each <= most:
            remedy = f"give a multiple of {2 * FOLDS} up to {2 * FOLDS * most}, or 'auto'"
            raise UserError("pairs", f"{wanted} can't be drawn from these pictures", remedy)
    drawn = [_pairs(each, rows, people[rows], same) for rows in folds for same in (True, False)]
    same = np.tile(np.repeat([True, False], each), FOLDS)
    return np.concatenate(drawn), same, np.repeat(np.arange(FOLDS), 2 * each)


def _fold_of(people: np.ndarray) -> np.ndarray:
    """i64[n]: the fold of each picture. People are dealt in turn, those seen most often first."""
    _, first, person, count = np.unique(
        people, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(count), np.int64)
    rank[np.lexsort((first, -count))] = np.arange(len(count))
    return rank[person] % FOLDS


def _most(people: np.ndarray) -> int:
    """How many pairs of either kind the pictures of people i64[n] allow."""
    count = np.unique(people, return_counts=True)[1]
    same = int(np.sum(count * (count - 1) // 2))
    return min(same, len(people) * (len(people) - 1) // 2 - same)


def _pairs(count: int, rows: np.ndarray, people: np.ndarray, same: bool) -> np.ndarray:
    """i64[count, 2] pairs of `rows`, each pair once: the two that are least used and fit are next.

    Args:
        count: at most as many as there are.
        rows: i64[n]; of equally used pictures the first is taken.
        people: i64[n], person of each.
        same: whether the pairs show one person.
    """
    used, met = np.zeros(len(rows)), [[i] for i in range(len(rows))]
    found: list[tuple[int, int]] = []
    while len(found) < count:
        a = int(used.argmin())
        fits = (people == people[a]) == same
        fits[met[a]] = False
        if not fits.any():
            used[a] = np.inf  # it has met everyone
            continue
        b = int(np.where(fits, used, np.inf).argmin())
        for one, other in ((a, b), (b, a)):
            met[one].append(other)
            used[one] += 1
        found.append((a, b))
    return rows[np.array(found)]
