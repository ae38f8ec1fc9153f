"""Finding the picture that a reference picture becomes when a text changes it.

The query is composed of both; it is ranked against every picture of the set but its own reference,
which would be the nearest for the wrong reason. Protocols of FashionIQ (Wu et al. 2021,
arXiv:1905.12794) and CIRR (Liu et al. 2021, arXiv:2108.04024). Ties are broken against the target.

Metrics: `r@K` for each `k`: share of queries with a target among the first K. With categories it is
the mean over them, and `r@K/<category>` is one. `subset_r@K`, where the queries name subsets: the
ranking holds the subset's pictures alone, without the reference; `cirr_mean` is the mean of `r@5`
and `subset_r@1` [M]. All with `_low` and `_high` (95 %, bootstrap over the people on reference and
target); `median_rank`; `chance/<metric>`, of a random order; `n` queries; `failed` ones, whose
reference, change or every target has no finite embedding, left out; `gallery`, pictures that could
be embedded.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facejax.data import queries
from facejax.data.records import BadRecord
from facejax.errors import UserError
from facejax.evaluators import Joint, Result, _bootstrap, _options
from facejax.evaluators._embed import drawn, embed_pictures
from facejax.evaluators._metrics import unit
from facejax.evaluators._pictures import CHUNK, Pictures, labels_of, open_pictures
from facejax.evaluators._ranks import best_ranks, chance
from facejax.evaluators._tiny import write_people

JOINT = True


@dataclass(frozen=True)
class Config:
    """What is searched.

    Attributes:
        path: folder or zip of the pictures, all of which are searched.
        queries: CSV file with the columns `reference` (a picture), `text` (the change) and `target`
            (a picture, or several with | between); and, if wanted, `category` and `subset`
            (pictures with | between). "" takes what `source` tells by `caption` and `target`.
        identity: beside `path`, who is on a picture: "parent" (the name of its folder) or "none"
            (every picture another person).
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        k: numbers K of `r@K`.
        subset_k: numbers K of `subset_r@K`.
        crop: share of the centred square of each picture that is kept.
        bootstrap: draws of the interval; 0 leaves it out.
        seed: of the draws.
    """

    queries: str = ""
    path: str = ""
    identity: str = "none"
    source: Mapping[str, Any] | None = None
    k: tuple[int, ...] = (1, 5, 10, 50)
    subset_k: tuple[int, ...] = (1, 2, 3)
    crop: float = 1.0
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Eight people with three pictures each; a query for each person, in two categories."""
        names = write_people(Path(root) / "images", 8, 3, "{name}/{number}.png")
        rows = [["reference", "text", "target", "category", "subset"]]
        for p in range(8):
            own = names[3 * p : 3 * p + 3]
            rows.append([own[0], f"number {p}", own[1], "ab"[p % 2], queries.SEVERAL.join(own)])
        path = Path(root) / "queries.csv"
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(rows)
        return cls(str(path), str(Path(root) / "images"), identity="parent", bootstrap=50)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are, N of them.
        people: str[N].
        reference: i64[n], picture of each query.
        texts: the changes.
        targets: pictures of each query.
        subsets: pictures of each query, without the reference; () where the file has no subsets.
        categories: names; () without.
        category: i64[n].
    """

    size: int
    pictures: Pictures
    people: np.ndarray
    reference: np.ndarray
    texts: tuple[str, ...]
    targets: tuple[tuple[int, ...], ...]
    subsets: tuple[tuple[int, ...], ...]
    categories: tuple[str, ...]
    category: np.ndarray


def prepare(cfg: Config, size: int) -> Data:
    """Reads the queries and finds their pictures.

    Raises:
        UserError: an illegal option, a query of a picture that isn't there, whose target is its
            reference or not in its subset, or without a text.
    """
    _options.choice("identity", cfg.identity, ("parent", "none"))
    _options.shares("crop", cfg.crop)
    for key in ("k", "subset_k"):
        if not getattr(cfg, key) or min(getattr(cfg, key)) < 1:
            raise UserError(key, f"{getattr(cfg, key)} holds no ranks", "give numbers from 1")
    keys = {"identity": cfg.identity}
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, **keys)
    if cfg.queries:
        asked = queries.read(cfg.queries, pictures.names(), pictures.where)
    else:
        asked = _of_source(pictures)
    names, category = np.unique([q.category for q in asked], return_inverse=True)
    subsets = tuple(q.subset for q in asked)
    people = np.array(pictures.names())
    if "identity" in pictures.source.fields:
        numbers, _ = pictures.values("identity")
        named = labels_of(pictures.source.fields["identity"], numbers)
        people = np.where(numbers >= 0, named, people)
    return Data(
        size=size,
        pictures=pictures,
        people=people,
        reference=np.array([q.reference for q in asked]),
        texts=tuple(q.text for q in asked),
        targets=tuple(q.target for q in asked),
        subsets=subsets if any(subsets) else (),
        categories=tuple(names.tolist()) if names[1:].size else (),
        category=category,
    )


def run(cfg: Config, data: Data, joint: Joint) -> Result:
    """Ranks the pictures for every query.

    `items` holds, for each query: `valid` (not failed), `subjects` i64[n, 2] (person of the
    reference and of the first target), `category`, and whether it was found: `r@K`, `subset_r@K`
    (0 where failed).

    Raises:
        UserError: the space has no composed queries, or every query failed.
    """
    raw, usable = embed_pictures(joint.image, data.pictures, range(len(data.people)), data.size)
    gallery = unit(raw)
    composed, whole = _composed(data, joint)
    valid = whole & np.array([usable[list(t)].any() for t in data.targets])
    if not valid.any():
        told = f"all {len(valid)} queries failed"
        raise UserError(data.pictures.where, told, "check that the pictures open")
    ranks = np.zeros(len(valid), np.int64)
    within = np.zeros(len(valid), np.int64)
    sizes = np.zeros((3, len(valid)), np.int64)  # targets; pictures; pictures of the subset
    for start in range(0, len(valid), CHUNK):
        part = range(start, min(start + CHUNK, len(valid)))
        scores = composed[part] @ gallery.T
        marks = (data.targets, [(r,) for r in data.reference.tolist()], data.subsets)
        target, own, subset = (_mask(m, part, scores.shape) for m in marks)
        target, removed = target & usable, own | ~usable
        ranks[part] = best_ranks(scores, target, removed)
        within[part] = best_ranks(scores, target, removed | ~subset)
        sizes[:, part] = [m.sum(axis=1) for m in (target, ~removed, ~removed & subset)]
    first = np.array([targets[0] for targets in data.targets])
    people = np.unique(data.people, return_inverse=True)[1]
    items = {
        "valid": valid,
        "subjects": people[np.stack([data.reference, first], axis=1)],
        "category": data.category,
    }
    asked = [("r", cfg.k, ranks, sizes[1])]
    asked += [("subset_r", cfg.subset_k, within, sizes[2])] if data.subsets else []
    guessed = {}
    for name, numbers, found, among in asked:
        for k in numbers:
            items[f"{name}@{k}"] = (valid & (found <= k)).astype(np.float64)
            guess = chance(sizes[0][valid], among[valid], k)
            guessed[f"chance/{name}@{k}"] = float(guess.mean())
    known = _bootstrap.subset(items, valid)
    metrics = _bootstrap.scores(known, _statistics(items), cfg.bootstrap, cfg.seed)
    for number, category in enumerate(data.categories):
        mine = known["category"] == number
        if mine.any():
            metrics |= {f"r@{k}/{category}": float(known[f"r@{k}"][mine].mean()) for k in cfg.k}
    metrics |= guessed | {
        "median_rank": float(np.median(ranks[valid])),
        "n": float(np.sum(valid)),
        "failed": float(np.sum(~valid)),
        "gallery": float(np.sum(usable)),
    }
    return Result(metrics=metrics, items=items, **drawn(gallery, data.people, usable))


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Recalls of `a` minus those of `b`, of the queries that failed in neither.

    Args:
        a: a result of `run`.
        b: another on the same queries.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    return _bootstrap.differences(a.items, b.items, _statistics(a.items), n, seed)


def _statistics(items: _bootstrap.Items) -> dict[str, _bootstrap.Statistic]:
    found = {name: _over_categories(name) for name in items if "r@" in name}
    if {"r@5", "subset_r@1"} <= found.keys():
        both = found["r@5"], found["subset_r@1"]
        found["cirr_mean"] = lambda items, w: (both[0](items, w) + both[1](items, w)) / 2
    return found


def _over_categories(name: str) -> _bootstrap.Statistic:
    def statistic(items: _bootstrap.Items, weights: np.ndarray) -> np.ndarray:
        one_hot = np.eye(items["category"].max() + 1)[items["category"]]
        mass = weights @ one_hot
        there = mass > 0
        means = (weights * items[name]) @ one_hot / np.where(there, mass, 1.0)
        with np.errstate(invalid="ignore"):  # a draw may hold no query at all: NaN
            return means.sum(axis=1) / there.sum(axis=1)

    return statistic


def _mask(groups: Any, part: range, shape: tuple[int, int]) -> np.ndarray:
    """bool[n, N]: the pictures of each query's group; all of them without groups."""
    found = np.zeros(shape, bool) if groups else np.ones(shape, bool)
    for row, query in enumerate(part if groups else ()):
        found[row, list(groups[query])] = True
    return found


