"""Which of the names in a picture's caption belongs to which of its faces?

A record is one face; the field `picture` says in which picture it is and the field `name` who it
is, where that is known. A picture's names come from the list `names`, or from its own faces. Faces
and names of a picture are two padded sets; each face takes the name with the highest product of
unit embeddings, the null name among them (SECLA by its code, tingyu215/SECLA: inference is the
arg-max per face including NONAME). Here the null name is a text as any other, and faces and names
are normalised, where SECLA takes raw products and learns the null name: a departure that the joint
space asks for.

A face whose name the caption lacks should take the null name. `precision` is the share of right
ones among the names given (the null name is none), `recall` the share of the faces with a name in
the caption that got it, `f1` their harmonic mean; `null_recall` and `null_precision` are those of
the null name, left out where it is never right or never given. `accuracy` is over all faces. Faces
of all pictures count alike. `f1@chance` is what a name drawn at random from the picture's, or none,
would reach on average. Intervals draw pictures with replacement; `n` and `failed` faces.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facejax.data import labels as tables
from facejax.errors import UserError
from facejax.evaluators import Joint, Result, _bootstrap, _metrics, _options
from facejax.evaluators._embed import drawn, embed_pictures
from facejax.evaluators._pictures import Pictures, labels_of, open_pictures

JOINT = True

NULL = 0  # place of the null name in every picture's set
_PICTURES_AT_ONCE = 256


@dataclass(frozen=True)
class Config:
    """Whose faces, and which names.

    Attributes:
        path: folder or zip of the faces.
        labels: beside `path`, its label files; see `facejax/data/labels.py`.
        source: the faces instead of `path`, like an entry of `config.data.sources`.
        picture: field of classes: the picture that a face is in.
        name: field of classes: who it is; unknown where the caption can't name it.
        names: a CSV with the columns `picture` and `name`, a line for each name in a caption; ""
            takes the names of a picture's own faces.
        template: text of a name.
        null: text of the null name.
        crop: share of the centred square of each face that is kept.
        bootstrap: draws of the intervals; 0 leaves them out.
        seed: of the draws.
    """

    path: str = ""
    labels: str | tuple[str, ...] = ()
    source: Mapping[str, Any] | None = None
    picture: str = "picture"
    name: str = "name"
    names: str = ""
    template: str = "{}"
    null: str = "NONAME"
    crop: float = 1.0
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Four synthetic scenes of three people, each seen twice."""
        source = {"name": "synthetic", "n": 24, "identities": 12, "size": 32, "clip": 3}
        return cls(source=source, picture="clip", name="identity", bootstrap=50)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the faces in pixels.
        pictures: where the faces are.
        rows: i64[F], faces that are in a picture.
        picture: i64[F], 0 to P - 1.
        place: i64[F], of the right name among those of the picture; `NULL` where it lacks it.
        texts: all names, the null name first.
        listed: i64[P, N], names of each picture as places in `texts`, the null name first; -1 pads.
        people: str[F], names of the faces, "" where unknown.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    picture: np.ndarray
    place: np.ndarray
    texts: tuple[str, ...]
    listed: np.ndarray
    people: np.ndarray


def prepare(cfg: Config, size: int) -> Data:
    """Reads faces, pictures and names.

    Raises:
        UserError: an illegal option, a source without the fields, a list that can't be read or that
            names an unknown picture, or no face whose name is in its caption.
    """
    _options.shares("crop", cfg.crop)
    if cfg.template.count("{}") != 1:
        raise UserError("template", f"'{cfg.template}' has no one place", "write {} for the name")
    files = (cfg.labels,) if isinstance(cfg.labels, str) else cfg.labels
    folder = {"labels": files, "classes": (cfg.picture, cfg.name), "missing": "unknown"}
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity="none", **folder)
    fields = [pictures.classes(getattr(cfg, key), key) for key in ("picture", "name")]
    numbers, who, _ = pictures.values(cfg.picture, cfg.name)
    rows = np.flatnonzero(numbers >= 0)
    found, picture = np.unique(numbers[rows], return_inverse=True)
    people = np.where(who[rows] >= 0, labels_of(fields[1], who[rows]), "")
    titles = labels_of(fields[0], found).tolist()
    captions = _captions(cfg, titles, picture, people, pictures.where)
    texts = (cfg.null, *sorted({name for names in captions for name in names}))
    number = {name: k for k, name in enumerate(texts[1:], 1)}
    listed = np.full((len(titles), 1 + max(map(len, captions))), -1)
    listed[:, NULL] = 0
    for row, names in zip(listed, captions):
        row[1 : 1 + len(names)] = [number[name] for name in names]
    own = np.array([number.get(name, -2) for name in people.tolist()])
    place = np.argmax(listed[picture] == own[:, None], axis=1)  # 0 where there is none
    if not (place != NULL).any():
        what = "no face's name is in the caption of its picture"
        raise UserError(pictures.where, what, "check that both spell names and pictures alike")
    return Data(size, pictures, rows, picture, place, texts, listed, people)


