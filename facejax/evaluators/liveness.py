"""Is a face live, or a presentation attack? Zero-shot, by texts alone.

Each class has prompts. With `pool = "class"` their embeddings are averaged and normalised again
(normalise, mean, normalise), so that a class is one text; with "prompt" every prompt is a text. The
texts' softmax of the scaled cosines is p(text | image): the decision is the class of the arg-max
text, the live score the sum over the live texts, kept as log odds so that it doesn't saturate.
Prompts of CLIPC8 are unpublished; the default ones are facejax's own, a decision [D].

People of a dev part fix the threshold, where its FAR and FRR are nearest (EER), and the test part,
of other people, is judged by it: `hter`; by ISO/IEC 30107-3 `apcer` (the largest of
`apcer/<attack>`), `bpcer`, `acer`. Without a threshold: `auc`, `eer`, `tpr@fpr=F` (exact
under ties; `attacks@fpr=F` where fewer than ten attacks decide it, left out below one).
`acer_argmax` with `apcer_argmax` and `bpcer_argmax` take the decision by the arg-max text instead,
`accuracy` is the share of right classes. `hter_optimistic` takes the threshold from the test part
itself, as tables of cross-domain liveness do. `threshold` is a probability. `n` and `failed` test
pictures.

`auc`, `eer`, `hter`, `acer` and `tpr@fpr=F` with `@histogram` are what colours tell: a logistic
regression on 16 levels of each channel, which is fitted on half of the dev people and has its
strength and threshold from the others; `auc@histogram_diff` is how much better the texts are.
Intervals are bootstraps over people.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import expit

from facejax.errors import UserError
from facejax.evaluators import Joint, Result, _bootstrap, _metrics, _options, _pad, _probe
from facejax.evaluators._baselines import colour_histograms
from facejax.evaluators._embed import drawn, embed_pictures
from facejax.evaluators._hashing import split_people
from facejax.evaluators._pictures import Pictures, labels_of, open_pictures
from facejax.prompts import ATTACKS

JOINT = True

Pool = Literal["class", "prompt"]

STRENGTHS = (1.0, 0.1, 0.01, 0.001)  # of the histogram baseline


@dataclass(frozen=True)
class Config:
    """What is judged, and by which texts.

    Attributes:
        path: folder or zip of the pictures.
        labels: beside `path`, its label files; see `facejax/data/labels.py`.
        identity: beside `path`, who is on a picture: "parent", "none" or a column.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        dev_source: pictures of the dev part; None deals the people of the pictures to both parts.
        dev: share of the people that the dev part gets without `dev_source`.
        column: field of classes that says what is presented.
        live: name of its class that is live.
        prompts: class -> texts; every class that occurs needs some.
        pool: "class" or "prompt".
        fpr: rates F of `tpr@fpr=F`.
        crop: share of the centred square of each picture that is kept.
        bootstrap: draws of the intervals; 0 leaves them out.
        seed: of the draws.
    """

    path: str = ""
    labels: str | tuple[str, ...] = ()
    identity: str = "parent"
    source: Mapping[str, Any] | None = None
    dev_source: Mapping[str, Any] | None = None
    dev: float = 0.4
    column: str = "attack"
    live: str = "live"
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(ATTACKS))
    pool: Pool = "class"
    fpr: tuple[float, ...] = (0.01, 0.1)
    crop: float = 1.0
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Synthetic faces, half of them live; nothing is written beneath `root`."""
        attacks = ("print", "screen")
        source = {"name": "synthetic", "n": 160, "identities": 80, "size": 32, "attacks": attacks}
        return cls(source=source, bootstrap=50)


