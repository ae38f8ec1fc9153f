"""Face verification: do two pictures show the same person?

The LFW protocol (Huang et al., 2007, View 2) as insightface and davidsandberg/facenet run it: for
each fold the first threshold in {0, .01, ..., 3.99} on the squared distance of unit embeddings with
the highest accuracy on the *other* folds decides the fold. Scores are cosines (1 - distance / 2),
which order pairs as that distance does; a pair is accepted above the threshold.

LFW's View 1, for development, is protocol "dev": the threshold is chosen on one file of pairs and
judged on another.

The pairs come from a file, from a `.bin` of insightface, or are drawn from who is on the pictures
(`_drawn_pairs.py`). A pair with a picture that can't be decoded, or whose embedding is not finite,
is left out of every number and counted in `failed`. A picture that isn't there at all is an error,
raised by `prepare`.

Metrics: `accuracy` and `accuracy_std` (mean and population deviation over folds), `accuracy_low`
and `accuracy_high` (95 %, bootstrap over people), `auc`, `eer`, `tar@far=F` for each F,
`val@far=1e-3` (the threshold from the other folds), `threshold` (a cosine, mean over folds), `n`
and `failed` pairs. A `tar@far=F` that less than one impostor would decide is left out; where fewer
than ten do, `impostors@far=F` says how many.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from facejax.data.bins import SUFFIX
from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _compared, _metrics, _options
from facejax.evaluators._bin_pairs import bin_pairs
from facejax.evaluators._embed import Flip, drawn, embed_pictures, unusable
from facejax.evaluators._pairs import read_pairs
from facejax.evaluators._pictures import Pictures, open_pictures
from facejax.evaluators._tiny import write_people

VAL_FAR = 1e-3


@dataclass(frozen=True)
class Config:
    """What is compared, and how.

    Attributes:
        path: folder or zip of the pictures, in a folder per person if `pairs` are drawn; or a
            `.bin` of insightface, which holds pictures and pairs.
        pairs: pairs file (see `_pairs.read_pairs`), or how many pairs to draw; "auto" takes each
            picture about once per kind, up to 6,000 pairs.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        template: picture of a line of the pairs file, from `name` and `number`.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        protocol: "lfw10" needs folds; "dev" chooses the threshold on `train_pairs` (LFW's View 1);
            "best" chooses it on the very pairs it judges, so its accuracy is optimistic, and it
            refuses a file with folds, as "dev" does.
        train_pairs: pairs file of protocol "dev", without folds.
        quantize: compare embeddings of one byte per dimension, as they would be stored.
        subtract_mean: subtract the mean embedding of the other folds' pairs before comparing.
        far: false-accept rates F of `tar@far=F`.
        tar: "exact" keeps FAR <= F under ties; "insightface" takes the nearest point of the ROC.
        bootstrap: draws of the interval; 0 leaves it out.
        seed: of the interval's draws and of drawn pairs.
    """

    path: str = ""
    pairs: str | int = "auto"
    source: Mapping[str, Any] | None = None
    template: str = _compared.TEMPLATE
    crop: float = 1.0
    flip: Flip = "none"
    protocol: Literal["lfw10", "dev", "best"] = "lfw10"
    train_pairs: str = ""
    quantize: bool = False
    subtract_mean: bool = False
    far: tuple[float, ...] = (1e-1, 1e-2, 1e-3)
    tar: Literal["exact", "insightface"] = "exact"
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Twelve people with six pictures each, and five folds of four pairs."""
        people, template = 12, "{name}/{name}_{number:04d}.png"
        write_people(Path(root) / "images", people, 6, template)
        lines = ["5\t2"]
        for fold in range(5):
            a, b = 2 * fold, 2 * fold + 1
            lines += [f"P{a}\t1\t2", f"P{b}\t3\t4"]
            lines += [f"P{a}\t5\tP{b}\t6", f"P{b}\t5\tP{(b + 1) % people}\t6"]
        pairs = Path(root) / "pairs.txt"
        pairs.write_text("\n".join(lines) + "\n")
        return cls(path=str(Path(root) / "images"), pairs=str(pairs), template=template)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], each picture of a pair once.
        people: str[N], person of each picture.
        pairs: i64[P, 2], positions in `rows`.
        same: bool[P].
        fold: i64[P], all 0 without folds; of protocol "dev" 0 for training and 1 for testing.
        tested: bool[P], pairs that count.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    people: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    tested: np.ndarray


