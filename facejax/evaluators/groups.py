"""Verification by group of people: how equal are the errors?

`pairs`, as on RFW (Wang et al. 2019, arXiv:1812.00194): a pairs file per group, judged by the LFW
protocol within the group (`verification`). `accuracy` is the mean over groups, `accuracy_std` their
population deviation and `ser` the highest error over the lowest. Thresholds of their own hide bias,
so `global_accuracy`, `global_accuracy_std` and `global_ser` use one: for each fold, the one that is
best on the other folds of all groups together. At one threshold for all that accepts a share F of
all impostors (the exact rule of `tar@far`), `fdr@far=F`, `garbe@far=F` and `ir@far=F` compare the
groups' false-match and false-non-match rates (`_fairness.py`), which are `fmr@far=F/<group>` and
`fnmr@far=F/<group>`. Ratios with an error count of 0 are of (k + .5) / (n + 1).

`genuine` and `impostors`, as on RB-WebFace: a list of picture names per group and kind. Genuine
pairs are all within each `each` names in a row, impostor pairs all of the other list. `tar@far=F`
is the mean over groups of `tar@far=F/<group>`, each at the threshold of its own impostors, by the
exact rule (the original interpolates between 20 thresholds), `..._std` their population deviation.

Pairs with a picture that can't be decoded, or whose embedding is not finite, are left out and
counted in `failed`; `n` counts the others (with lists, genuine pairs alone). `failed/pictures`
counts pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from facejax.errors import UserError
from facejax.evaluators import (
    Embed,
    Result,
    _bootstrap,
    _compared,
    _fairness,
    _metrics,
    _options,
    _search,
)
from facejax.evaluators._embed import Flip, embed_pictures, map_rows
from facejax.evaluators._pairs import read_pairs
from facejax.evaluators._pictures import Pictures, open_pictures, rows_by_name
from facejax.evaluators._tiny import write_people

FOLDS = 10
"""Of a pairs file without first line."""


@dataclass(frozen=True)
class Config:
    """What is compared, and how.

    Attributes:
        path: folder or zip of the pictures of all groups.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        pairs: pairs file of each group; see `_pairs.read_pairs`, the first line may be missing.
        template: picture of a line of a pairs file, from `name`, `number` and `group`.
        genuine: list of names of each group, `each` of one person in a row.
        impostors: list of names of each group, each of another person.
        each: names of one person.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        far: rates F.
        bootstrap: draws of the interval; 0 leaves it out.
        seed: of the draws.
    """

    path: str = ""
    source: Mapping[str, Any] | None = None
    pairs: Mapping[str, str] = field(default_factory=dict)
    template: str = _compared.TEMPLATE
    genuine: Mapping[str, str] = field(default_factory=dict)
    impostors: Mapping[str, str] = field(default_factory=dict)
    each: int = 5
    crop: float = 1.0
    flip: Flip = "sum"
    far: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Two groups of six people with four pictures each, and three folds of eight pairs."""
        root, template = Path(root), "{name}_{number}.png"
        write_people(root / "images", 12, 4, template)
        for group, first in (("A", 0), ("B", 6)):
            lines = ["3\t4"]
            for fold in range(3):
                a, b = first + 2 * fold, first + 2 * fold + 1
                lines += [f"P{p}\t{i}\t{j}" for p in (a, b) for i, j in ((1, 2), (3, 4))]
                lines += [f"P{a}\t{i}\tP{b}\t{i}" for i in range(1, 5)]
            (root / f"{group}.txt").write_text("\n".join(lines) + "\n")
        pairs = {group: str(root / f"{group}.txt") for group in "AB"}
        return cls(path=str(root / "images"), pairs=pairs, template=template, far=(1e-1,))


@dataclass(frozen=True)
class Data:
    """The checked lists; a pair's group is a number.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], each picture once.
        people: str[N], person of each, with its group.
        names: of the groups.
        pairs: i64[P, 2], positions in `rows`; with lists, the genuine ones.
        same: bool[P].
        fold: i64[P].
        group: i64[P].
        impostors: per group, i64[M] positions in `rows`; empty with pairs files.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    people: np.ndarray
    names: tuple[str, ...]
    pairs: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    impostors: tuple[np.ndarray, ...]


def prepare(cfg: Config, size: int) -> Data:
    """Reads the lists and checks that every picture is there.

    Raises:
        UserError: an illegal option, an unreadable list, a picture that is missing, fewer than two
            groups, or groups that are not the same for `genuine` and `impostors`.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.shares("crop", cfg.crop)
    _options.shares("far", *cfg.far)
    if bool(cfg.pairs) == bool(cfg.genuine):
        remedy = "give pairs files, or lists of genuine and impostors"
        raise UserError("pairs", "exactly one of pairs and genuine is wanted", remedy)
    if cfg.genuine.keys() != cfg.impostors.keys():
        what = "genuine and impostors are not of the same groups"
        raise UserError("impostors", what, "give a list of both kinds for each group")
    names = tuple(cfg.pairs or cfg.genuine)
    if len(names) < 2:
        raise UserError("pairs", "fewer than two groups", "use 'verification' for one")
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity="none")
    found = [(_pairs if cfg.pairs else _lists)(cfg, pictures, name) for name in names]
    counts = [len(part[2]) for part in found]
    people, pairs, same, fold, others = zip(*found)
    rows, places = np.unique(
        np.concatenate([*(p.ravel() for p in pairs), *others]), return_inverse=True
    )
    ends = np.cumsum([*(p.size for p in pairs), *map(len, others)])
    places = np.split(places, ends[:-1])
    who = np.full(len(rows), "", object)
    for name, part, named in zip(names, places, people):
        who[part] = [f"{name}/{person}" for person in named.ravel()]
    return Data(
        size,
        pictures,
        rows,
        who.astype(str),
        names,
        np.concatenate(places[: len(names)]).reshape(-1, 2),
        np.concatenate(same),
        np.concatenate(fold),
        np.repeat(np.arange(len(names)), counts),
        tuple(places[len(names) :]),
    )


