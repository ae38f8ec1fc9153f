"""A linear probe on frozen embeddings: one field of classes, or many binary attributes at once.

L2-regularised logistic regression (`_logistic.py`), its strength chosen by the balanced accuracy on
a validation part. People are dealt to training, validation and test (60 / 20 / 20) by the hash of
their identity, so nobody in the test part has been seen by the probe.

The probe is fitted with class-balanced weights and decides at its own threshold of 0 (its highest
class) for *balanced* accuracy; an unweighted probe would follow the majority. For plain accuracy
the same logits get the log prior odds of the training part back, the Bayes-optimal shift.

Metrics: `balanced_accuracy` (per attribute (TPR + TNR) / 2, then their mean; for classes the mean
recall) and, for attributes, `balanced_accuracy/<name>` and `mean_accuracy` (the mean of the
attributes' accuracies), for classes `accuracy`; both with `_low` and `_high` (95 %, bootstrap over
people); `<accuracy>@majority`, what the most frequent training class would score; `l2`; `n` test
pictures; `failed` pictures, unreadable or of any part without a finite embedding, left out. An
attribute that has only one class in the training or in the test part is in no mean and is named by
`skipped/<name>` = 1.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _options, _probe
from facejax.evaluators._embed import Flip, drawn, embed_pictures, unusable
from facejax.evaluators._hashing import PARTS, TEST, TRAIN, VALIDATION, split_people
from facejax.evaluators._metrics import unit
from facejax.evaluators._pictures import Pictures, open_pictures
from facejax.evaluators._targets import columns, folder_keys
from facejax.evaluators._tiny import write_people


@dataclass(frozen=True)
class Config:
    """What is probed, and how.

    Attributes:
        path: folder or zip of the pictures.
        labels: beside `path`, its label files; see `facejax/data/labels.py`.
        column: the class, a column of `labels` or a field of `source`; "" probes all attributes.
        identity: beside `path`, who is on a picture: "parent" (the name of its folder), a column of
            `labels`, another label file with a column `identity`, or "none" (every picture another
            person).
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        l2: strengths to choose from.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        bootstrap: draws of the interval; 0 leaves it out.
        seed: of the draws.
    """

    path: str = ""
    labels: str | tuple[str, ...] = ()
    column: str = ""
    identity: str = "parent"
    source: Mapping[str, Any] | None = None
    l2: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    crop: float = 1.0
    flip: Flip = "none"
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Sixty people with two pictures each, and two attributes that their colours decide."""
        images, labels = Path(root) / "images", Path(root) / "attributes.csv"
        rows = []
        for name in write_people(images, 60, 2, "{name}/{number}.png"):
            red, _, blue = np.asarray(Image.open(images / name)).mean(axis=(0, 1))
            rows.append([name, 1 if red > blue else -1, 1 if red + blue > 255 else -1])
        with open(labels, "w", newline="") as file:
            csv.writer(file).writerows([["file", "Warm", "Bright"], *rows])
        return cls(path=str(images), labels=str(labels), l2=(0.1, 0.01), bootstrap=100)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], those with a label.
        targets: names of the columns, A of them.
        classes: how many classes each column has.
        labels: i64[N, A], class numbers; -1 where unknown.
        people: str[N].
        part: i64[N]: TRAIN, VALIDATION or TEST.
        skipped: names of attributes with one class in the training or the test part.
        unread: number of pictures that could not be read, so that their labels are not known.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    targets: tuple[str, ...]
    classes: int
    labels: np.ndarray
    people: np.ndarray
    part: np.ndarray
    skipped: tuple[str, ...]
    unread: int


