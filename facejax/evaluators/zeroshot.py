"""Classification by words alone: one field of classes, or many binary attributes at once.

Each class has phrases ("a man", "a person without a beard"), each phrase is put into every
template, and the class is the mean of its texts' embeddings (normalise, mean, normalise). A picture
belongs to the class of the highest cosine. One whose highest cosine is shared is undecided, which
is wrong whatever the label. Without `prompts` the phrases are made of the labels' names, in the
words that captions from labels use (`facejax/data/caption_words.py`).

Metrics: `balanced_accuracy` (for classes the mean recall; for attributes (TPR + TNR) / 2, then the
mean) and `accuracy` or, for attributes, `mean_accuracy`; both with `_low` and `_high` (95 %,
bootstrap over people); `chance`, the balanced accuracy of guessing; `<accuracy>@majority`, of the
most frequent class each time; `recall/<class>` or `balanced_accuracy/<name>`; `undecided`, share of
decisions; `n` pictures; `failed`, unreadable or without a finite embedding, left out. An attribute
with one class only is in no mean and is named by `skipped/<name>` = 1.

`answers` are texts that some model generated for the pictures. The class that a text names is
looked up by its phrases (`_prompts.parse_answer`); a text that names none or several is wrong.
`answers_<accuracy>`, `answers_balanced_accuracy`, and `unparsed`, share of decisions. They do not
depend on the encoder.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from facejax.data import labels as tables
from facejax.errors import UserError
from facejax.evaluators import Joint, Result, _bootstrap, _options, _probe, _prompts
from facejax.evaluators._embed import drawn, embed_pictures
from facejax.evaluators._hashing import PARTS, TEST, split_people
from facejax.evaluators._metrics import unit
from facejax.evaluators._pictures import Pictures, open_pictures
from facejax.evaluators._ranks import TIE
from facejax.evaluators._targets import columns, folder_keys
from facejax.evaluators._tiny import write_people

JOINT = True
UNDECIDED = -2

Part = Literal["all", "test"]


@dataclass(frozen=True)
class Config:
    """What is told apart, and by which words.

    Attributes:
        path: folder or zip of the pictures.
        labels: beside `path`, its label files; see `facejax/data/labels.py`.
        column: the class, a column of `labels` or a field of `source`; "" is all attributes.
        identity: beside `path`, who is on a picture: "parent" (the name of its folder), a column of
            `labels`, another label file with a column `identity`, or "none" (every picture another
            person).
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        part: "test" looks only at the people that the test part of `linear_probe` shows.
        templates: texts with {} where a phrase goes.
        prompts: class -> phrases; attribute -> (phrases of presence, phrases of absence).
        answers: CSV file of generated texts, with a column `answer`.
        crop: share of the centred square of each picture that is kept.
        bootstrap: draws of the interval; 0 leaves it out.
        seed: of the draws.
    """

    path: str = ""
    labels: str | tuple[str, ...] = ()
    column: str = ""
    identity: str = "parent"
    source: Mapping[str, Any] | None = None
    part: Part = "all"
    templates: tuple[str, ...] = _prompts.TEMPLATES
    prompts: Mapping[str, Any] = field(default_factory=dict)
    answers: str = ""
    crop: float = 1.0
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Twenty people with two pictures each, two attributes, and answers about them."""
        root = Path(root)
        labels, answers = [["file", "Warm", "Smiling"]], [["file", "answer"]]
        for i, name in enumerate(write_people(root / "images", 20, 2, "{name}/{number}.png")):
            red, _, blue = np.asarray(Image.open(root / "images" / name)).mean(axis=(0, 1))
            labels.append([name, 1 if red > blue else -1, 1 if i % 3 else -1])
            answers.append([name, "it shows a person with warm, not smiling"])
        for title, rows in (("labels", labels), ("answers", answers)):
            with open(root / f"{title}.csv", "w", newline="") as file:
                csv.writer(file).writerows(rows)
        files = {title: str(root / f"{title}.csv") for title in ("labels", "answers")}
        return cls(path=str(root / "images"), bootstrap=100, **files)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], those with a label.
        targets: names of the columns, A of them.
        phrases: of each column's classes.
        classes: names of the classes of a single column.
        labels: i64[N, A], class numbers; -1 where unknown.
        people: str[N].
        told: i64[N, A], classes that the answers name, UNPARSED where they name none; or None.
        skipped: names of attributes with one class.
        unread: number of pictures that could not be read, so that their labels are not known.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    targets: tuple[str, ...]
    phrases: tuple[_prompts.Phrases, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    people: np.ndarray
    told: np.ndarray | None
    skipped: tuple[str, ...]
    unread: int


def prepare(cfg: Config, size: int) -> Data:
    """Reads the labels and makes the phrases.

    Raises:
        UserError: an illegal option, files that don't match, a source without the field, a label
            that the prompts don't cover, or nothing to tell apart.
    """
    _options.choice("part", cfg.part, get_args(Part))
    _options.shares("crop", cfg.crop)
    _prompts.check_templates(cfg.templates)
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, **folder_keys(cfg))
    targets, classes, labels, people, readable = columns(cfg, pictures)
    names: tuple[str, ...] = ()
    if cfg.column:
        names = pictures.classes(cfg.column, "column").names or tuple(map(str, range(classes)))
        phrases = (_prompts.of_classes(names, cfg.prompts),)
    else:
        phrases = _prompts.of_attributes(targets, cfg.prompts)
    rows = np.flatnonzero((labels >= 0).any(axis=1))
    if cfg.part == "test":
        rows = rows[split_people(people[rows].tolist(), PARTS) == TEST]
    labels = labels[rows]
    varied = np.array([len(set(y[y >= 0].tolist())) > 1 for y in labels.T])
    if not varied.any():
        raise UserError(pictures.where, "nothing varies in its labels", "label more pictures")
    kept = np.flatnonzero(varied)
    phrases = tuple(phrases[k] for k in kept)
    shown = [pictures.source.name(row) for row in rows]
    return Data(
        size=size,
        pictures=pictures,
        rows=rows,
        targets=tuple(targets[k] for k in kept),
        phrases=phrases,
        classes=names,
        labels=labels[:, kept],
        people=people[rows],
        told=_told(cfg.answers, shown, phrases) if cfg.answers else None,
        skipped=tuple(t for t, keep in zip(targets, varied) if not keep),
        unread=int(np.sum(~readable)),
    )