def _pairs(cfg: Config, pictures: Pictures, group: str) -> tuple:
    """People, picture rows, same and folds of a group's pairs file, and no impostors."""
    path = cfg.pairs[group]
    listed = read_pairs(path, FOLDS)
    if listed.fold is None:
        raise UserError(path, "has no folds", "begin with '<folds> <n>', or leave that line out")
    found = _compared.located(pictures, path, listed, cfg.template, group=group)
    _compared.joined(found, path)  # it has pairs of both kinds
    return *found, np.zeros(0, np.int64)


def _lists(cfg: Config, pictures: Pictures, group: str) -> tuple:
    """The same of a group's lists of names: genuine pairs, and the rows of impostors."""
    genuine = _named(pictures, cfg.genuine[group])
    if cfg.each < 2 or not len(genuine) or len(genuine) % cfg.each:
        what = f"{len(genuine)} names are not {cfg.each} of each person"
        raise UserError(cfg.genuine[group], what, "set 'each' to how many there are in a row")
    impostors = _named(pictures, cfg.impostors[group])
    if len(impostors) < 2:
        raise UserError(cfg.impostors[group], "fewer than two names", "give the group's list")
    first, second = np.triu_indices(cfg.each, 1)
    persons = genuine.reshape(-1, cfg.each)
    pairs = np.stack([persons[:, first], persons[:, second]], axis=2)
    people = np.broadcast_to(np.arange(len(persons))[:, None, None], pairs.shape)
    same = np.ones(pairs[..., 0].size, bool)
    fold = np.zeros(len(same), np.int64)
    return people.reshape(-1, 2).astype(str), pairs.reshape(-1, 2), same, fold, impostors


def _named(pictures: Pictures, path: str) -> np.ndarray:
    """i64[n]: rows of the pictures that a list names, one per line."""
    if not Path(path).is_file():
        raise UserError(path, "no such file", "give the path of a list of names")
    row = rows_by_name(pictures.names())
    names = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    absent = [name for name in names if name not in row]
    if absent:
        what = f"no picture '{absent[0]}' in {pictures.where}"
        raise UserError(path, what, "give the pictures that this list belongs to")
    return np.array([row[name] for name in names], np.int64)


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once and scores all pairs.

    `items` holds, for each pair, whether it counted as right for a metric, NaN where it failed;
    `group` and `subjects` i64[P, 2].

    Raises:
        UserError: too many failed: a group has no pairs of one kind left.
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    embeddings = _metrics.unit(raw)
    valid = usable[data.pairs].all(axis=1)
    score = _metrics.cosines(embeddings, data.pairs)
    judge = _judge_lists if data.impostors[0].size else _judge_pairs
    metrics, right = judge(cfg, data, embeddings, usable, valid, score)
    subjects = np.unique(data.people, return_inverse=True)[1][data.pairs]
    items = {"group": data.group, "subjects": subjects, **right}
    for name, values in right.items():
        if cfg.bootstrap:
            kept = np.isfinite(values)
            _, metrics[f"{name}_low"], metrics[f"{name}_high"] = _bootstrap.interval(
                {name: values[kept], "group": data.group[kept]},
                subjects[kept],
                _mean_over_groups(name),
                cfg.bootstrap,
                cfg.seed,
            )
    metrics |= {
        "n": float(np.sum(valid)),
        "failed": float(np.sum(~valid)),
        "failed/pictures": float(np.sum(~usable)),
    }
    known = usable & (data.people != "")
    shown = map_rows(data.people, known)
    return Result(
        metrics=metrics,
        items=items,
        embeddings=embeddings[shown].astype(np.float32),
        labels=data.people[shown],
    )


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Each mean over groups of `a` minus that of `b` over the pairs both could score.

    Args:
        a: a result of `run`, whose thresholds it keeps.
        b: another on the same lists.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    found = {}
    for name in sorted(a.items.keys() & b.items.keys() - {"group", "subjects"}):
        both = np.isfinite(a.items[name]) & np.isfinite(b.items[name])
        group, subjects = a.items["group"][both], a.items["subjects"][both]
        sides = [{name: r.items[name][both], "group": group} for r in (a, b)]
        statistic = _mean_over_groups(name)
        found[name] = _bootstrap.paired_interval(*sides, subjects, statistic, n, seed)
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