def run(cfg: Config, data: Data, joint: Joint) -> Result:
    """Embeds every face and every name once.

    `items` holds, for each face: `valid` (not failed), `subjects` i64 (its picture), `named` (its
    name is in the caption), `given` (it was given a name) and `right` (the right one, or rightly
    none); the last two are False where it failed.

    Raises:
        UserError: no face with a name in its caption is left.
    """
    found, valid = embed_pictures(joint.image, data.pictures, data.rows, data.size)
    texts = [data.texts[0], *(cfg.template.format(name) for name in data.texts[1:])]
    names = _metrics.unit(joint.text(texts))
    faces = _metrics.unit(found)
    place = _assigned(faces, names, data)
    named = data.place != NULL
    if not (valid & named).any():
        what = "no face with a name in its caption is left"
        raise UserError(data.pictures.where, what, "check that the faces open")
    items = {
        "valid": valid,
        "subjects": data.picture,
        "named": named,
        "given": valid & (place != NULL),
        "right": valid & (place == data.place),
    }
    known = _bootstrap.subset(items, valid)
    metrics = _bootstrap.scores(known, STATISTICS, cfg.bootstrap, cfg.seed)
    kept, none = ~known["given"], ~known["named"]
    if none.any():
        metrics["null_recall"] = float(np.mean(known["right"][none]))
    if kept.any():
        metrics["null_precision"] = float(np.mean(known["right"][kept]))
    choices = np.sum(data.listed >= 0, axis=1)[data.picture[valid]]
    right = np.sum(known["named"] / choices)
    metrics["f1@chance"] = float(2 * right / (np.sum(1 - 1 / choices) + np.sum(known["named"])))
    metrics |= {"n": float(np.sum(valid)), "failed": float(np.sum(~valid))}
    shown = drawn(faces, data.people, valid & (data.people != ""))
    return Result(metrics=metrics, items=items, **shown)


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Metrics of `a` minus those of `b` on the faces both could embed, with 95 % intervals.

    Args:
        a: a result of `run`.
        b: another on the same faces.
        n: bootstrap draws over pictures.
        seed: of the draws.
    """
    return _bootstrap.differences(a.items, b.items, STATISTICS, n, seed)


def _ratio(of: str) -> _bootstrap.Statistic:
    """Right names over the names given, over the faces with a name, or over the mean of both."""

    def statistic(items: _bootstrap.Items, weights: np.ndarray) -> np.ndarray:
        given, named = (weights @ items[name].astype(np.float64) for name in ("given", "named"))
        right = weights @ (items["right"] & items["named"]).astype(np.float64)
        below = {"precision": given, "recall": named, "f1": (given + named) / 2}[of]
        return np.where(below > 0, right / np.where(below > 0, below, 1), 0.0)

    return statistic


STATISTICS: dict[str, _bootstrap.Statistic] = {
    **{name: _ratio(name) for name in ("precision", "recall", "f1")},
    "accuracy": _bootstrap.weighted_mean("right"),
}
"""Those with intervals."""


def _assigned(faces: np.ndarray, names: np.ndarray, data: Data) -> np.ndarray:
    """The place i64[F] of the name that each face takes among those of its picture.

    Args:
        faces: f64[F, D].
        names: f64[T, D].
    """
    place = np.zeros(len(faces), np.int64)
    for start in range(0, len(data.listed), _PICTURES_AT_ONCE):
        block = np.flatnonzero((data.picture >= start) & (data.picture < start + _PICTURES_AT_ONCE))
        listed = data.listed[data.picture[block]]
        score = np.einsum("fd,fnd->fn", faces[block], names[listed])
        place[block] = np.argmax(np.where(listed >= 0, score, -np.inf), axis=1)
    return place


def _captions(
    cfg: Config, titles: list[str], picture: np.ndarray, people: np.ndarray, where: str
) -> list[tuple[str, ...]]:
    """The names of each picture, sorted, each once.

    Raises:
        UserError: a list that can't be read, or an unknown picture in it.
    """
    if cfg.names:
        return tables.names_by_picture(cfg.names, titles, where)
    own = [people[picture == p] for p in range(len(titles))]
    return [tuple(sorted({*names.tolist()} - {""})) for names in own]
