"""Verification by group of people, as on RFW, and how unequal it is.

Every group has its own file of pairs in ten folds. As in RFW (Wang et al. 2019, arXiv:1812.00194)
each group is judged by the rule of LFW alone: `accuracy/<group>`, their mean `accuracy`, their
population deviation `accuracy_std` and `ser`, the largest error over the smallest (left out where
there is no error). Thresholds of its own hide a bias against a group, so all groups are judged by
common ones too, chosen on the other folds of all: `accuracy_global`, `accuracy_global/<group>`,
`ser_global`.

At the threshold whose false-match rate over the impostors of all groups is `fmr`: `fmr/<group>`,
`fnmr/<group>`, `garbe`, `fdr` and `inequity` (with Jeffreys' rates); see `_fairness.py`. `n` pairs
count, `failed` ones have a picture that can't be decoded or has no finite embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _compared, _fairness, _metrics, _options
from facejax.evaluators._embed import Flip, drawn, embed_pictures, unusable
from facejax.evaluators._pairs import read_pairs
from facejax.evaluators._pictures import Pictures, open_pictures
from facejax.evaluators._tiny import write_people

FOLDS = 10
"""Of a file of pairs without a first line, such as RFW's."""


@dataclass(frozen=True)
class Config:
    """What is compared.

    Attributes:
        path: folder or zip of the pictures of all groups.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        pairs: group -> its file of pairs, in folds.
        template: picture of a line of the files, from `name` and `number`.
        fmr: false-match rate of the common threshold.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        bootstrap: draws of the intervals; 0 leaves them out.
        seed: of the draws.
    """

    path: str = ""
    source: Mapping[str, Any] | None = None
    pairs: Mapping[str, str] = field(default_factory=dict)
    template: str = _compared.TEMPLATE
    fmr: float = 1e-3
    crop: float = 1.0
    flip: Flip = "none"
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Two groups of six people with five pictures each, four folds of six pairs."""
        root = Path(root)
        write_people(root / "images", 12, 5, "{name}/{name}_{number:04d}.png")
        files, rng = {}, np.random.default_rng(0)
        for group in range(2):
            lines = ["4\t3"]
            for _ in range(4):
                own = rng.integers(6, size=(3, 3)) + 6 * group
                lines += [f"P{a}\t1\t{2 + i}" for i, (a, _, _) in enumerate(own)]
                lines += [f"P{a}\t1\tP{6 * group + (a + 1) % 6}\t{1 + i % 5}" for a, _, i in own]
            path = root / f"group{group}.txt"
            path.write_text("\n".join(lines) + "\n")
            files[f"group{group}"] = str(path)
        template = "{name}/{name}_{number:04d}.png"
        return cls(path=str(root / "images"), pairs=files, template=template, fmr=0.1)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], each picture once.
        people: str[N].
        pairs: i64[P, 2], positions in `rows`.
        same: bool[P].
        fold: i64[P].
        group: i64[P], a place in `names`.
        names: of the groups.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    people: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    names: tuple[str, ...]


def prepare(cfg: Config, size: int) -> Data:
    """Reads the files of pairs.

    Raises:
        UserError: an illegal option, fewer than two groups, an unreadable file of pairs, one
            without folds or with other ones than the rest, or a picture that is missing.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.shares("crop", cfg.crop)
    _options.shares("fmr", cfg.fmr)
    if len(cfg.pairs) < 2:
        raise UserError("pairs", f"{len(cfg.pairs)} groups", "give a file of pairs for two or more")
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity="none")
    parts, folds = [], {}
    for name, path in cfg.pairs.items():
        found = _compared.located(pictures, path, read_pairs(path, FOLDS), cfg.template)
        _compared.joined(found, path)  # each alone has pairs of both kinds
        if found[3] is None:
            raise UserError(f"pairs.{name}", f"{path}: no folds", "give a file of View 2's kind")
        folds[name] = len(np.unique(found[3]))
        parts.append(found)
    if len(set(folds.values())) > 1:
        raise UserError("pairs", f"folds differ ({folds})", "give files with equally many folds")
    c = _compared.joined(tuple(map(np.concatenate, zip(*parts))), "pairs")
    group = np.repeat(np.arange(len(parts)), [len(part[2]) for part in parts])
    return Data(size, pictures, c.rows, c.people, c.pairs, c.same, c.fold, group, tuple(cfg.pairs))


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once and judges all pairs twice.

    `items` holds, for each pair: `valid` (not failed), `correct` and `correct_global` (False where
    failed), `group` and `subjects` i64[P, 2].

    Raises:
        UserError: too many failed: pairs of one kind are left of a group.
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    embeddings = _metrics.unit(raw)
    valid = usable[data.pairs].all(axis=1)
    left, right = data.pairs.T
    distance = np.full(len(valid), np.nan)
    distance[valid] = _metrics.squared_distance(embeddings[left[valid]], embeddings[right[valid]])
    groups = [valid & (data.group == g) for g in range(len(data.names))]
    for name, own in zip(data.names, groups):
        if not data.same[own].any() or data.same[own].all() or len(np.unique(data.fold[own])) < 2:
            raise unusable(
                data.pictures, f"too many pairs of {name} failed, and the rest can't be judged"
            )
    alone, common = (np.zeros(len(valid), bool) for _ in range(2))
    own_rates, common_rates = [], []
    for own in groups:
        accuracies, common_accuracies = [], []
        for f in np.unique(data.fold[own]):
            test = own & (data.fold == f)
            for pool, right_ones, rates in (
                (own, alone, accuracies),
                (valid, common, common_accuracies),
            ):
                train = pool & (data.fold != f)
                threshold = _metrics.lfw_threshold(distance[train], data.same[train])
                right_ones[test] = (distance[test] < threshold) == data.same[test]
                rates.append(float(np.mean(right_ones[test])))
        own_rates.append(float(np.mean(accuracies)))
        common_rates.append(float(np.mean(common_accuracies)))

    metrics = {"n": float(np.sum(valid)), "failed": float(np.sum(~valid))}
    for tail, rates in (("", own_rates), ("_global", common_rates)):
        metrics[f"accuracy{tail}"] = float(np.mean(rates))
        metrics |= {f"accuracy{tail}/{n}": rate for n, rate in zip(data.names, rates)}
        errors = 1 - np.array(rates)
        if errors.min() > 0:
            metrics[f"ser{tail}"] = float(errors.max() / errors.min())
    metrics["accuracy_std"] = float(np.std(own_rates))
    metrics |= _unequal(cfg, data, 1 - distance / 2, groups, valid)
    items = {
        "valid": valid,
        "correct": alone,
        "correct_global": common,
        "group": data.group,
        "subjects": np.unique(data.people, return_inverse=True)[1][data.pairs],
    }
    known = _bootstrap.subset(items, valid)
    metrics |= _bootstrap.bounds(known, STATISTICS, cfg.bootstrap, cfg.seed)
    return Result(metrics=metrics, items=items, **drawn(embeddings, data.people, usable))


