"""k-nearest-neighbour classification on frozen embeddings.

Cosine similarity s of unit embeddings; the k nearest labelled pictures vote for their class with
weight exp(s / tau), as in DINO (Caron et al., 2021: k = 20, tau = .07). The class is a field of the
records, by default who is on the picture. Classes of one picture take no part. "leave-one-out" lets
every picture be found among all others; "hash" holds out a share of each class's pictures (at least
one, never all), chosen by the hash of their names.

Metrics: `knn@<k>` (share of right votes), its 95 % interval `knn@<k>_low` and `knn@<k>_high`
(bootstrap over classes, by default people), `n` and `failed` (pictures that could not be read, and
queries that could not be decoded or gave no finite embedding; left out of `n`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _metrics, _options
from facejax.evaluators._embed import Flip, drawn, embed_pictures, unusable
from facejax.evaluators._hashing import hash_share
from facejax.evaluators._pictures import Pictures, labels_of, open_pictures
from facejax.evaluators._tiny import write_people

QUERIES = 256


@dataclass(frozen=True)
class Config:
    """What is classified, and how.

    Attributes:
        path: folder or zip of the pictures.
        labels: beside `path`, its label files (`facejax/data/labels.py`); without them the class is
            the name of a picture's folder.
        column: the class, a column of `labels` or a field of `source`; pictures without a value are
            left out.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        split: "leave-one-out" or "hash".
        test_share: share of each class that "hash" holds out.
        k: numbers of neighbours, each a metric.
        tau: temperature of the votes.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        bootstrap: draws of the interval; 0 leaves it out.
        seed: of the draws.
    """

    path: str = ""
    labels: str | tuple[str, ...] = ()
    column: str = "identity"
    source: Mapping[str, Any] | None = None
    split: Literal["leave-one-out", "hash"] = "leave-one-out"
    test_share: float = 0.2
    k: tuple[int, ...] = (20,)
    tau: float = 0.07
    crop: float = 1.0
    flip: Flip = "none"
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Six people with five pictures each."""
        write_people(Path(root) / "images", 6, 5, "{name}/{number}.png")
        return cls(path=str(Path(root) / "images"), k=(3,))


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], those of classes of two or more.
        classes: names of the classes.
        labels: i64[N], class numbers.
        query: bool[N], pictures to classify.
        gallery: bool[N], pictures that vote; never for themselves.
        unread: number of pictures that could not be read, so that their class is not known.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray
    query: np.ndarray
    gallery: np.ndarray
    unread: int


def prepare(cfg: Config, size: int) -> Data:
    """Reads the labels and splits the pictures.

    Raises:
        UserError: an illegal option, a label file that doesn't fit, no class of two pictures, or
            fewer pictures to vote than k.
    """
    _options.choice("split", cfg.split, ("leave-one-out", "hash"))
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.shares("crop", cfg.crop)
    _options.shares("test_share", cfg.test_share)
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, **_folder(cfg))
    field = pictures.classes(cfg.column, "column")
    numbers, readable = pictures.values(cfg.column)
    counts = np.bincount(numbers[numbers >= 0], minlength=field.classes)
    rows = np.flatnonzero((numbers >= 0) & (counts[numbers] > 1))
    if not rows.size:
        raise UserError(
            pictures.where, "no class has two pictures", "give pictures of people seen twice"
        )
    found, labels = np.unique(labels_of(field, numbers[rows]), return_inverse=True)
    if cfg.split == "hash":
        query = _held_out([pictures.source.name(row) for row in rows], labels, cfg.test_share)
        gallery = ~query
    else:
        query = gallery = np.ones(len(rows), bool)
    most = int(gallery.sum()) - (cfg.split == "leave-one-out")
    if not cfg.k or not all(1 <= k <= most for k in cfg.k):
        raise UserError("k", f"{cfg.k} with {most} pictures to vote", f"give numbers up to {most}")
    unread = int(np.sum(~readable))
    return Data(size, pictures, rows, tuple(found), labels, query, gallery, unread)


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Classifies every query.

    `items` holds, for each query of the split: `valid` (not failed), `subjects` (class number) and
    `knn@<k>`, whether the vote was right (False where failed).
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    embeddings = _metrics.unit(raw)
    queries = np.flatnonzero(data.query)
    valid = usable[queries]
    gallery = np.flatnonzero(data.gallery & usable)
    if not valid.any() or len(gallery) < 2:
        raise unusable(
            data.pictures,
            f"{np.sum(~usable)} of {len(usable)} pictures failed and none is left to compare",
        )
    right = _classify(cfg, data, embeddings, queries[valid], gallery)
    metrics = {"n": float(np.sum(valid)), "failed": float(np.sum(~valid) + data.unread)}
    items = {"valid": valid, "subjects": data.labels[queries]}
    for name, values in right.items():
        metrics[name] = float(np.mean(values))
        items[name] = np.zeros(len(queries), bool)
        items[name][valid] = values
    known = _bootstrap.subset(items, valid)
    metrics |= _bootstrap.bounds(known, _statistics(items), cfg.bootstrap, cfg.seed)
    shown = drawn(embeddings, data.labels, usable, np.array(data.classes)[data.labels])
    return Result(metrics=metrics, items=items, **shown)


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Each `knn@<k>` of `a` minus that of `b` over the queries both could embed.

    Args:
        a: a result of `run`.
        b: another on the same queries.
        n: bootstrap draws over classes.
        seed: of the draws.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    return _bootstrap.differences(a.items, b.items, _statistics(a.items), n, seed)


def _statistics(items: _bootstrap.Items) -> dict[str, _bootstrap.Statistic]:
    return {name: _bootstrap.weighted_mean(name) for name in items if name.startswith("knn@")}


def _folder(cfg: Config) -> dict[str, Any]:
    """The keys of the folder source that `path` and `labels` are short for."""
    if not cfg.labels:
        return {"identity": "parent"}
    named = {"identity": "column"} if cfg.column == "identity" else {"classes": (cfg.column,)}
    return {"labels": cfg.labels, "missing": "unknown", **named}


def _held_out(names: list[str], labels: np.ndarray, share: float) -> np.ndarray:
    order = np.array([hash_share(name) for name in names])
    held = np.zeros(len(names), bool)
    for label in range(labels.max() + 1):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        held[rows[np.argsort(order[rows])[:count]]] = True
    return held


def _classify(
    cfg: Config, data: Data, embeddings: np.ndarray, queries: np.ndarray, gallery: np.ndarray
) -> dict[str, np.ndarray]:
    right: dict[str, list[np.ndarray]] = {f"knn@{k}": [] for k in cfg.k}
    others = len(gallery) - np.isin(queries, gallery).any()
    for start in range(0, len(queries), QUERIES):
        rows = queries[start : start + QUERIES]
        similarity = embeddings[rows] @ embeddings[gallery].T
        similarity[rows[:, None] == gallery] = -np.inf  # nobody votes for themselves
        for k in cfg.k:
            votes = _metrics.knn_votes(
                similarity, data.labels[gallery], len(data.classes), min(k, others), cfg.tau
            )
            right[f"knn@{k}"].append(votes.argmax(axis=1) == data.labels[rows])
    return {name: np.concatenate(parts) for name, parts in right.items()}
