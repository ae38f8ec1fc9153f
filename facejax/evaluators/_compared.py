"""Pictures that are compared in pairs: of a pairs file, or drawn from who is on the pictures."""

from dataclasses import dataclass

import numpy as np

from facejax.data.labels import rows_by_name
from facejax.errors import UserError
from facejax.evaluators._drawn_pairs import draw_pairs
from facejax.evaluators._pairs import PairList, read_pairs
from facejax.evaluators._pictures import Pictures, labels_of

TEMPLATE = "{name}/{name}_{number:04d}.jpg"
"""LFW's names of pictures."""


@dataclass(frozen=True)
class Compared:
    """Pairs of pictures.

    Attributes:
        rows: i64[N], each picture of a pair once.
        people: str[N], person of each picture.
        pairs: i64[P, 2], positions in `rows`.
        same: bool[P].
        fold: i64[P], or None without folds.
    """

    rows: np.ndarray
    people: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    fold: np.ndarray | None


def are_drawn(pairs: str | int) -> bool:
    """Whether the key `pairs` asks for drawn pairs instead of naming a file."""
    return pairs == "auto" or isinstance(pairs, int)


def compare(pictures: Pictures, pairs: str | int, template: str, seed: int) -> Compared:
    """Reads or draws pairs and checks that every picture is there.

    Args:
        pictures: with the field `identity` where pairs are drawn.
        pairs: a file (see `_pairs.read_pairs`), a number of pairs to draw, or "auto".
        template: picture of a line of the file, from `name` and `number`.
        seed: of drawn pairs.

    Raises:
        UserError: an unreadable pairs file, a picture that is missing, pairs of one kind only, or
            too few people to draw.
    """
    if are_drawn(pairs):
        field = pictures.classes("identity", "pairs")
        numbers, _ = pictures.values("identity")
        wanted = None if pairs == "auto" else pairs
        drawn, same, fold = draw_pairs(pictures.names(), numbers, wanted, seed)
        return joined((labels_of(field, numbers[drawn]), drawn, same, fold), str(pairs))
    return joined(located(pictures, pairs, read_pairs(pairs), template), pairs)


def located(pictures: Pictures, path: str, listed: PairList, template: str) -> tuple:
    """People str[P, 2], picture rows i64[P, 2], same bool[P] and folds of a file's pairs.

    Raises:
        UserError: a picture that is missing.
    """
    row = rows_by_name(pictures.names())
    pairs = np.empty((len(listed.same), 2), np.int64)
    for p, (pair, line) in enumerate(zip(zip(listed.left, listed.right), listed.lines)):
        for side, (person, number) in enumerate(pair):
            name = _file_name(template, person, number)
            if name not in row:
                raise UserError(
                    f"{path}:{line}",
                    f"no picture '{name}' in {pictures.where}",
                    "give the pictures these pairs belong to, or set 'template' to their names",
                )
            pairs[p, side] = row[name]
    people = np.array([[name for name, _ in pair] for pair in zip(listed.left, listed.right)])
    return people, pairs, listed.same, listed.fold


def joined(found: tuple, where: str) -> Compared:
    """What `located` gave, with each picture once.

    Raises:
        UserError: pairs of one kind only, in the file `where`.
    """
    people, pairs, same, fold = found
    if same.all() or not same.any():
        raise UserError(where, "pairs of one kind only", "give matched and mismatched pairs")
    rows, first, positions = np.unique(pairs, return_index=True, return_inverse=True)
    return Compared(rows, people.ravel()[first], positions.reshape(-1, 2), same, fold)


def _file_name(template: str, person: str, number: int) -> str:
    try:
        return template.format(name=person, number=number)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            "template", f"'{template}' can't be filled ({error})", "use {name} and {number:04d}"
        ) from None