def prepare(cfg: Config, size: int) -> Data:
    """Reads or draws the pairs and checks that every picture is there.

    Raises:
        UserError: an illegal option, an unreadable pairs file, a picture that is missing, a
            protocol that doesn't fit the file, pairs of one kind only, or too few people to draw.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.choice("protocol", cfg.protocol, ("lfw10", "dev", "best"))
    _options.choice("tar", cfg.tar, ("exact", "insightface"))
    _options.shares("crop", cfg.crop)
    _options.shares("far", *cfg.far)
    if (cfg.protocol == "dev") != bool(cfg.train_pairs):
        what = f"protocol '{cfg.protocol}' with train_pairs '{cfg.train_pairs}'"
        raise UserError("train_pairs", what, "give both protocol='dev' and a file, or neither")
    if cfg.path.endswith(SUFFIX):
        pictures, c = _of_bin(cfg)
    else:
        identity = "parent" if _compared.are_drawn(cfg.pairs) else "none"
        pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity=identity)
        if cfg.protocol == "dev":
            return _dev(cfg, pictures, size)
        c = _compared.compare(pictures, cfg.pairs, cfg.template, cfg.seed)
    if (c.fold is None) == (cfg.protocol == "lfw10"):
        what, remedy = (
            ("have no folds", "use protocol='best' or 'dev', or a View 2 file")
            if c.fold is None
            else ("have folds, on which protocol='best' would tune", "use protocol='lfw10'")
        )
        raise UserError("pairs", f"{cfg.pairs}: they {what}", remedy)
    fold = np.zeros(len(c.pairs), np.int64) if c.fold is None else c.fold
    tested = np.ones(len(fold), bool)
    return Data(size, pictures, c.rows, c.people, c.pairs, c.same, fold, tested)


def _dev(cfg: Config, pictures: Pictures, size: int) -> Data:
    parts = []
    for key, path in (("train_pairs", cfg.train_pairs), ("pairs", cfg.pairs)):
        if _compared.are_drawn(path):
            raise UserError(key, "protocol='dev' draws no pairs", "give a pairs file without folds")
        listed = read_pairs(path)
        if listed.fold is not None:
            raise UserError(key, f"{path}: they have folds", "use protocol='lfw10' for such a file")
        found = _compared.located(pictures, path, listed, cfg.template)
        _compared.joined(found, path)  # each alone has pairs of both kinds
        parts.append(found)
    people, pairs, same = (np.concatenate(both) for both in list(zip(*parts))[:3])
    fold = np.repeat([0, 1], [len(part[2]) for part in parts])
    c = _compared.joined((people, pairs, same, fold), cfg.pairs)
    return Data(size, pictures, c.rows, c.people, c.pairs, c.same, fold, fold == 1)


def _of_bin(cfg: Config) -> tuple[Pictures, _compared.Compared]:
    wrong = {
        "source": cfg.source is not None,
        "pairs": cfg.pairs != "auto",
        "protocol": cfg.protocol == "dev",
    }
    for key in (key for key, given in wrong.items() if given):
        what, remedy = f"{cfg.path} has its own pictures and pairs", f"leave {key} out"
        raise UserError(key, what, remedy)
    pictures, *found, fold = bin_pairs(cfg.path, cfg.crop)
    return pictures, _compared.joined((*found, None if cfg.protocol == "best" else fold), cfg.path)


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once and scores all pairs.

    `items` holds, for each pair that counts: `same`, `valid` (not failed), `correct` (False where
    failed), `score` (a cosine, NaN where failed) and `subjects` i64[P, 2].

    Raises:
        UserError: too many failed: pairs of one kind or of one fold are left.
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    embeddings = _metrics.unit(_metrics.to_bytes(raw) if cfg.quantize else raw)
    valid = usable[data.pairs].all(axis=1)
    same, fold, pairs = data.same[valid], data.fold[valid], data.pairs[valid]
    parts = [fold == f for f in np.unique(fold)] if cfg.protocol == "dev" else [fold >= 0]
    one_kind = any(same[part].all() or not same[part].any() for part in parts)
    if one_kind or (cfg.protocol != "best" and len(np.unique(fold)) < 2):
        raise unusable(
            data.pictures,
            f"{np.sum(~valid)} of {len(valid)} pairs failed and the rest can't be judged",
        )
    judged = _judge(cfg, embeddings, pairs, same, fold)
    counts = data.tested[valid]
    score, correct, same = judged.score[counts], judged.correct[counts], same[counts]
    valid = valid[data.tested]
    metrics = {
        "accuracy": float(np.mean(judged.accuracies)),
        "accuracy_std": float(np.std(judged.accuracies)),
        "auc": _metrics.auc(score, same),
        "eer": _metrics.eer(score, same),
        "threshold": float(np.mean(judged.thresholds)),
        "n": float(len(same)),
        "failed": float(np.sum(~valid)),
    }
    if judged.vals:
        metrics[f"val@far={_metrics.far_name(VAL_FAR)}"] = float(np.mean(judged.vals))
    metrics |= _metrics.tar_metrics(score, same, cfg.far, cfg.tar)
    items = {
        "same": data.same[data.tested],
        "valid": valid,
        "correct": _spread(correct, valid, False),
        "score": _spread(score, valid, np.nan),
        "subjects": np.unique(data.people, return_inverse=True)[1][data.pairs[data.tested]],
    }
    known = _bootstrap.subset(items, valid)
    metrics |= _bootstrap.bounds(known, STATISTICS, cfg.bootstrap, cfg.seed)
    shown = drawn(embeddings, data.people, usable)
    return Result(metrics=metrics, curves=_curves(score, same), items=items, **shown)


STATISTICS: dict[str, _bootstrap.Statistic] = {"accuracy": _bootstrap.weighted_mean("correct")}
"""Those with intervals."""


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Accuracy of `a` minus that of `b` over the pairs both could score, with its 95 % interval.

    Each result keeps the thresholds its own run chose. Here accuracy is the mean over pairs, which
    equals the mean over folds when none failed.

    Args:
        a: a result of `run`.
        b: another on the same pairs.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        {"accuracy": (difference, low, high)}.
    """
    return _bootstrap.differences(a.items, b.items, STATISTICS, n, seed)


