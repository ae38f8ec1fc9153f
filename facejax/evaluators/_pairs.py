"""The pairs files of LFW: View 2 (folds) and View 1 (DevTrain, DevTest)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facejax.errors import UserError

Image = tuple[str, int]  # person, number of the picture


@dataclass(frozen=True)
class PairList:
    """The pairs of a file, in its order.

    Attributes:
        left: first picture of each pair.
        right: second picture of each pair.
        same: bool[P], whether the two show one person.
        fold: i64[P], contiguous from 0; None for a file without folds.
        lines: i64[P], line numbers from 1, for messages.
    """

    left: tuple[Image, ...]
    right: tuple[Image, ...]
    same: np.ndarray
    fold: np.ndarray | None
    lines: np.ndarray


def read_pairs(path: str, folds: int | None = None) -> PairList:
    """Reads a pairs file.

    The first line is "folds<TAB>n" or "n": each fold (or the file) has n matched lines
    `name i j`, then n mismatched lines `name1 i name2 j`. Columns are split at tabs, or at blanks
    in a line without tabs.

    Args:
        folds: contiguous folds of a file without such a first line (RFW's); None: there has to be
            one.

    Raises:
        UserError: no such file, no readable header, a line that is neither form, or a count that
            isn't the header's.
    """
    if not Path(path).is_file():
        raise UserError(path, "no such pairs file", "give the path of a pairs.txt")
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if folds and lines and not all(c.isdecimal() for c in lines[0][1].split()):
        return _without_header(path, lines, folds)
    folds, per_kind = _header(path, lines[0][1] if lines else "")
    parsed = [(number, *_pair(path, number, line)) for number, line in lines[1:]]
    expected = 2 * per_kind * (folds or 1)
    if len(parsed) != expected:
        raise UserError(
            path,
            f"its first line promises {expected} pairs but {len(parsed)} follow",
            "fetch the file again or correct the first line",
        )
    numbers, left, right, same = zip(*parsed)
    fold = None if folds is None else np.repeat(np.arange(folds), 2 * per_kind)
    return PairList(left, right, np.array(same), fold, np.array(numbers))


def _without_header(path: str, lines: list[tuple[int, str]], folds: int) -> PairList:
    parsed = [(number, *_pair(path, number, line)) for number, line in lines]
    if len(parsed) % folds:
        what = f"{len(parsed)} pairs without a first line do not make {folds} folds"
        raise UserError(path, what, "fetch the file again, or begin with '<folds> <n>'")
    numbers, left, right, same = zip(*parsed)
    fold = np.repeat(np.arange(folds), len(parsed) // folds)
    return PairList(left, right, np.array(same), fold, np.array(numbers))


def _header(path: str, line: str) -> tuple[int | None, int]:
    columns = line.split()
    if len(columns) not in (1, 2) or not all(c.isdecimal() and int(c) > 0 for c in columns):
        raise UserError(
            f"{path}:1", "no header", "begin with '<folds> <n>' (View 2) or '<n>' (View 1)"
        )
    if len(columns) == 2 and int(columns[0]) < 2:
        raise UserError(f"{path}:1", "one fold", "give two or more, or none ('<n>')")
    return (int(columns[0]) if len(columns) == 2 else None), int(columns[-1])


def _pair(path: str, number: int, line: str) -> tuple[Image, Image, bool]:
    columns = [c.strip() for c in line.strip().split("\t" if "\t" in line else None)]
    match columns:
        case [name, i, j] if i.isdecimal() and j.isdecimal():
            return (name, int(i)), (name, int(j)), True
        case [first, i, second, j] if i.isdecimal() and j.isdecimal():
            return (first, int(i)), (second, int(j)), first == second
    raise UserError(f"{path}:{number}", "not a pair", "write 'name i j' or 'name1 i name2 j'")
