"""Verification by group of people against all impostor pairs of the group, as on RB-WebFace.

Each group has two lists of picture names. Genuine pairs are all within each `each` names of the one
in a row; impostor pairs are all of the other, of which nobody is named twice. `tar@far=F/<group>`
is the true-accept rate above the threshold of the group's own impostors, by the exact rule
(the original interpolates between 20 thresholds in [.3, .6]); `tar@far=F` is the mean over groups
with its 95 % interval (bootstrap over people), `tar@far=F_std` their population deviation and
`gap@far=F` the highest less the lowest. An F that less than one pair of a group's impostors would
decide is left out. Only the highest scores are held, so a list may be long.

`n` genuine pairs count, `failed` ones have a picture that can't be decoded or has no finite
embedding; impostors that fail are left out, `failed/pictures` counts all.

Source: the public code of RB-WebFace, seva100/stylegan-for-facerec; that list order is all there is
to tell people apart is from its description [M].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from facejax.data.labels import rows_by_name
from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _metrics, _options, _search
from facejax.evaluators._embed import Flip, drawn, embed_pictures, unusable
from facejax.evaluators._pictures import Pictures, open_pictures
from facejax.evaluators._tiny import write_people


@dataclass(frozen=True)
class Config:
    """What is compared.

    Attributes:
        path: folder or zip of the pictures of all groups.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        genuine: group -> its list of names, `each` of one person in a row.
        impostors: group -> its list of names, each of another person.
        each: names of one person.
        far: rates F.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        bootstrap: draws of the intervals; 0 leaves them out.
        seed: of the draws.
    """

    path: str = ""
    source: Mapping[str, Any] | None = None
    genuine: Mapping[str, str] = field(default_factory=dict)
    impostors: Mapping[str, str] = field(default_factory=dict)
    each: int = 5
    far: tuple[float, ...] = (1e-3, 1e-4)
    crop: float = 1.0
    flip: Flip = "none"
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Two groups of six people with three pictures each, and a fourth as impostor."""
        root = Path(root)
        write_people(root / "images", 12, 4, "{name}_{number}.png")
        files = {"genuine": {}, "impostors": {}}
        for group, first in (("A", 0), ("B", 6)):
            for kind, numbers in (("genuine", (1, 2, 3)), ("impostors", (4,))):
                path = root / f"{group}-{kind}.txt"
                names = [f"P{p}_{i}.png\n" for p in range(first, first + 6) for i in numbers]
                path.write_text("".join(names))
                files[kind][group] = str(path)
        return cls(path=str(root / "images"), each=3, far=(0.1,), **files)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], each picture once.
        names: of the groups.
        pairs: i64[P, 2], positions in `rows` of the genuine pairs.
        person: i64[P].
        group: i64[P], a place in `names`.
        impostors: per group, i64[M] positions in `rows`.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    names: tuple[str, ...]
    pairs: np.ndarray
    person: np.ndarray
    group: np.ndarray
    impostors: tuple[np.ndarray, ...]


