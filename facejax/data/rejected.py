"""`rejected.csv`: which records were left out, and why, each one once."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from facejax.errors import TrainingFailed

HEADER = ("source", "index", "name", "reason")
Rejection = tuple[str, int, str, str]
"""Source label, index within the source, name, reason."""


class Rejected:
    """Collects rejections over a run in a CSV file; what the file holds already still counts.

    Attributes:
        count: distinct records rejected so far.
    """

    def __init__(self, path: Path):
        self._path = Path(path)
        self._seen = set()
        if self._path.exists():
            with open(self._path, newline="", encoding="utf-8") as stream:
                for row in list(csv.reader(stream))[1:]:
                    if len(row) == len(HEADER):  # a line cut off by a kill is written again
                        self._seen.add((row[0], int(row[1])))

    @property
    def count(self) -> int:
        return len(self._seen)

    def add(self, rejections: Iterable[Rejection], write: bool = True) -> None:
        """Appends those not yet in the file; without `write` they are only counted."""
        fresh = {r[:2]: r for r in rejections if r[:2] not in self._seen}
        self._seen |= fresh.keys()
        if not fresh or not write:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        empty = not self._path.exists()
        with open(self._path, "a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([HEADER] * empty + list(fresh.values()))

    def check(self, max_share: float, records: int) -> None:
        """Raises TrainingFailed if more than the share `max_share` of all `records` are bad."""
        if self.count > max_share * records:
            what = f"{self.count} of {records} records are broken, more than {max_share:.3%}"
            raise TrainingFailed(str(self._path), what, "repair them or raise max_bad_share")

    @staticmethod
    def write(path: Path, rejections: Sequence[Rejection]) -> None:
        """Writes a whole file at once, with nothing but the header if there are none."""
        scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with open(scratch, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([HEADER, *rejections])
        os.replace(scratch, path)
