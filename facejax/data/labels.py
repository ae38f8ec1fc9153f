"""Label files: CSV tables with one row per file, and the columns that facejax reads from them.

The column `file` (the first one, if none is called so) names the image by its path within the set,
or by its last part where that is unique. The other columns:

    identity, expression    names of classes; numbered in sorted order; empty = unknown
    age                     years; empty = unknown
    caption                 text; `caption1`, `caption2`, ... hold more of the same image
    x0, y0, x1, y1, ...     landmarks in pixels of the image
    AU1, AU2, AU4, ...      intensities of action units, 0 (at rest) to 5; empty = unknown
    any other               names of classes, if the source is told so; an attribute, if it holds
                            only 1 (yes), -1 (no) and 0 or nothing (unknown); otherwise ignored

A file of captions may name an image in several rows, one caption each, and may be Parquet, where a
cell may also hold a list of captions.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facejax.errors import UserError

_CAPTION = re.compile(r"caption\d*", re.ASCII)
_UNIT = re.compile(r"AU\d+", re.ASCII)
_INTENSITY = {"0": -1, "1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "": 0}
_ATTRIBUTE = {"1": 1, "+1": 1, "-1": -1, "0": 0, "": 0}


@dataclass(frozen=True)
class Table:
    """A label file: `rows[file]` holds one string per column; `columns` lacks the file's own."""

    path: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]


