"""Grouping faces by who is on them, without knowing how many people there are.

Pictures are linked where their cosine is above a threshold, and connected pictures are a cluster
(single linkage). The people are split in halves by the hash of their names: the threshold that is
best on one half, by pairwise F, judges the other, and the other way round; numbers are means of
both.

Metrics: `pairwise_f` (F of the pairs that are put together), `bcubed_f` (F of the precision and the
recall of each picture, B-cubed; Amigo et al. 2009), `nmi` (mutual information over the arithmetic
mean of the entropies), `clusters` over people, `threshold`, `n` pictures, `failed` ones (that could
not be read or have no finite embedding).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _metrics, _options
from facejax.evaluators._embed import Flip, drawn, embed_pictures, unusable
from facejax.evaluators._hashing import hash_share
from facejax.evaluators._pictures import Pictures, labels_of, open_pictures
from facejax.evaluators._tiny import write_people

STEPS = 100  # thresholds that are tried


@dataclass(frozen=True)
class Config:
    """What is clustered.

    Attributes:
        path: folder or zip of the pictures, in a folder per person.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
    """

    path: str = ""
    source: Mapping[str, Any] | None = None
    crop: float = 1.0
    flip: Flip = "none"

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Ten people with five pictures each."""
        write_people(Path(root) / "images", 10, 5, "{name}/{number}.png")
        return cls(path=str(Path(root) / "images"))


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], those with a known person.
        people: names.
        labels: i64[N], places in `people`.
        half: i64[N], 0 or 1, by person.
        unread: number of pictures that could not be read.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    people: tuple[str, ...]
    labels: np.ndarray
    half: np.ndarray
    unread: int


def prepare(cfg: Config, size: int) -> Data:
    """Reads who is on the pictures.

    Raises:
        UserError: an illegal option, or fewer than four people.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.shares("crop", cfg.crop)
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity="parent")
    field = pictures.classes("identity", "source")
    numbers, readable = pictures.values("identity")
    rows = np.flatnonzero(numbers >= 0)
    people, labels = np.unique(labels_of(field, numbers[rows]), return_inverse=True)
    if len(people) < 4:
        raise UserError(pictures.where, f"{len(people)} people", "give four or more")
    order = np.argsort([hash_share(str(name)) for name in people], kind="stable")
    half = np.empty(len(people), np.int64)
    half[order] = np.arange(len(people)) % 2
    unread = int(np.sum(~readable))
    return Data(size, pictures, rows, tuple(people), labels, half[labels], unread)


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Clusters both halves.

    `items` holds, for each picture: `valid` (not failed), `bcubed` (the F of its own precision and
    recall; 0 where failed) and `subjects`.

    Raises:
        UserError: too many failed: less than two pictures of a half are left.
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    embeddings = _metrics.unit(raw)
    halves = [np.flatnonzero(usable & (data.half == h)) for h in (0, 1)]
    if min(map(len, halves)) < 2:
        raise unusable(
            data.pictures,
            f"{np.sum(~usable)} of {len(usable)} pictures failed and the rest can't be clustered",
        )
    bars = np.linspace(-1, 1, 2 * STEPS + 1)
    trees = [chain(embeddings[rows]) for rows in halves]
    scores = [
        [pairwise_f(data.labels[rows], cut(tree, bar)) for bar in bars]
        for rows, tree in zip(halves, trees)
    ]
    best = [float(bars[int(np.argmax(s))]) for s in scores]
    own, found = (
        np.zeros(len(usable)),
        {"pairwise_f": [], "bcubed_f": [], "nmi": [], "clusters": []},
    )
    for rows, tree, bar in zip(halves, trees, best[::-1]):  # the other half's threshold
        labels, clusters = data.labels[rows], cut(tree, bar)
        own[rows] = bcubed(labels, clusters)
        found["pairwise_f"].append(pairwise_f(labels, clusters))
        found["bcubed_f"].append(float(np.mean(own[rows])))
        found["nmi"].append(nmi(labels, clusters))
        found["clusters"].append(len(np.unique(clusters)) / len(np.unique(labels)))
    metrics = {name: float(np.mean(values)) for name, values in found.items()}
    metrics["threshold"] = float(np.mean(best))
    metrics |= {"n": float(np.sum(usable)), "failed": float(np.sum(~usable) + data.unread)}
    curve = np.mean(scores, axis=0)
    return Result(
        metrics=metrics,
        curves={"pairwise_f": {"x": bars, "y": curve, "xlabel": "threshold", "ylabel": "F"}},
        items={"valid": usable, "bcubed": own, "subjects": data.labels},
        **drawn(embeddings, data.labels, usable, np.array(data.people)[data.labels]),
    )


def chain(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maximum spanning tree of the cosines of unit vectors f64[n, D]: i64[n - 1] twice, f64.

    Prim's algorithm, one row of cosines at a time: cutting the tree at a threshold leaves the
    clusters of single linkage, at any threshold.
    """
    n = len(x)
    best, parent = np.full(n, -np.inf), np.zeros(n, np.int64)
    outside = np.ones(n, bool)
    at, left, right, cosine = 0, [], [], []
    for _ in range(n - 1):
        outside[at] = False
        found = x @ x[at]
        closer = outside & (found > best)
        best[closer], parent[closer] = found[closer], at
        at = int(np.argmax(np.where(outside, best, -np.inf)))
        left.append(parent[at])
        right.append(at)
        cosine.append(best[at])
    return np.array(left), np.array(right), np.array(cosine)


def cut(tree: tuple[np.ndarray, np.ndarray, np.ndarray], bar: float) -> np.ndarray:
    """Clusters i64[n] of a tree without its edges at or below `bar`."""
    left, right, cosine = tree
    n = len(left) + 1
    label = np.arange(n)
    for a, b, c in zip(left, right, cosine):  # a joined the tree before b
        if c > bar:
            label[b] = label[a]
    return label


def _shared(labels: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each picture: pictures of its person in its cluster, of its cluster, of its person."""
    _, who = np.unique(labels, return_inverse=True)
    _, where = np.unique(clusters, return_inverse=True)
    both = who * (where.max() + 1) + where
    _, place, count = np.unique(both, return_inverse=True, return_counts=True)
    return count[place], np.bincount(where)[where], np.bincount(who)[who]


def pairwise_f(labels: np.ndarray, clusters: np.ndarray) -> float:
    """F of the pairs of one cluster as a guess of the pairs of one person; 0 without any."""
    both, cluster, person = (np.sum(c - 1.0) for c in _shared(labels, clusters))
    return float(2 * both / (cluster + person)) if cluster + person else 0.0


def bcubed(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """F of each picture's B-cubed precision and recall, f64[n]."""
    both, cluster, person = _shared(labels, clusters)
    return 2 * both / (cluster + person)


def nmi(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Mutual information over the mean of the entropies; 1 where both have one class."""
    both, cluster, person = (c / len(labels) for c in _shared(labels, clusters))
    shared = float(np.mean(np.log(both / (cluster * person))))
    entropies = -float(np.mean(np.log(cluster))), -float(np.mean(np.log(person)))
    mean = sum(entropies) / 2
    return shared / mean if mean > 0 else 1.0


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """`bcubed_f` of `a` minus that of `b` over the pictures both could embed, with its interval.

    Args:
        a: a result of `run`.
        b: another on the same pictures.
        n: bootstrap draws over people.
        seed: of the draws.
    """
    statistics = {"bcubed_f": _bootstrap.weighted_mean("bcubed")}
    return _bootstrap.differences(a.items, b.items, statistics, n, seed)
