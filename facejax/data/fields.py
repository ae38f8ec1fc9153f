"""How the fields of several sources become one batch: union, renumbering, sentinels.

A field that a record lacks is filled with a sentinel (-1 for class numbers, 0 otherwise, the empty
string; the image itself for `generated`) and `has_<field>` is false there. It is also false for
class number -1 and for attributes or action units of which none is known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from facejax.data.records import Field, Record


@dataclass(frozen=True)
class Union:
    """The fields of several sources together.

    Attributes:
        fields: the union by name.
        conflicts: why a field cannot be merged, by name; it is not in `fields` then.
        convert: for each source, what turns its value of a field into the union's.
    """

    fields: dict[str, Field]
    conflicts: dict[str, str]
    convert: tuple[dict[str, Callable[[Any], Any]], ...]


def union(sources: Mapping[str, Mapping[str, Field]]) -> Union:
    """Merges the fields of sources, given by label.

    Identities are numbered one source after the other, so that people of two sources are never the
    same; other classes and attributes are united by their names. Fields without names must agree
    in shape and number of classes.
    """
    fields, conflicts = {}, {}
    converts = tuple({} for _ in sources)
    for name in dict.fromkeys(name for own in sources.values() for name in own):
        owned = {label: own[name] for label, own in sources.items() if name in own}
        merged, functions = _merge(name, list(owned.values()))
        if merged is None:
            shapes = ", ".join(f"{label} {_describe(f)}" for label, f in owned.items())
            conflicts[name] = f"the sources differ in '{name}' ({shapes})"
            continue
        fields[name] = merged
        by_label = dict(zip(owned, functions))
        for label, convert in zip(sources, converts):
            if by_label.get(label):
                convert[name] = by_label[label]
    return Union(fields, conflicts, converts)


def _merge(name: str, owned: Sequence[Field]) -> tuple[Field | None, Sequence[Callable | None]]:
    first = owned[0]
    unchanged = [None] * len(owned)
    if name == "identity":
        starts = np.cumsum([0] + [f.classes for f in owned])
        people = tuple(n for f in owned for n in f.names) if all(f.names for f in owned) else ()
        merged = Field((), first.dtype, int(starts[-1]), people)
        return merged, [partial(_shift, int(start)) for start in starts[:-1]]
    if all(f.names for f in owned):
        names = tuple(dict.fromkeys(n for f in owned for n in f.names))
        targets = [np.array([names.index(n) for n in f.names]) for f in owned]
        if first.classes:
            return Field((), first.dtype, len(names), names), [
                partial(_look_up, t) for t in targets
            ]
        spread = [partial(_spread, t, len(names), first.dtype) for t in targets]
        return Field((len(names),), first.dtype, names=names), spread
    alike = all(
        (f.shape, f.classes, f.dtype) == (first.shape, first.classes, first.dtype) for f in owned
    )
    return (first if alike else None), unchanged


def _shift(start: int, value: int) -> int:
    return value + start if value >= 0 else -1


def _look_up(target: np.ndarray, value: int) -> int:
    return int(target[value]) if value >= 0 else -1


def _spread(target: np.ndarray, width: int, dtype: str, values: np.ndarray) -> np.ndarray:
    out = np.zeros(width, dtype)
    out[target] = values
    return out


def _describe(field: Field) -> str:
    return f"{field.classes} classes" if field.classes else f"{field.dtype}{list(field.shape)}"


def batch_shape(
    fields: Mapping[str, Field], rows: int, size: int
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype name of every array of a batch that reaches the device.

    Args:
        fields: what the batch holds beside `image`; text stays on the host.
        rows: B.
        size: side of the images and region maps.
    """
    shapes = {"image": ((rows, size, size, 3), "uint8")}
    for name, field in fields.items():
        if field.dtype != "str":
            shapes[name] = ((rows, *_row_shape(name, field, size)), field.dtype)
        shapes[f"has_{name}"] = ((rows,), "bool")
        if field.many:
            shapes[f"count_{name}"] = ((rows,), "int32")
    return shapes


def _row_shape(name: str, field: Field, size: int) -> tuple[int, ...]:
    return {"regions": (size, size), "generated": (size, size, 3)}.get(name, field.shape)


def collate(
    records: Sequence[Record | None],
    fields: Mapping[str, Field],
    size: int,
    images: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Batches decoded records.

    Args:
        records: with `image` u8[size, size, 3]; None makes a row of zeros and sentinels.
        fields: what the batch holds beside `image`.
        size: side of the images and region maps.
        images: u8[B, size, size, 3], which becomes `image`; the image of record b may be row b of
            it already.

    Returns:
        `image` u8[B, size, size, 3]; for each field its array [B, ...] and `has_<field>` bool[B],
        for a set `count_<field>` i32[B] too; text is an object array of str and stays on the host.
    """
    if images is None:
        images = np.empty((len(records), size, size, 3), np.uint8)
    for place, record in zip(images, records, strict=True):
        if record is None:
            place[:] = 0
        elif record["image"].ctypes.data != place.ctypes.data:
            place[:] = record["image"]
    arrays = {"image": images}
    for name, field in fields.items():
        text = field.dtype == "str"
        sentinel = "" if text else -1 if field.classes else 0
        shape = (len(records), *_row_shape(name, field, size))
        values = np.full(shape, sentinel, object if text else field.dtype)
        if name == "generated":
            values[:] = arrays["image"]
        has, counts = np.zeros(len(records), bool), np.zeros(len(records), np.int32)
        for row, record in enumerate(records):
            value = None if record is None else record.get(name)
            if value is None:
                continue
            if field.many:
                counts[row] = min(len(value), field.shape[0])
                values[row, : counts[row]] = value[: counts[row]]
            else:
                values[row] = value
            has[row] = _is_known(name, field, value)
        arrays[name], arrays[f"has_{name}"] = values, has
        if field.many:
            arrays[f"count_{name}"] = counts
    return arrays


def _is_known(name: str, field: Field, value: Any) -> bool:
    if field.classes:
        return value >= 0
    return bool(np.any(value)) if name in ("attributes", "units") else True
