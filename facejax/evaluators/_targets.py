"""What is told of pictures: one field of classes, or all attributes at once."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from facejax.errors import UserError
from facejax.evaluators._pictures import Pictures, labels_of


class Labelled(Protocol):
    """The keys of an evaluator that say where labels are.

    Attributes:
        labels: beside `path`, its label files.
        column: the class, a column of `labels` or a field of `source`; "" is all attributes.
        identity: beside `path`, "parent", a column of `labels`, another label file, or "none".
    """

    labels: str | tuple[str, ...]
    column: str
    identity: str


def folder_keys(cfg: Labelled) -> dict[str, Any]:
    """The keys of the folder source that `path`, `labels` and `identity` are short for."""
    files = (cfg.labels,) if isinstance(cfg.labels, str) else cfg.labels
    if cfg.identity in ("parent", "none"):
        who = {"identity": cfg.identity}
    elif Path(cfg.identity).is_file():
        files, who = (*files, cfg.identity), {"identity": "column"}
    else:
        who = {"identity": "column", "identity_column": cfg.identity}
    classes = (cfg.column,) if cfg.column else ()
    return {"labels": tuple(filter(None, files)), "classes": classes, "missing": "unknown", **who}


def columns(cfg: Labelled, pictures: Pictures) -> tuple:
    """Names and number of classes of the targets, i64[N, A], people str[N] and bool[N] readable.

    Unknown labels are -1; a picture of nobody known is a person of its own.

    Raises:
        UserError: the pictures have no such field, or no attributes.
    """
    known = pictures.source.fields
    if cfg.column:
        targets, classes = (cfg.column,), pictures.classes(cfg.column, "column").classes
    elif "attributes" in known:
        targets, classes = known["attributes"].names, 2
        targets = targets or tuple(map(str, range(*known["attributes"].shape)))
    else:
        remedy = "give label files with attributes, or a 'column' of classes"
        raise UserError(pictures.where, "no attributes", remedy)
    field, people = cfg.column or "attributes", np.array(pictures.names())
    if "identity" in known:
        labels, numbers, readable = pictures.values(field, "identity")
        people = np.where(numbers >= 0, labels_of(known["identity"], numbers), people)
    else:
        labels, readable = pictures.values(field)
    if not cfg.column:
        labels = np.where(labels == 0, -1, (labels + 1) // 2)
    return targets, classes, labels.reshape(len(people), -1), people, readable