def run(cfg: Config, data: Data, joint: Joint) -> Result:
    """Compares every picture with the classes' texts.

    `items` holds, for each picture: `valid` (not failed), `subjects` i64 (person), `label`
    i64[n, A] (-1 unknown) and `correct` bool[n, A] (False where failed).
    """
    raw, valid = embed_pictures(joint.image, data.pictures, data.rows, data.size)
    x = unit(raw)
    decided = np.full(data.labels.shape, UNDECIDED)
    for column, phrases in enumerate(data.phrases):
        cosines = x @ _prompts.embed_phrases(joint, cfg.templates, phrases).T
        decided[:, column] = _highest(cosines)
    items = {
        "valid": valid,
        "subjects": np.unique(data.people, return_inverse=True)[1],
        "label": data.labels,
        "correct": (decided == data.labels) & valid[:, None],
    }
    known = _bootstrap.subset(items, valid)
    name = "accuracy" if cfg.column else "mean_accuracy"
    at_stake = (data.labels >= 0) & valid[:, None]
    metrics = {
        **_bootstrap.scores(known, _statistics(name), cfg.bootstrap, cfg.seed),
        "chance": float(np.mean([1 / len(p) for p in data.phrases])),
        f"{name}@majority": _majority(known["label"]),
        "undecided": float(np.mean(decided[at_stake] == UNDECIDED)),
        "n": float(np.sum(valid)),
        "failed": float(np.sum(~valid) + data.unread),
        **_each(data, known),
        **{f"skipped/{target}": 1.0 for target in data.skipped},
    }
    if data.told is not None:
        told = {**known, "correct": data.told[valid] == known["label"]}
        values = _bootstrap.scores(told, _statistics(name), 0, cfg.seed)
        metrics |= {f"answers_{metric}": value for metric, value in values.items()}
        metrics["unparsed"] = float(np.mean(data.told[at_stake] == _prompts.UNPARSED))
    return Result(metrics=metrics, items=items, **drawn(x, data.people, valid))


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


def _highest(cosines: np.ndarray) -> np.ndarray:
    """The class i64[n] of the highest of f64[n, C], UNDECIDED where two share it."""
    top = cosines.max(axis=1, keepdims=True)
    alone = np.sum(cosines >= top - TIE, axis=1) == 1
    return np.where(alone, cosines.argmax(axis=1), UNDECIDED)


def _statistics(name: str) -> dict[str, _bootstrap.Statistic]:
    return {
        name: lambda items, w: _probe.mean_accuracy(items["label"], items["correct"], w),
        "balanced_accuracy": lambda items, w: _probe.balanced_accuracy(
            items["label"], items["correct"], w
        ),
    }


def _each(data: Data, items: _bootstrap.Items) -> dict[str, float]:
    """Recalls of the classes that occur, or balanced accuracies of the attributes."""
    cells = _probe.recalls(items["label"], items["correct"])[0]
    if data.classes:
        return {
            f"recall/{name}": float(v) for name, v in zip(data.classes, cells[0]) if np.isfinite(v)
        }
    means = np.nanmean(cells, axis=1)
    return {f"balanced_accuracy/{name}": float(v) for name, v in zip(data.targets, means)}


def _majority(labels: np.ndarray) -> float:
    counts = [np.bincount(column[column >= 0]) for column in labels.T]
    return float(np.mean([c.max() / c.sum() for c in counts]))


def _told(path: str, names: list[str], phrases: tuple[_prompts.Phrases, ...]) -> np.ndarray:
    table = tables.read_table(path)
    if "answer" not in table.columns:
        raise UserError(path, "has no column 'answer'", "rename the column that holds them")
    answers = tables.column(table, tables.match(table, names, "unknown"), "answer")
    bare = [_prompts.bare(p) for p in phrases]
    return np.array([[_prompts.parse_answer(a, p) for p in bare] for a in answers])
