"""Records that a run may not draw any more: a list by hand, applied without packing again.

    folder,1234
    people/anna/1.jpg

A line is a record's id as `rejected.csv` and `batches.jsonl` have it, the source's label and the
index within it; what follows a second comma is ignored, so lines of `rejected.csv` may be copied as
they are. Any other line is a record's name, as `rejected.csv` has it, in whichever sources have it.
Ids are found at once; names are looked up in all sources, record by record.
"""

import csv

import numpy as np

from facejax.data.mixture import Mixture
from facejax.data.rejected import HEADER
from facejax.errors import UserError


def read_blocklist(path: str, mixture: Mixture) -> np.ndarray:
    """Sorted record numbers i64[n], counted through all sources.

    Raises:
        UserError: no such file, an id or a name that no source has, or every record of a source.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.reader(stream)
            lines = [(reader.line_num, row) for row in reader if row and tuple(row) != HEADER]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = getattr(error, "strerror", None) or f"not a UTF-8 text file ({error})"
        raise UserError(path, what, "give a text file with one record a line") from error
    starts = dict(zip(mixture.labels, mixture.starts))
    sizes = dict(zip(mixture.labels, map(len, mixture.sources)))
    numbers, names = [], {}
    for line, row in lines:
        label, index = row[0], row[1] if len(row) > 1 else ""
        if label in starts and index.isdecimal():
            if int(index) >= sizes[label]:
                what = f"'{label}' has no record {index}, only {sizes[label]} of them"
                raise UserError(f"{path}:{line}", what, "correct the line")
            numbers.append(starts[label] + int(index))
        else:
            names.setdefault(",".join(row), line)
    if names:
        found = set()
        for source, start in zip(mixture.sources, mixture.starts):
            for index in range(len(source)):
                if (name := source.name(index)) in names:
                    numbers.append(start + index)
                    found.add(name)
        for name, line in names.items():
            if name not in found:
                what, remedy = f"no record '{name}'", "write LABEL,INDEX or a name of a record"
                raise UserError(f"{path}:{line}", what, remedy)
    blocked = np.unique(np.array(numbers, np.int64))
    for label, start in starts.items():
        if np.sum((blocked >= start) & (blocked < start + sizes[label])) == sizes[label]:
            raise UserError(path, f"blocks every record of '{label}'", "leave the source out")
    return blocked
