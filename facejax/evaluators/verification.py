"""Face verification: do two pictures show the same person?

The LFW protocol (Huang et al., 2007, View 2) as insightface and davidsandberg/facenet run it: for
each fold the first threshold in {0, .01, ..., 3.99} on the squared distance of unit embeddings with
the highest accuracy on the *other* folds decides the fold. Scores are cosines (1 - distance / 2),
which order pairs as that distance does; a pair is accepted above the threshold.

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
from facejax.evaluators import Embed, Result, _bootstrap, _metrics, _options
from facejax.evaluators._bin_pairs import bin_pairs
from facejax.evaluators._drawn_pairs import draw_pairs
from facejax.evaluators._embed import Flip, embed_pictures, map_rows
from facejax.evaluators._pairs import read_pairs
from facejax.evaluators._pictures import Pictures, labels_of, open_pictures, rows_by_name
from facejax.evaluators._tiny import write_people

VAL_FAR = 1e-3
FEW_IMPOSTORS = 10


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
        protocol: "lfw10" needs folds; "best" chooses the threshold on the very pairs it judges, so
            its accuracy is optimistic, and it refuses a file with folds.
        subtract_mean: subtract the mean embedding of the other folds' pairs before comparing.
        far: false-accept rates F of `tar@far=F`.
        tar: "exact" keeps FAR <= F under ties; "insightface" takes the nearest point of the ROC.
        bootstrap: draws of the interval; 0 leaves it out.
        seed: of the interval's draws and of drawn pairs.
    """

    path: str = ""
    pairs: str | int = "auto"
    source: Mapping[str, Any] | None = None
    template: str = "{name}/{name}_{number:04d}.jpg"
    crop: float = 1.0
    flip: Flip = "none"
    protocol: Literal["lfw10", "best"] = "lfw10"
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
        fold: i64[P], all 0 without folds.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    people: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    fold: np.ndarray


