"""Label files (CSV with a `file` column), who is on a picture, and splits by hash."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from facejax.errors import UserError, nearest


@dataclass(frozen=True)
class Table:
    """A label file.

    Attributes:
        path: where it is from.
        files: values of its first column, the names of pictures.
        columns: the other columns by name, values as written, in the file's order.
        lines: line numbers from 1, for messages.
    """

    path: str
    files: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    lines: tuple[int, ...]

    def column(self, name: str, where: str) -> tuple[str, ...]:
        """One column.

        Raises:
            UserError: there is none of that name; `where` is the config key that asked for it.
        """
        if name not in self.columns:
            raise UserError(
                where, f"no column '{name}' in {self.path}", nearest(name, self.columns)
            )
        return self.columns[name]


def read_table(path: str, pictures: str = "", there: Sequence[str] | None = None) -> Table:
    """Reads a CSV whose first column names pictures and whose first line names the columns.

    Args:
        path: of the CSV.
        pictures: where the pictures are, for the message.
        there: the pictures that exist; None doesn't check.

    Raises:
        UserError: no such file, no rows, a row of another length, a picture named twice, or one
            that doesn't exist.
    """
    if not Path(path).is_file():
        raise UserError(path, "no such label file", "give the path of a CSV")
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        rows = [(reader.line_num, row) for row in reader if row]
    if len(rows) < 2:
        raise UserError(path, "no rows", "write a line of column names and a line per picture")
    (_, header), *rows = rows
    exists, seen = None if there is None else set(there), set()
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{path}:{line}", f"{len(row)} columns instead of {len(header)}", "mend the line"
            )
        if row[0] in seen:
            raise UserError(f"{path}:{line}", f"'{row[0]}' for the second time", "remove one line")
        if exists is not None and row[0] not in exists:
            raise UserError(
                f"{path}:{line}",
                f"no picture '{row[0]}' in {pictures}",
                "give the pictures' labels",
            )
        seen.add(row[0])
    files, *columns = zip(*(row for _, row in rows))
    return Table(path, files, dict(zip(header[1:], columns)), tuple(line for line, _ in rows))


def parents(names: Sequence[str]) -> tuple[str, ...]:
    """The folder that each picture lies in, as its person ("Name/Name_0001.jpg" -> "Name").

    Raises:
        UserError: a picture lies in no folder.
    """
    found = tuple(PurePosixPath(n).parent.name for n in names)
    if "" in found:
        raise UserError(
            "identity",
            f"'{names[found.index('')]}' lies in no folder that could name the person",
            "name a column or a CSV instead of 'parent'",
        )
    return found


def hash_share(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone, so that splits survive added pictures."""
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
