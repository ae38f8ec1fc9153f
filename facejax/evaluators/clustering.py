"""Clustering: do the embeddings of one person fall together when nobody says how many there are?

DBSCAN (Ester et al. 1996) on cosines, exact: pictures whose cosine is above `threshold` are
neighbours, a picture with `min_samples` neighbours, itself among them, is a core, connected cores
are a cluster, and others join that of their most similar core or stay alone. With `min_samples` 1,
the default, clusters are the connected parts of the graph. Unless it is given, the threshold is
chosen from a grid for the best pairwise F on half of the people (by the hash of their names), and
the other half is judged [D].

Metrics: `pairwise_f` (of pairs of pictures in one cluster: precision, recall and their harmonic
mean), `bcubed_f` (Bagga & Baldwin 1998: precision and recall of each picture's cluster, averaged),
`nmi` (mutual information over the arithmetic mean of the two entropies), with `..._precision/...`
and `..._recall/...` as details; `bcubed_f_low` and `bcubed_f_high` (95 %, bootstrap over people);
`threshold` (a cosine), `clusters`, `people`, `n` pictures that were judged and `failed` ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _metrics, _options, _search
from facejax.evaluators._embed import Flip, embed_pictures, map_rows
from facejax.evaluators._hashing import hash_share
from facejax.evaluators._pictures import Pictures, labels_of, open_pictures
from facejax.evaluators._tiny import write_people

GRID = np.linspace(0.1, 0.9, 33)
"""Thresholds that are tried."""


@dataclass(frozen=True)
class Config:
    """What is clustered, and how.

    Attributes:
        path: folder or zip of the pictures, in a folder per person.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        threshold: a cosine; None chooses it on half of the people.
        min_samples: neighbours that make a core.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        bootstrap: draws of the interval; 0 leaves it out.
        seed: of the draws, and of the halves.
    """

    path: str = ""
    source: Mapping[str, Any] | None = None
    threshold: float | None = None
    min_samples: int = 1
    crop: float = 1.0
    flip: Flip = "none"
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Eight people with five pictures each."""
        write_people(Path(root) / "images", 8, 5, "{name}/{number}.png")
        return cls(path=str(Path(root) / "images"))


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], those of known people.
        people: str[N].
        judged: bool[N], those that count; the others choose the threshold.
        unread: number of pictures that could not be read, so that nobody knows who they show.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    people: np.ndarray
    judged: np.ndarray
    unread: int


