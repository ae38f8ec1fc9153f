"""Lists of composed queries: a reference picture, a text that says what changes, what it becomes.

A CSV file with the columns `reference` (a picture), `text` and `target` (a picture, or several with
| between); and, if wanted, `category` and `subset` (pictures with | between).
"""

from collections.abc import Sequence
from typing import NamedTuple

from facejax.data import labels as tables
from facejax.errors import UserError

SEVERAL = "|"


class Query(NamedTuple):
    """One row of a list; pictures by number.

    Attributes:
        reference: which picture changes.
        text: how.
        target: what it then is, any of these.
        category: "" without.
        subset: among which it is looked for, without the reference; () without.
    """

    reference: int
    text: str
    target: tuple[int, ...]
    category: str = ""
    subset: tuple[int, ...] = ()


def read(path: str, names: Sequence[str], where: str) -> list[Query]:
    """Reads a list and finds its pictures.

    Args:
        names: of the pictures, in order.
        where: what messages call the set of these.

    Raises:
        UserError: it can't be read or lacks a column, or a query of a picture that isn't there,
            whose target is its reference or not in its subset, or without a text.
    """
    header, lines = tables.read_rows(path)
    for column in ("reference", "text", "target"):
        if column not in header:
            raise UserError(path, f"has no column '{column}'", "give reference, text and target")
    row = tables.rows_by_name(names)
    queries = []
    for number, cells in enumerate(lines, start=2):
        told = {"category": "", "subset": "", **dict(zip(header, cells))}
        at = f"{path}:{number}"
        found = {}
        for column in ("reference", "target", "subset"):
            pictures = [name.strip() for name in told[column].split(SEVERAL) if name.strip()]
            for name in pictures:
                if name not in row:
                    what = f"no picture '{name}' in {where}"
                    raise UserError(at, what, "give the pictures these queries belong to")
            found[column] = tuple(row[name] for name in pictures)
        if len(found["reference"]) != 1 or not found["target"] or not told["text"]:
            raise UserError(at, "a query without reference, text or target", "complete it")
        (reference,) = found["reference"]
        subset = tuple(p for p in found["subset"] if p != reference)
        if reference in found["target"]:
            raise UserError(at, "the target is the reference", "name what it becomes")
        if subset and not {*found["target"]} <= {*subset}:
            raise UserError(at, "a target is not in the subset", "add it")
        queries.append(Query(reference, told["text"], found["target"], told["category"], subset))
    without = [n for n, query in enumerate(queries, start=2) if not query.subset]
    if 0 < len(without) < len(queries):
        raise UserError(f"{path}:{without[0]}", "has no subset, as others have", "give all or none")
    return queries