@dataclass(frozen=True)
class Part:
    """Labelled pictures.

    Attributes:
        pictures: where they are.
        rows: i64[N].
        kind: i64[N], 0 for live, else a place in `Data.classes`.
        people: str[N].
    """

    pictures: Pictures
    rows: np.ndarray
    kind: np.ndarray
    people: np.ndarray

    def take(self, which: np.ndarray) -> "Part":
        return Part(self.pictures, self.rows[which], self.kind[which], self.people[which])


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        classes: names, live first, then as in the prompts.
        dev: the part that fixes the threshold.
        test: the part that is judged.
    """

    size: int
    classes: tuple[str, ...]
    dev: Part
    test: Part


def prepare(cfg: Config, size: int) -> Data:
    """Reads labels and people.

    Raises:
        UserError: an illegal option, a class without prompts, or a part without live pictures or
            without attacks.
    """
    _options.choice("pool", cfg.pool, get_args(Pool))
    _options.shares("crop", cfg.crop)
    _options.shares("dev", cfg.dev)
    _options.shares("fpr", *cfg.fpr)
    if not cfg.prompts.get(cfg.live) or len(cfg.prompts) < 2 or not all(cfg.prompts.values()):
        what = f"no texts of '{cfg.live}', or of attacks"
        raise UserError("prompts", what, "give every class one text or more")
    classes = (cfg.live, *(name for name in cfg.prompts if name != cfg.live))
    files = (cfg.labels,) if isinstance(cfg.labels, str) else cfg.labels
    who = {"identity": cfg.identity}
    if cfg.identity not in ("parent", "none"):
        who = {"identity": "column", "identity_column": cfg.identity}
    folder = {"labels": files, "classes": (cfg.column,), "missing": "unknown", **who}
    part = _labelled(cfg, classes, open_pictures(cfg.path, cfg.source, cfg.crop, **folder))
    if cfg.dev_source is None:
        in_dev = split_people(part.people.tolist(), (cfg.dev, 1 - cfg.dev)) == 0
        dev, test = part.take(in_dev), part.take(~in_dev)
    else:
        dev = _labelled(cfg, classes, open_pictures("", cfg.dev_source, cfg.crop))
        test = part
    for half in (dev.take(_fitted(dev)), dev.take(~_fitted(dev)), test):
        _need_both(half.kind, half.pictures.where)
    return Data(size, classes, dev, test)


def run(cfg: Config, data: Data, joint: Joint) -> Result:
    """Compares every picture with the texts and judges the test part.

    `items` holds, for each test picture: `valid` (not failed), `subjects` i64 (person), `kind` i64
    (0 live), `score` (log odds of live; 0 where failed), `accepted` and `right` (its class; both
    False where failed), `histogram` and `accepted_histogram` likewise of the baseline.

    Raises:
        UserError: so many pictures failed that a part has no live pictures or no attacks left.
    """
    texts, owner = _texts(cfg, data.classes, joint)
    dev_x, dev_colours, dev_usable = _seen(joint, data.dev, data.size)
    x, colours, valid = _seen(joint, data.test, data.size)
    fitted = _fitted(data.dev)
    for part, usable in (
        (data.dev, dev_usable & fitted),
        (data.dev, dev_usable & ~fitted),
        (data.test, valid),
    ):
        _need_both(part.kind[usable], part.pictures.where)

    dev_kind = data.dev.kind
    dev_score, _ = _judged(joint, dev_x, texts, owner)
    threshold = _pad.eer_threshold(dev_score[dev_usable], dev_kind[dev_usable])
    score, found = _judged(joint, x, texts, owner)
    colour, bar = _by_colour(dev_colours, dev_kind, dev_usable & fitted, dev_usable & ~fitted)
    baseline = colour(colours)
    items = {
        "valid": valid,
        "subjects": np.unique(data.test.people, return_inverse=True)[1],
        "kind": data.test.kind,
        "score": np.where(valid, score, 0.0),
        "accepted": valid & (score > threshold),
        "right": valid & (found == data.test.kind),
        "histogram": np.where(valid, baseline, 0.0),
        "accepted_histogram": valid & (baseline > bar),
    }
    known = _bootstrap.subset(items, valid)
    by_colour = {**known, "score": known["histogram"], "accepted": known["accepted_histogram"]}
    metrics = {
        **_rates(cfg, data, known),
        **_beside(_rates(cfg, data, by_colour)),
        **_argmax(data, known["kind"], found[valid]),
        "threshold": float(expit(threshold)),
        "n": float(np.sum(valid)),
        "failed": float(np.sum(~valid)),
    }
    draws = cfg.bootstrap, cfg.seed
    metrics |= _bootstrap.bounds(known, STATISTICS, *draws)
    if cfg.bootstrap:
        value = _bootstrap.paired_interval(
            known, by_colour, known["subjects"], STATISTICS["auc"], *draws
        )
        ends = ("auc@histogram_diff", "auc@histogram_diff_low", "auc@histogram_diff_high")
        metrics |= dict(zip(ends, value))
    names = np.array(data.classes)[data.test.kind]
    rate = np.linspace(0, 1, 101)
    tpr = _metrics.tar_at_fars(known["score"], known["kind"] == 0, rate)[0]
    return Result(
        metrics=metrics,
        curves={"roc": {"x": rate, "y": tpr, "xlabel": "attacks accepted", "ylabel": "TPR"}},
        items=items,
        **drawn(x, names, valid),
    )


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Metrics of `a` minus those of `b` on the pictures both could embed, with 95 % intervals.

    Each keeps its own threshold.

    Args:
        a: a result of `run`.
        b: another on the same pictures.
        n: bootstrap draws over people.
        seed: of the draws.
    """
    return _bootstrap.differences(a.items, b.items, STATISTICS, n, seed)


STATISTICS: dict[str, _bootstrap.Statistic] = {
    "auc": lambda items, w: _pad.auc(items["score"], items["kind"], w),
    "hter": lambda items, w: _pad.hter(items["accepted"], items["kind"], w),
    "acer": lambda items, w: _pad.acer(items["accepted"], items["kind"], w),
    "accuracy": _bootstrap.weighted_mean("right"),
}
"""Those with intervals."""


def _texts(cfg: Config, classes: tuple[str, ...], joint: Joint) -> tuple[np.ndarray, np.ndarray]:
    """Unit texts f64[T, D] and the class of each, i64[T]."""
    owner = np.repeat(np.arange(len(classes)), [len(cfg.prompts[name]) for name in classes])
    each = _metrics.unit(joint.text([text for name in classes for text in cfg.prompts[name]]))
    if cfg.pool == "prompt":
        return each, owner
    means = np.stack([each[owner == k].mean(axis=0) for k in range(len(classes))])
    return _metrics.unit(means), np.arange(len(classes))