def prepare(cfg: Config, size: int) -> Data:
    """Reads or draws the pairs and checks that every picture is there.

    Raises:
        UserError: an illegal option, an unreadable pairs file, a picture that is missing, a
            protocol that doesn't fit the file, pairs of one kind only, or too few people to draw.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.choice("protocol", cfg.protocol, ("lfw10", "best"))
    _options.choice("tar", cfg.tar, ("exact", "insightface"))
    _options.shares("crop", cfg.crop)
    _options.shares("far", *cfg.far)
    pictures, people, pairs, same, fold = (
        _of_bin(cfg) if cfg.path.endswith(SUFFIX) else _of_pictures(cfg)
    )
    if (fold is None) == (cfg.protocol == "lfw10"):
        what, remedy = (
            ("have no folds", "use protocol='best', or a View 2 file")
            if fold is None
            else ("have folds, on which protocol='best' would tune", "use protocol='lfw10'")
        )
        raise UserError("pairs", f"{cfg.pairs}: they {what}", remedy)
    if same.all() or not same.any():
        raise UserError(cfg.pairs, "pairs of one kind only", "give matched and mismatched pairs")
    rows, first, positions = np.unique(pairs, return_index=True, return_inverse=True)
    fold = np.zeros(len(pairs), np.int64) if fold is None else fold
    return Data(size, pictures, rows, people.ravel()[first], positions.reshape(-1, 2), same, fold)


def _of_bin(cfg: Config) -> tuple:
    if cfg.pairs != "auto" or cfg.source is not None:
        key = "source" if cfg.source is not None else "pairs"
        raise UserError(key, f"{cfg.path} has its own pictures and pairs", f"leave {key} out")
    *found, fold = bin_pairs(cfg.path, cfg.crop)
    return *found, None if cfg.protocol == "best" else fold


def _of_pictures(cfg: Config) -> tuple:
    drawn = cfg.pairs == "auto" or isinstance(cfg.pairs, int)
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity="parent" if drawn else "none")
    return pictures, *(_draw if drawn else _read)(cfg, pictures)


def _draw(cfg: Config, pictures: Pictures) -> tuple:
    """People str[P, 2], picture rows i64[P, 2], same bool[P] and folds i64[P] of drawn pairs."""
    field = pictures.classes("identity", "pairs")
    numbers, _ = pictures.values("identity")
    wanted = None if cfg.pairs == "auto" else cfg.pairs
    pairs, same, fold = draw_pairs(pictures.names(), numbers, wanted, cfg.seed)
    return labels_of(field, numbers[pairs]), pairs, same, fold


def _read(cfg: Config, pictures: Pictures) -> tuple:
    """The same of the pairs file; without folds these are None."""
    listed = read_pairs(cfg.pairs)
    row = rows_by_name(pictures.names())
    pairs = np.empty((len(listed.same), 2), np.int64)
    for p, (pair, line) in enumerate(zip(zip(listed.left, listed.right), listed.lines)):
        for side, (person, number) in enumerate(pair):
            name = _file_name(cfg, person, number)
            if name not in row:
                raise UserError(
                    f"{cfg.pairs}:{line}",
                    f"no picture '{name}' in {pictures.where}",
                    "give the pictures these pairs belong to, or set 'template' to their names",
                )
            pairs[p, side] = row[name]
    people = np.array([[name for name, _ in pair] for pair in zip(listed.left, listed.right)])
    return people, pairs, listed.same, listed.fold


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once and scores all pairs.

    `items` holds, for each pair of the file: `same`, `valid` (not failed), `correct` (False where
    failed), `score` (a cosine, NaN where failed) and `subjects` i64[P, 2].

    Raises:
        UserError: too many failed: pairs of one kind or of one fold are left.
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    embeddings = _metrics.unit(raw)
    valid = usable[data.pairs].all(axis=1)
    same, fold, pairs = data.same[valid], data.fold[valid], data.pairs[valid]
    one_fold = cfg.protocol == "lfw10" and len(np.unique(fold)) < 2
    if same.all() or not same.any() or one_fold:
        raise UserError(
            data.pictures.where,
            f"{np.sum(~valid)} of {len(valid)} pairs failed and the rest can't be judged",
            "check that the pictures open and that the encoder's output is finite",
        )
    judged = _judge(cfg, embeddings, pairs, same, fold)
    score, correct = judged.score, judged.correct
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
    metrics |= _tar(cfg, score, same)
    subjects = np.unique(data.people, return_inverse=True)[1][data.pairs]
    if cfg.bootstrap:
        _, metrics["accuracy_low"], metrics["accuracy_high"] = _bootstrap.interval(
            {"correct": correct},
            subjects[valid],
            _bootstrap.weighted_mean("correct"),
            cfg.bootstrap,
            cfg.seed,
        )
    shown = map_rows(data.people, usable)
    return Result(
        metrics=metrics,
        curves=_curves(score, same),
        items={
            "same": data.same,
            "valid": valid,
            "correct": _spread(correct, valid, False),
            "score": _spread(score, valid, np.nan),
            "subjects": subjects,
        },
        embeddings=embeddings[shown].astype(np.float32),
        labels=data.people[shown],
    )


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
    both = a.items["valid"] & b.items["valid"]
    statistic = _bootstrap.weighted_mean("correct")
    sides = [{"correct": r.items["correct"][both]} for r in (a, b)]
    subjects = a.items["subjects"][both]
    return {"accuracy": _bootstrap.paired_interval(*sides, subjects, statistic, n, seed)}


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
    everything = np.ones(len(same), bool)
    splits = (
        [(everything, everything)]
        if cfg.protocol == "best"
        else [(fold != f, fold == f) for f in np.unique(fold)]
    )
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


def _tar(cfg: Config, score: np.ndarray, same: np.ndarray) -> dict[str, float]:
    found = {}
    for far in cfg.far:
        decide, name = far * np.sum(~same), _metrics.far_name(far)
        if not _metrics.allowed_impostors(np.sum(~same), far):
            continue
        if decide < FEW_IMPOSTORS:
            found[f"impostors@far={name}"] = float(decide)
        found[f"tar@far={name}"] = (
            _metrics.tar_at_far(score, same, far)[0]
            if cfg.tar == "exact"
            else _metrics.tar_at_far_insightface(score, same, far)
        )
    return found


def _curves(score: np.ndarray, same: np.ndarray) -> dict[str, dict]:
    far = np.geomspace(1 / np.sum(~same), 1, 200)
    tar = np.array([_metrics.tar_at_far(score, same, f)[0] for f in far])
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


def _file_name(cfg: Config, person: str, number: int) -> str:
    try:
        return cfg.template.format(name=person, number=number)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            "template", f"'{cfg.template}' can't be filled ({error})", "use {name} and {number:04d}"
        ) from None