def read_rows(path: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file (UTF-8, one header line), without outer spaces.

    Raises:
        UserError: missing, empty, not UTF-8, a row of another length, two columns of one name.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            lines = [line for line in csv.reader(stream) if line]
    except OSError as error:
        raise UserError(path, error.strerror or "unreadable", "check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(path, f"not a UTF-8 CSV file ({error})", "save it as UTF-8 CSV") from error
    if len(lines) < 2:
        raise UserError(path, "holds no rows", "give a header line and one row per image")
    header, *rows = ([cell.strip() for cell in line] for line in lines)
    if repeated := [c for c, n in Counter(header).items() if n > 1]:
        raise UserError(path, f"has two columns called '{repeated[0]}'", "rename one")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            what = f"row {number} has {len(row)} values under {len(header)} columns"
            raise UserError(path, what, "quote values that hold commas")
    return header, rows


def read_table(path: str) -> Table:
    """Reads a CSV file of one row per image.

    Raises:
        UserError: what `read_rows` refuses, or a file named twice.
    """
    header, lines = read_rows(path)
    key = header.index("file") if "file" in header else 0
    rows = {}
    for cells in lines:
        if cells[key] in rows:
            raise UserError(path, f"names '{cells[key]}' twice", "keep one row per image")
        rows[cells[key]] = tuple(cells[:key] + cells[key + 1 :])
    return Table(path, tuple(header[:key] + header[key + 1 :]), rows)


def match(table: Table, names: Sequence[str], missing: str) -> list[tuple[str, ...] | None]:
    """Finds the row of each image; rows of other files are ignored.

    Args:
        names: the images' paths within the set.
        missing: "error" or "unknown": what an image without a row means.

    Returns:
        One row per image, None where it has none.

    Raises:
        UserError: no row matches, or some image has none and `missing` is "error".
    """
    tails = [name.rsplit("/", 1)[-1] for name in names]
    unique = len(set(tails)) == len(tails)
    rows = [
        table.rows.get(name) or (table.rows.get(tail) if unique else None)
        for name, tail in zip(names, tails)
    ]
    absent = [name for name, row in zip(names, rows) if row is None]
    if len(absent) == len(names):
        what = f"no row matches an image, such as '{names[0]}'"
        raise UserError(
            table.path, what, f"name the files as in the set, not '{next(iter(table.rows))}'"
        )
    check_missing(table.path, absent, missing)
    return rows


def check_missing(where: str, absent: Sequence[str], missing: str) -> None:
    """Raises UserError if images lack their annotation and `missing` is "error"."""
    if absent and missing == "error":
        some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        what = f"{len(absent)} images have no entry: {some}"
        raise UserError(where, what, "complete it or set missing='unknown'")


def rows_by_name(names: Sequence[str]) -> dict[str, int]:
    """Row of each picture, by its path and by every ending of it (in whole parts) that is unique.

    So `Ann/Ann_0001.jpg` is found in a set that holds `lfw/Ann/Ann_0001.jpg`.
    """
    endings: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        parts = name.split("/")
        for start in range(1, len(parts)):
            endings.setdefault("/".join(parts[start:]), []).append(row)
    unique = {ending: rows[0] for ending, rows in endings.items() if len(rows) == 1}
    return unique | {name: row for row, name in enumerate(names)}


def names_by_picture(path: str, titles: Sequence[str], where: str) -> list[tuple[str, ...]]:
    """Reads a list of the names in captions, a CSV file with the columns `picture` and `name`.

    Args:
        titles: of the pictures.
        where: what messages call the set of these.

    Returns:
        The names of each picture, sorted, each once.

    Raises:
        UserError: it can't be read or lacks a column, or names an unknown picture.
    """
    header, lines = read_rows(path)
    for column in ("picture", "name"):
        if column not in header:
            raise UserError(path, f"has no column '{column}'", "give picture and name")
    place, found = {title: p for p, title in enumerate(titles)}, [set() for _ in titles]
    for number, cells in enumerate(lines, start=2):
        told = dict(zip(header, cells))
        if told["picture"] not in place:
            what = f"no picture '{told['picture']}' in {where}"
            raise UserError(f"{path}:{number}", what, "list pictures with faces")
        found[place[told["picture"]]].add(told["name"])
    return [tuple(sorted(names - {""})) for names in found]


def column(table: Table, rows: Sequence[tuple[str, ...] | None], name: str) -> list[str]:
    """The strings of one column, empty for images without a row."""
    position = table.columns.index(name)
    return [row[position] if row else "" for row in rows]


def read_captions(path: str) -> Table:
    """Reads a CSV or `.parquet` file of captions; a row of the table holds all those of its image.

    Raises:
        UserError: it can't be read, or has no column of captions.
    """
    header, lines = (_parquet if path.endswith(".parquet") else read_rows)(path)
    key = header.index("file") if "file" in header else 0
    told = [i for i, name in enumerate(header) if i != key and _CAPTION.fullmatch(name)]
    if not told:
        raise UserError(path, "has no column 'caption'", "rename the column that holds it")
    rows: dict[str, tuple[str, ...]] = {}
    for cells in lines:
        found = (text for i in told for text in _texts(cells[i]))
        rows[cells[key]] = (*rows.get(cells[key], ()), *found)
    return Table(path, ("caption",), {name: texts or ("",) for name, texts in rows.items()})


def captions(texts: Sequence[str]) -> str | tuple[str, ...] | None:
    """The captions of one image as its record holds them; blank ones are none."""
    kept = tuple(text.strip() for text in texts if text.strip())
    return kept if kept[1:] else kept[0] if kept else None


def caption_lines(data: bytes) -> str | tuple[str, ...] | None:
    """The captions of a text file, one a line.

    Raises:
        ValueError: it isn't UTF-8.
    """
    try:
        return captions(data.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"the caption is not UTF-8 ({error})") from error


def _texts(cell: str | list[str] | None) -> list[str]:
    return [cell] if isinstance(cell, str) else [text for text in cell or () if text]


def _parquet(path: str) -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of a Parquet file of strings and lists of strings.

    Raises:
        UserError: pyarrow is not installed, no such file or another one, no rows, or an image that
            is no string.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(path, f"can't be read ({error})", "pip install pyarrow") from error
    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(path, f"no Parquet file ({error})", "copy it again") from error
    strings = pyarrow.types.is_string, pyarrow.types.is_large_string
    for field in table.schema:
        if field.name == "file" or _CAPTION.fullmatch(field.name):
            kind = field.type
            if field.name != "file" and hasattr(kind, "value_type"):
                kind = kind.value_type
            if not any(is_string(kind) for is_string in strings):
                what = f"column '{field.name}' holds {field.type}"
                raise UserError(path, what, "give strings, or lists of strings as captions")
    if not table.num_rows:
        raise UserError(path, "holds no rows", "give one row or more per image")
    return table.column_names, [list(row.values()) for row in table.to_pylist()]


def classes(values: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers names in sorted order: i32[n] (-1 for the empty name) and the names by number."""
    names = tuple(sorted(set(values) - {""}))
    number = {name: k for k, name in enumerate(names)} | {"": -1}
    return np.array([number[value] for value in values], np.int32), names


def attributes(table: Table, skip: Sequence[str]) -> tuple[str, ...]:
    """The columns of `table` that hold attributes; see the module.

    Raises:
        UserError: they are written as 0 and 1, where 0 would silently mean "unknown".
    """
    found, seen = [], set()
    for position, name in enumerate(table.columns):
        values = {row[position] for row in table.rows.values()}
        if name not in skip and values <= _ATTRIBUTE.keys() and values != {""}:
            found.append(name)
            seen |= values
    if "0" in seen and "1" in seen and "-1" not in seen:
        what = f"writes attributes ({found[0]}, ...) as 0 and 1"
        raise UserError(table.path, what, "write -1 for no; 0 means unknown")
    return tuple(found)


def attribute_values(
    table: Table, rows: Sequence[tuple[str, ...] | None], names: Sequence[str]
) -> np.ndarray:
    """i8[n, A] of +1, -1 and 0 (unknown)."""
    values = [[_ATTRIBUTE[v] for v in column(table, rows, name)] for name in names]
    return np.array(values, np.int8).T.reshape(len(rows), len(names))


def units(table: Table) -> tuple[str, ...]:
    """The columns of `table` that hold intensities of action units.

    Columns that never rise above 1, or that hold -1, say no more than attributes do.
    """
    found, seen = [], set()
    for position, name in enumerate(table.columns):
        values = {row[position] for row in table.rows.values()}
        if _UNIT.fullmatch(name) and values <= _INTENSITY.keys() and values != {""}:
            found.append(name)
            seen |= values
    return tuple(found) if seen & {"2", "3", "4", "5"} else ()


def unit_values(
    table: Table, rows: Sequence[tuple[str, ...] | None], names: Sequence[str]
) -> np.ndarray:
    """i8[n, U] of intensities 1 to 5, -1 (at rest) and 0 (unknown)."""
    values = [[_INTENSITY[v] for v in column(table, rows, name)] for name in names]
    return np.array(values, np.int8).T.reshape(len(rows), len(names))


def numbers(
    table: Table, rows: Sequence[tuple[str, ...] | None], names: Sequence[str]
) -> np.ndarray:
    """f32[n, len(names)] of numeric columns, NaN where empty.

    Raises:
        UserError: a value is not a number.
    """
    table_values = [column(table, rows, name) for name in names]
    out = np.full((len(rows), len(names)), np.nan, np.float32)
    for j, values in enumerate(table_values):
        for i, value in enumerate(values):
            try:
                out[i, j] = float(value) if value else np.nan
            except ValueError:
                what = f"'{value}' in column {names[j]} is not a number"
                raise UserError(table.path, what, "correct it") from None
    return out