def _judge_pairs(cfg: Config, data: Data, embeddings, usable, valid, score) -> tuple:
    """Metrics of the pairs files, and which pairs are right: `accuracy`, `global_accuracy`."""
    _check(data, [valid & data.same, valid & ~data.same])
    distance = _metrics.squared_distance(*(embeddings[side] for side in data.pairs.T))
    groups = range(len(data.names))
    own, pooled = np.full(len(score), np.nan), np.full(len(score), np.nan)
    for fold in np.unique(data.fold):
        train, test = valid & (data.fold != fold), valid & (data.fold == fold)
        limit = _metrics.lfw_threshold(distance[train], data.same[train])
        pooled[test] = (distance[test] < limit) == data.same[test]
        for group in groups:
            of = data.group == group
            limit = _metrics.lfw_threshold(distance[train & of], data.same[train & of])
            own[test & of] = (distance[test & of] < limit) == data.same[test & of]
    metrics = {}
    for name, right in (("accuracy", own), ("global_accuracy", pooled)):
        parts = [right[valid & (data.group == group)] for group in groups]
        each = np.array([part.mean() for part in parts])
        errors = np.array([np.sum(1 - part) for part in parts])
        counts = np.array([len(part) for part in parts])
        metrics[name] = float(each.mean())
        metrics[f"{name}_std"] = float(each.std())
        ser = name.replace("accuracy", "ser")
        metrics[ser] = _fairness.ratio(_fairness.jeffreys(errors, counts))
        metrics |= {f"{name}/{g}": float(value) for g, value in zip(data.names, each)}
    for far in cfg.far:
        metrics |= _at(far, data, valid, score)
    return metrics, {"accuracy": own, "global_accuracy": pooled}


def _at(far: float, data: Data, valid: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """Rates of the groups at one threshold, which accepts a share `far` of all impostors."""
    impostors, name = valid & ~data.same, _metrics.far_name(far)
    if not _metrics.allowed_impostors(np.sum(impostors), far):
        return {}
    limit = _metrics.tar_at_far(score[valid], data.same[valid], far)[1]
    found, metrics = {}, {}
    for kind, wrong, among in (
        ("fmr", score > limit, impostors),
        ("fnmr", score <= limit, valid & data.same),
    ):
        parts = [among & (data.group == group) for group in range(len(data.names))]
        errors = np.array([np.sum(wrong[part]) for part in parts])
        counts = np.array([np.sum(part) for part in parts])
        found[kind] = errors / counts, _fairness.jeffreys(errors, counts)
        rates = zip(data.names, found[kind][0])
        metrics |= {f"{kind}@far={name}/{g}": float(rate) for g, rate in rates}
    plain, smoothed = zip(*found.values())
    return metrics | {
        f"fdr@far={name}": _fairness.fdr(*plain),
        f"garbe@far={name}": _fairness.garbe(*plain),
        f"ir@far={name}": _fairness.inequity(*smoothed),
    }


def _judge_lists(cfg: Config, data: Data, embeddings, usable, valid, score) -> tuple:
    """Metrics of the lists, and which genuine pairs are accepted: `tar@far=F`."""
    left = [rows[usable[rows]] for rows in data.impostors]
    _check(data, [valid], [len(rows) > 1 for rows in left])
    pairs = [len(rows) * (len(rows) - 1) // 2 for rows in left]
    far = [f for f in cfg.far if _metrics.allowed_impostors(min(pairs), f)]
    right = {f"tar@far={_metrics.far_name(f)}": np.full(len(score), np.nan) for f in far}
    metrics, each = {}, {name: [] for name in right}
    for group, (rows, count) in enumerate(zip(left, pairs)):
        ks = [_metrics.allowed_impostors(count, f) for f in far]
        most = max(ks, default=0) + 1
        top = np.append(_search.highest(_search.own_pairs(embeddings[rows]), most), -np.inf)
        of = valid & (data.group == group)
        for name, k in zip(right, ks):
            right[name][of] = score[of] > top[min(k, count)]
            each[name].append(float(np.mean(right[name][of])))
            metrics[f"{name}/{data.names[group]}"] = each[name][-1]
    for name, rates in each.items():
        metrics |= {name: float(np.mean(rates)), f"{name}_std": float(np.std(rates))}
    return metrics, right


def _check(data: Data, wanted: list[np.ndarray], more: list[bool] | None = None) -> None:
    """Raises UserError unless each group has a pair in each of `wanted`, and `more` holds."""
    folds = len(np.unique(data.fold[wanted[0]])) > 1 or data.impostors[0].size
    there = [{*data.group[which].tolist()} == {*range(len(data.names))} for which in wanted]
    if not (all(there) and all(more or ()) and folds):
        what = "so many pictures failed that a group can't be judged"
        remedy = "check that the pictures open and that the encoder's output is finite"
        raise UserError(data.pictures.where, what, remedy)