def prepare(cfg: Config, size: int) -> Data:
    """Reads labels and people and deals people to the parts.

    Raises:
        UserError: an illegal option, files that don't match, a source without the field, too few
            people for three parts, or nothing to tell apart.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.shares("crop", cfg.crop)
    if not cfg.l2 or min(cfg.l2) <= 0:
        raise UserError("l2", f"{cfg.l2} holds no strengths", "give positive numbers")
    if cfg.column == "identity":
        what = "people are dealt to the parts as a whole, so the test part has none that it knows"
        raise UserError("column", what, "use the evaluator knn")
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, **folder_keys(cfg))
    targets, classes, labels, people, readable = columns(cfg, pictures)
    rows = np.flatnonzero((labels >= 0).any(axis=1))
    labels, people = labels[rows], people[rows]
    part = split_people(people.tolist(), PARTS)
    if set(part.tolist()) != {TRAIN, VALIDATION, TEST}:
        what = f"{len(set(people.tolist()))} labelled people don't fill three parts"
        raise UserError(pictures.where, what, "label pictures of more people")
    told = _several(labels[part == TRAIN])
    if not cfg.column:
        told &= _several(labels[part == TEST])
    if not told.any():
        raise UserError(pictures.where, "nothing varies in its parts", "label more pictures")
    return Data(
        size=size,
        pictures=pictures,
        rows=rows,
        targets=tuple(t for t, keep in zip(targets, told) if keep),
        classes=classes,
        labels=labels[:, told],
        people=people,
        part=part,
        skipped=tuple(t for t, keep in zip(targets, told) if not keep),
        unread=int(np.sum(~readable)),
    )


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds every picture, fits the probe and judges the test part.

    `items` holds, for each test picture: `valid` (not failed), `subjects` i64 (person), `label`
    i64[n, A] (-1 unknown), `correct` bool[n, A] at the threshold for accuracy and `balanced`
    bool[n, A] at the one for balanced accuracy (both False where failed).

    Raises:
        UserError: a part is empty because its pictures failed.
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    rows = [np.flatnonzero(usable & (data.part == p)) for p in (TRAIN, VALIDATION, TEST)]
    if not all(map(len, rows)):
        raise unusable(
            data.pictures, f"{np.sum(~usable)} of {len(usable)} pictures failed and a part is empty"
        )
    x, labels = raw.astype(np.float64), data.labels
    train, validation, shown = ((x[r], labels[r]) for r in rows)
    probe = _probe.fit_probe(train, validation, data.classes, bool(cfg.column), cfg.l2)
    test = np.flatnonzero(data.part == TEST)
    valid = usable[test]
    correct, balanced = np.zeros((2, len(test), labels.shape[1]), bool)
    for out, predicted in zip((correct, balanced), probe.predict(shown[0])):
        out[valid] = predicted == shown[1]
    items = {
        "valid": valid,
        "subjects": np.unique(data.people, return_inverse=True)[1][test],
        "label": labels[test],
        "correct": correct,
        "balanced": balanced,
    }
    known = _bootstrap.subset(items, valid)
    name = "accuracy" if cfg.column else "mean_accuracy"
    metrics = {
        **_bootstrap.scores(known, _statistics(name), cfg.bootstrap, cfg.seed),
        f"{name}@majority": _majority(train[1], shown[1], data.classes),
        "l2": float(probe.l2),
        "n": float(np.sum(valid)),
        "failed": float(np.sum(~usable) + data.unread),
        **{f"skipped/{target}": 1.0 for target in data.skipped},
    }
    if not cfg.column:
        each = np.nanmean(_probe.recalls(shown[1], balanced[valid])[0], axis=1)
        metrics |= {f"balanced_accuracy/{t}": float(v) for t, v in zip(data.targets, each)}
    return Result(metrics=metrics, items=items, **drawn(unit(raw), data.people, usable))


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Accuracy and balanced accuracy of `a` minus those of `b` on the pictures both could embed.

    Args:
        a: a result of `run`.
        b: another on the same pictures.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    name = "mean_accuracy" if "mean_accuracy" in a.metrics else "accuracy"
    return _bootstrap.differences(a.items, b.items, _statistics(name), n, seed)


def _statistics(name: str) -> dict[str, _bootstrap.Statistic]:
    return {
        name: lambda items, w: _probe.mean_accuracy(items["label"], items["correct"], w),
        "balanced_accuracy": lambda items, w: _probe.balanced_accuracy(
            items["label"], items["balanced"], w
        ),
    }


def _majority(train: np.ndarray, test: np.ndarray, classes: int) -> float:
    counts = np.stack([np.sum(train == c, axis=0) for c in range(classes)])
    return float(_probe.mean_accuracy(test, test == counts.argmax(axis=0))[0])


def _several(labels: np.ndarray) -> np.ndarray:
    """bool[A]: columns of i64[n, A] with more than one known class."""
    known = labels >= 0
    lowest = np.where(known, labels, np.iinfo(np.int64).max).min(axis=0)
    return known.any(axis=0) & (lowest < labels.max(axis=0))