def _composed(data: Data, joint: Joint) -> tuple[np.ndarray, np.ndarray]:
    """Unit queries f64[n, D], and bool[n]: whether each could be composed."""
    rows, whole, start = [], [], 0
    for chunk in data.pictures.read(data.reference, data.size):
        real = chunk.ids >= 0
        texts = data.texts[start : start + int(real.sum())]
        start += len(texts)
        images = chunk.arrays["image"][real]
        found = np.asarray(joint.compose(images, texts), np.float64)
        good = chunk.arrays["valid"][real] & np.isfinite(found).all(axis=1)
        rows.append(np.where(good[:, None], found, 0.0))
        whole.append(good)
    return unit(np.concatenate(rows)), np.concatenate(whole)


def _of_source(pictures: Pictures) -> list[queries.Query]:
    """The queries that a source tells of its own records.

    Raises:
        UserError: it tells none.
    """
    found = []
    if {"caption", "target"} <= pictures.source.fields.keys():
        for start in range(0, len(pictures.source), CHUNK):
            rows = range(start, min(start + CHUNK, len(pictures.source)))
            for row, record in zip(rows, pictures.source.read(rows)):
                if not isinstance(record, BadRecord) and record.get("target", -1) >= 0:
                    found.append(queries.Query(row, record["caption"], (record["target"],)))
    if not found:
        told = f"{pictures.where} tells no changes of its pictures"
        raise UserError("queries", told, "name a list of them")
    return found