def prepare(cfg: Config, size: int) -> Data:
    """Reads who is on the pictures and splits the people.

    Raises:
        UserError: an illegal option, or too few people.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.shares("crop", cfg.crop)
    if cfg.min_samples < 1:
        raise UserError("min_samples", f"{cfg.min_samples}", "give 1 or more")
    if cfg.threshold is not None and not -1 <= cfg.threshold < 1:
        raise UserError("threshold", f"{cfg.threshold} is no cosine", "give one, or None")
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity="parent")
    field = pictures.classes("identity", "source")
    numbers, readable = pictures.values("identity")
    rows = np.flatnonzero(numbers >= 0)
    people = labels_of(field, numbers[rows])
    named = np.array(sorted(set(people), key=lambda name: hash_share(f"{cfg.seed}/{name}")))
    if len(named) < 4:
        what = f"{len(named)} people"
        raise UserError(pictures.where, what, "give pictures of four people or more")
    judged = np.ones(len(rows), bool)
    if cfg.threshold is None:
        judged = np.isin(people, named[len(named) // 2 :])
    return Data(size, pictures, rows, people, judged, int(np.sum(~readable)))


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once and clusters them.

    `items` holds, for each judged picture: `valid` (not failed), `subjects`, and its B-cubed
    `precision` and `recall` (NaN where failed).
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    unit = _metrics.unit(raw)
    people = np.unique(data.people, return_inverse=True)[1]
    threshold, curves = cfg.threshold, {}
    if threshold is None:
        tried = usable & ~data.judged
        found = clusters(unit[tried], GRID, cfg.min_samples)
        scores = [pairwise(labels, people[tried])[0] for labels in found]
        threshold = float(GRID[int(np.argmax(scores))])
        curves["pairwise_f"] = {
            "x": GRID,
            "y": np.array(scores),
            "xlabel": "threshold",
            "ylabel": "pairwise F of the half that chooses",
        }
    valid = usable[data.judged]
    kept = usable & data.judged
    if not valid.any():
        what = f"{np.sum(~usable)} of {len(usable)} pictures failed and none is left to judge"
        remedy = "check that the pictures open and that the encoder's output is finite"
        raise UserError(data.pictures.where, what, remedy)
    (found,) = clusters(unit[kept], [threshold], cfg.min_samples)
    f, precision, recall = pairwise(found, people[kept])
    each = {name: np.full(len(valid), np.nan) for name in ("precision", "recall")}
    each["precision"][valid], each["recall"][valid] = bcubed(found, people[kept])
    subjects = people[data.judged]
    values = {name: v[valid] for name, v in each.items()}
    b_f, low, high = _bootstrap.interval(
        values, subjects[valid], _bcubed_f, cfg.bootstrap or 1, cfg.seed
    )
    metrics = {
        "pairwise_f": f,
        "pairwise_f/precision": precision,
        "pairwise_f/recall": recall,
        "bcubed_f": b_f,
        "bcubed_f/precision": float(values["precision"].mean()),
        "bcubed_f/recall": float(values["recall"].mean()),
        "nmi": nmi(found, people[kept]),
        "threshold": threshold,
        "clusters": float(found.max() + 1),
        "people": float(len(np.unique(people[kept]))),
        "n": float(np.sum(valid)),
        "failed": float(np.sum(~valid) + data.unread),
    }
    if cfg.bootstrap:
        metrics |= {"bcubed_f_low": low, "bcubed_f_high": high}
    shown = map_rows(data.people, kept)
    return Result(
        metrics=metrics,
        curves=curves,
        items={"valid": valid, "subjects": subjects, **each},
        embeddings=unit[shown].astype(np.float32),
        labels=data.people[shown],
    )


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """B-cubed F of `a` minus that of `b` over the pictures both could embed.

    Args:
        a: a result of `run`, whose clusters it keeps.
        b: another on the same pictures.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        {"bcubed_f": (difference, low, high)}.
    """
    both = a.items["valid"] & b.items["valid"]
    sides = [{name: r.items[name][both] for name in ("precision", "recall")} for r in (a, b)]
    subjects = a.items["subjects"][both]
    return {"bcubed_f": _bootstrap.paired_interval(*sides, subjects, _bcubed_f, n, seed)}


def clusters(x: np.ndarray, thresholds: Sequence[float], min_samples: int) -> list[np.ndarray]:
    """Clusters of unit vectors f64[N, D] at each threshold, i64[N] from 0; see the module."""
    N, T = len(x), len(thresholds)
    near = np.full((T, N), N if min_samples == 1 else 0)
    if min_samples > 1:
        for rows, _, cosine in _search.blocks(x, x):
            near[:, rows] += np.array([(cosine > t).sum(axis=1) for t in thresholds])
    core = near >= min_samples
    label, join = np.tile(np.arange(N), (T, 1)), np.tile(np.arange(N), (T, 1))
    best = np.full((T, N), -np.inf)
    for rows, columns, cosine in _search.blocks(x, x):
        for t, threshold in enumerate(thresholds):
            linked = (cosine > threshold) & core[t, columns][None]
            if columns.start >= rows.start:
                ends = core[t, rows][:, None] & (label[t, rows][:, None] != label[t, columns])
                i, j = np.nonzero(linked & ends)
                label[t] = _merged(label[t], i + rows.start, j + columns.start)
            if not core[t, rows].all():
                similar = np.where(linked, cosine, -np.inf)
                closest, value = similar.argmax(axis=1), similar.max(axis=1)
                better = ~core[t, rows] & (value > best[t, rows])
                best[t, rows] = np.where(better, value, best[t, rows])
                join[t, rows] = np.where(better, closest + columns.start, join[t, rows])
    return [np.unique(a[b], return_inverse=True)[1] for a, b in zip(label, join)]


def _merged(label: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Labels i64[N] once i[k] and j[k] are of one cluster for every k."""
    if not len(i):
        return label
    graph = coo_array((np.ones(len(i), bool), (label[i], label[j])), shape=(len(label),) * 2)
    return connected_components(graph, directed=False)[1].astype(np.int64)[label]


def pairwise(found: np.ndarray, people: np.ndarray) -> tuple[float, float, float]:
    """F, precision and recall of the pairs that share a cluster; 0 / 0 is 1.

    Args:
        found: i64[N], clusters.
        people: i64[N].
    """
    both, cluster, person = _counts(found, people)
    right, made, wanted = (np.sum(c * (c - 1)) // 2 for c in (both[2], cluster, person))
    precision, recall = (float(right / of) if of else 1.0 for of in (made, wanted))
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0, precision, recall


def bcubed(found: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall f64[N] of each picture.

    The share of its cluster that is of its person, and that of its person that is in its cluster.
    """
    (of_cluster, of_person, counts), cluster, person = _counts(found, people)
    table = coo_array((counts, (of_cluster, of_person)), shape=(len(cluster), len(person))).tocsr()
    shared = np.asarray(table[found, people]).ravel().astype(np.float64)
    return shared / cluster[found], shared / person[people]


def nmi(found: np.ndarray, people: np.ndarray) -> float:
    """Mutual information over the mean of the two entropies; 1 where both partitions are one."""
    (of_cluster, of_person, counts), cluster, person = _counts(found, people)
    n = len(found)
    expected = cluster[of_cluster] * person[of_person] / n
    mutual = np.sum(counts / n * np.log(counts / expected))
    entropies = [-np.sum(c[c > 0] / n * np.log(c[c > 0] / n)) for c in (cluster, person)]
    mean = np.mean(entropies)
    return float(mutual / mean) if mean > 0 else 1.0


def _counts(found: np.ndarray, people: np.ndarray) -> tuple:
    """Cluster, person and number of the pairs that occur, and the sizes of clusters and people."""
    width = int(people.max()) + 1
    cells, counts = np.unique(found * width + people, return_counts=True)
    sizes = [np.bincount(values) for values in (found, people)]
    return (cells // width, cells % width, counts), *sizes


def _bcubed_f(items: _bootstrap.Items, weights: np.ndarray) -> np.ndarray:
    precision, recall = (
        _bootstrap.weighted_mean(name)(items, weights) for name in ("precision", "recall")
    )
    return 2 * precision * recall / (precision + recall)