STATISTICS: dict[str, _bootstrap.Statistic] = {"accuracy": _bootstrap.weighted_mean("correct")}
"""Those with intervals."""


def _unequal(cfg: Config, data: Data, score, groups, valid) -> dict[str, float]:
    """Error rates at a common threshold; none where `fmr` allows less than one impostor."""
    impostors = np.sort(score[valid & ~data.same])[::-1]
    allowed = int(cfg.fmr * len(impostors))
    if not allowed:
        return {}
    bar = impostors[min(allowed, len(impostors) - 1)]
    matched = np.array([np.sum(score[g & ~data.same] > bar) for g in groups])
    missed = np.array([np.sum(score[g & data.same] <= bar) for g in groups])
    trials = [np.array([np.sum(g & kind) for g in groups]) for kind in (~data.same, data.same)]
    fmr, fnmr = matched / trials[0], missed / trials[1]
    out = {f"fmr/{name}": float(rate) for name, rate in zip(data.names, fmr)}
    out |= {f"fnmr/{name}": float(rate) for name, rate in zip(data.names, fnmr)}
    smooth = (_fairness.jeffreys(e, t) for e, t in zip((matched, missed), trials))
    return out | {
        "garbe": _fairness.garbe(fmr, fnmr),
        "fdr": _fairness.fdr(fmr, fnmr),
        "inequity": _fairness.inequity(*smooth),
    }


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Accuracy of `a` minus that of `b` over the pairs both could score, with its 95 % interval.

    Args:
        a: a result of `run`.
        b: another on the same pairs.
        n: bootstrap draws over people.
        seed: of the draws.
    """
    return _bootstrap.differences(a.items, b.items, STATISTICS, n, seed)