def prepare(cfg: Config, size: int) -> Data:
    """Reads the lists and checks that every picture is there.

    Raises:
        UserError: an illegal option, fewer than two groups, groups that have not both lists, an
            unreadable list, a picture that is missing, or one that is named twice.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.shares("crop", cfg.crop)
    _options.shares("far", *cfg.far)
    if cfg.genuine.keys() != cfg.impostors.keys():
        what = "genuine and impostors are not of the same groups"
        raise UserError("impostors", what, "give a list of both kinds for each group")
    names = tuple(cfg.genuine)
    if len(names) < 2:
        raise UserError("genuine", f"{len(names)} groups", "give lists of two groups or more")
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity="none")
    row = rows_by_name(pictures.names())
    genuine = [_listed(cfg.genuine[name], row, pictures.where) for name in names]
    for name, listed in zip(names, genuine):
        if cfg.each < 2 or len(listed) % cfg.each:
            what = f"{len(listed)} names are not {cfg.each} of each person"
            raise UserError(cfg.genuine[name], what, "set 'each' to how many there are in a row")
    impostors = [_listed(cfg.impostors[name], row, pictures.where) for name in names]
    rows, places = np.unique(np.concatenate([*genuine, *impostors]), return_inverse=True)
    places = np.split(places, np.cumsum([*map(len, genuine), *map(len, impostors)])[:-1])
    persons = np.concatenate(places[: len(names)]).reshape(-1, cfg.each)
    first, second = np.triu_indices(cfg.each, 1)
    pairs = np.stack([persons[:, first], persons[:, second]], axis=2)
    of_person = [len(listed) // cfg.each for listed in genuine]
    return Data(
        size,
        pictures,
        rows,
        names,
        pairs.reshape(-1, 2),
        np.repeat(np.arange(len(persons)), len(first)),
        np.repeat(np.arange(len(names)), np.multiply(of_person, len(first))),
        tuple(places[len(names) :]),
    )


def _listed(path: str, row: Mapping[str, int], where: str) -> np.ndarray:
    """i64[n]: rows of the pictures that a list names, one per line."""
    if not Path(path).is_file():
        raise UserError(path, "no such file", "give the path of a list of names")
    names = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if absent := [name for name in names if name not in row]:
        what = f"no picture '{absent[0]}' in {where}"
        raise UserError(path, what, "give the pictures that this list belongs to")
    rows = np.array([row[name] for name in names], np.int64)
    if len(rows) < 2 or len(np.unique(rows)) < len(rows):
        what = f"{len(rows)} names, {len(np.unique(rows))} different ones"
        raise UserError(path, what, "give two names or more, each once")
    return rows


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once and scores all pairs.

    `items` holds, for each genuine pair: `tar@far=F`, whether it is accepted (NaN where it failed),
    `group` and `subjects`.

    Raises:
        UserError: too many failed: a group has no genuine or no impostor pair left.
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    embeddings = _metrics.unit(raw)
    valid = usable[data.pairs].all(axis=1)
    left = [rows[usable[rows]] for rows in data.impostors]
    counts = [len(rows) * (len(rows) - 1) // 2 for rows in left]
    groups = [valid & (data.group == g) for g in range(len(data.names))]
    for name, own, count in zip(data.names, groups, counts):
        if not (own.any() and count):
            what = f"too many pictures of {name} failed, and the rest can't be judged"
            raise unusable(data.pictures, what)
    score = _metrics.cosines(embeddings, data.pairs)
    about = {"valid": valid, "group": data.group, "subjects": data.person}
    far = [f for f in cfg.far if _metrics.allowed_impostors(min(counts), f)]
    items = {f"tar@far={_metrics.far_name(f)}": np.full(len(valid), np.nan) for f in far}
    metrics, rates = {}, {name: [] for name in items}
    for name, own, rows, count in zip(data.names, groups, left, counts):
        places = [_metrics.allowed_impostors(count, f) for f in far]
        scores = _search.own_pairs(embeddings[rows])
        highest = np.append(_search.highest(scores, max(places, default=0) + 1), -np.inf)
        for metric, place in zip(items, places):
            items[metric][own] = score[own] > highest[place]
            rates[metric].append(float(np.mean(items[metric][own])))
            metrics[f"{metric}/{name}"] = rates[metric][-1]
    for metric, found in rates.items():
        gap = float(np.ptp(found))
        metrics |= {metric: float(np.mean(found)), f"{metric}_std": float(np.std(found))}
        metrics[metric.replace("tar", "gap")] = gap
    known = _bootstrap.subset(items | about, valid)
    statistics = {metric: _mean_over_groups(metric) for metric in items}
    metrics |= _bootstrap.bounds(known, statistics, cfg.bootstrap, cfg.seed)
    metrics |= {
        "n": float(np.sum(valid)),
        "failed": float(np.sum(~valid)),
        "failed/pictures": float(np.sum(~usable)),
    }
    person = np.full(len(data.rows), -1)
    person[data.pairs] = data.person[:, None]
    return Result(
        metrics=metrics,
        items={**items, "group": data.group, "subjects": data.person},
        **drawn(embeddings, person, usable & (person >= 0)),
    )


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Each `tar@far=F` of `a` minus that of `b` over the genuine pairs both could score.

    Args:
        a: a result of `run`, whose thresholds it keeps.
        b: another on the same lists.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    found = {}
    for metric in (name for name in a.items if name.startswith("tar@") and name in b.items):
        sides = [{**r.items, "valid": np.isfinite(r.items[metric])} for r in (a, b)]
        statistics = {metric: _mean_over_groups(metric)}
        found |= _bootstrap.differences(*sides, statistics, n, seed)
    return found


def _mean_over_groups(name: str) -> _bootstrap.Statistic:
    def statistic(items: _bootstrap.Items, weights: np.ndarray) -> np.ndarray:
        means = []
        for group in np.unique(items["group"]):
            of = items["group"] == group
            with np.errstate(invalid="ignore"):  # a draw may hold nobody of a group: NaN
                means.append(weights[:, of] @ items[name][of] / weights[:, of].sum(axis=1))
        return np.mean(means, axis=0)

    return statistic