@dataclass(frozen=True)
class _Judged:
    score: np.ndarray  # f64[P], cosines
    correct: np.ndarray  # bool[P]
    accuracies: list[float]  # per fold
    thresholds: list[float]  # per fold, cosines
    vals: list[float]  # per fold, true-accept rate at VAL_FAR


def _judge(
    cfg: Config, embeddings: np.ndarray, pairs: np.ndarray, same: np.ndarray, fold: np.ndarray
) -> _Judged:
    left, right = pairs.T
    tests = {"best": [fold >= 0], "dev": [fold == 1]}
    tests = tests.get(cfg.protocol, [fold == f for f in np.unique(fold)])
    splits = [(test if cfg.protocol == "best" else ~test, test) for test in tests]
    distance = _metrics.squared_distance(embeddings[left], embeddings[right])
    judged = _Judged(np.empty(len(same)), np.empty(len(same), bool), [], [], [])
    for train, test in splits:
        if cfg.subtract_mean:
            # Of plain distances the mean would cancel; it acts through the second normalisation.
            mean = embeddings[pairs[train].ravel()].mean(axis=0)
            centred = _metrics.unit(embeddings - mean)
            distance = _metrics.squared_distance(centred[left], centred[right])
        threshold = _metrics.lfw_threshold(distance[train], same[train])
        judged.score[test] = 1 - distance[test] / 2
        judged.correct[test] = (distance[test] < threshold) == same[test]
        judged.accuracies.append(float(np.mean(judged.correct[test])))
        judged.thresholds.append(1 - threshold / 2)
        if _metrics.allowed_impostors(np.sum(~same[train]), VAL_FAR) and same[test].any():
            limit = _metrics.val_threshold(distance[train], same[train], VAL_FAR)
            judged.vals.append(float(np.mean(distance[test][same[test]] < limit)))
    return judged


def _curves(score: np.ndarray, same: np.ndarray) -> dict[str, dict]:
    far = np.geomspace(1 / np.sum(~same), 1, 200)
    tar = _metrics.tar_at_fars(score, same, far)[0]
    curves = {"roc": {"x": far, "y": tar, "xlabel": "FAR", "ylabel": "TAR", "logx": True}}
    edges = np.linspace(-1, 1, 81)
    for name, which in (("same", same), ("different", ~same)):
        share = np.histogram(np.clip(score[which], -1, 1), edges)[0] / np.sum(which)
        middle = (edges[1:] + edges[:-1]) / 2
        curves[f"scores/{name}"] = {
            "x": middle,
            "y": share,
            "xlabel": "cosine",
            "ylabel": "share of pairs",
        }
    return curves


def _spread(values: np.ndarray, valid: np.ndarray, absent: float | bool) -> np.ndarray:
    out = np.full(len(valid), absent)
    out[valid] = values
    return out