def _seen(joint: Joint, part: Part, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings f64[N, D], colour histograms f64[N, H] and bool[N] usable, read once."""
    colours = []

    def both(images: np.ndarray) -> np.ndarray:
        colours.append(colour_histograms(images))
        return joint.image(images)

    found, usable = embed_pictures(both, part.pictures, part.rows, size)
    return _metrics.unit(found), np.concatenate(colours)[: len(found)], usable


def _judged(joint: Joint, x: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> tuple:
    """Log odds of live f64[n] and classes i64[n] of embeddings f64[n, D]."""
    logits = float(joint.scale) * (x @ texts.T)
    live = owner == 0
    mass = [np.logaddexp.reduce(logits[:, which], axis=1) for which in (live, ~live)]
    return mass[0] - mass[1], owner[np.argmax(logits, axis=1)]


def _by_colour(x: np.ndarray, kind: np.ndarray, fit: np.ndarray, choose: np.ndarray) -> tuple:
    """The histogram baseline: a function from histograms to scores, and its threshold."""
    parts = [(x[which], (kind[which] == 0).astype(np.int64)[:, None]) for which in (fit, choose)]
    probe = _probe.fit_probe(*parts, 2, False, STRENGTHS)

    def score(histograms: np.ndarray) -> np.ndarray:
        return probe.linear(probe.axes.apply(histograms))[:, 0]

    return score, _pad.eer_threshold(score(x[choose]), kind[choose])


def _rates(cfg: Config, data: Data, items: _bootstrap.Items) -> dict[str, float]:
    score, kind, accepted = items["score"], items["kind"], items["accepted"]
    live, ones = kind == 0, np.ones((1, len(kind)))
    each = _pad.apcer_of_each(accepted, kind, ones)[0]
    names = [data.classes[k] for k in np.unique(kind[~live])]
    own = score > _pad.eer_threshold(score, kind)
    found = {
        "auc": _pad.auc(score, kind, ones)[0],
        "eer": _metrics.eer(score, live),
        "hter": _pad.hter(accepted, kind, ones)[0],
        "hter_optimistic": _pad.hter(own, kind, ones)[0],
        "apcer": _pad.apcer(accepted, kind, ones)[0],
        "bpcer": _pad.bpcer(accepted, kind, ones)[0],
        "acer": _pad.acer(accepted, kind, ones)[0],
        **{f"apcer/{name}": rate for name, rate in zip(names, each)},
    }
    rates = _metrics.tar_metrics(score, live, cfg.fpr)
    for name, rate in rates.items():
        found[name.replace("tar@far", "tpr@fpr").replace("impostors@far", "attacks@fpr")] = rate
    return {name: float(value) for name, value in found.items()}


def _beside(rates: dict[str, float]) -> dict[str, float]:
    """The headline rates, as those of the histogram baseline."""
    headline = ("auc", "eer", "hter", "acer", "tpr")
    return {f"{n}@histogram": v for n, v in rates.items() if n.partition("@")[0] in headline}


def _argmax(data: Data, kind: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Rates of the decision by the arg-max text."""
    accepted, ones = found == 0, np.ones((1, len(kind)))
    rates = {"apcer": _pad.apcer, "bpcer": _pad.bpcer, "acer": _pad.acer}
    return {
        **{f"{k}_argmax": float(rate(accepted, kind, ones)[0]) for k, rate in rates.items()},
        "accuracy": float(np.mean(found == kind)),
    }


def _labelled(cfg: Config, classes: tuple[str, ...], pictures: Pictures) -> Part:
    """The pictures whose class is known.

    Raises:
        UserError: no such field, or a class that occurs and has no prompts.
    """
    known = pictures.classes(cfg.column, "column")
    if "identity" in pictures.source.fields:
        numbers, people, _ = pictures.values(cfg.column, "identity")
        names = np.array(pictures.names())
        who = np.where(people >= 0, labels_of(pictures.source.fields["identity"], people), names)
    else:
        (numbers, _), who = pictures.values(cfg.column), np.array(pictures.names())
    rows = np.flatnonzero(numbers >= 0)
    found = labels_of(known, numbers[rows])
    for name in np.unique(found):
        if name not in classes:
            what = f"no texts of '{name}', which {pictures.where} shows"
            raise UserError("prompts", what, f"add prompts['{name}']")
    place = {name: k for k, name in enumerate(classes)}
    kind = np.array([place[name] for name in found.tolist()], np.int64)
    return Part(pictures, rows, kind, who[rows])


def _fitted(part: Part) -> np.ndarray:
    """bool[N]: pictures of the half of the people that the histogram baseline is fitted on."""
    salted = [f"histogram {person}" for person in part.people.tolist()]
    return split_people(salted, (0.5, 0.5)) == 0


def _need_both(kind: np.ndarray, where: str) -> None:
    if not (kind == 0).any() or not (kind > 0).any():
        what = "a part has no live pictures or no attacks"
        raise UserError(where, what, "give pictures of more people, and check that they open")
