"""What does a space of images and texts say of people, and which factor of their picture moves it?

Every word is put into four templates; delta = cos(image, word) - cos(image, the template without a
word), averaged over templates and over the words of a dimension (Fiske's warmth and competence; the
ABC model's agency, beliefs and communion, each pole by itself, and as + less -). Templates, words
and delta are those of Hausladen et al., "Social perception of faces in a vision-language model".

A *factor* is moved with all else fixed where the source says so by its fields `face`, `factor` and
`level` (the source `synthetic` with `move`, or columns of label files): its effect is delta at the
highest level less delta at the lowest, of one face. With `groups` classes of people are compared
between pictures; then whatever goes with a class goes into its effect too, so equalise the cells,
and don't read it as a cause. Intervals draw faces (or people) with replacement.

Of each factor and dimension: `effect/<factor>/<dimension>` with `_low` and `_high`; `spread/...`
(mean |difference| over pairs of one face at two levels); `weat/...` and `weat_p/...` (association
of the dimension with the highest and the lowest level); `maxskew/...` (at k) and `ndkl/...` of the
pictures ranked by delta, equal shares desired. `effect_max` is the largest |effect|, `effects_told`
how many intervals leave out 0 (of so many, one in twenty does by chance); `n` and `failed`
pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facejax.errors import UserError, nearest
from facejax.evaluators import Joint, Result, _bootstrap, _metrics, _options, _social
from facejax.evaluators._embed import drawn, embed_pictures, unusable
from facejax.evaluators._pictures import Pictures, open_pictures

JOINT = True

TEMPLATES = (
    "A photo of a {} person.",
    "A {} person.",
    "This is a {} person.",
    "cropped face photo of a {} person",
)
WORDS: Mapping[str, tuple[str, ...]] = {
    "warm": ("warm", "trustworthy", "friendly", "honest", "likable", "sincere"),
    "competent": (
        *("competent", "intelligent", "skilled"),
        *("efficient", "assertive", "confident"),
    ),
    "agency+": (
        *("powerful", "high-status", "dominating"),
        *("wealthy", "confident", "competitive"),
    ),
    "agency-": ("powerless", "low-status", "dominated", "poor", "meek", "passive"),
    "belief+": ("science-oriented", "alternative", "liberal", "modern"),
    "belief-": ("religious", "conventional", "conservative", "traditional"),
    "communion+": (
        *("trustworthy", "sincere", "friendly"),
        *("benevolent", "likable", "altruistic"),
    ),
    "communion-": (
        *("untrustworthy", "dishonest", "unfriendly"),
        *("threatening", "unpleasant", "egoistic"),
    ),
}
"""Words of each pole."""
CONTROLS = ("white", "black", "asian", "male", "female", "young", "old")
"""Words that are dimensions of their own with `controls`."""
BIPOLAR = ("agency", "belief", "communion")


@dataclass(frozen=True)
class Plant:
    """A bias to be found: pictures of one level get an embedding that says more of a dimension.

    Attributes:
        factor: whose.
        level: number of the level.
        dimension: which delta changes.
        size: by how much it does.
    """

    factor: str
    level: int
    dimension: str
    size: float


@dataclass(frozen=True)
class Config:
    """Whose pictures, and what is compared.

    Attributes:
        path: folder or zip of the pictures.
        labels: beside `path`, its label files; see `facejax/data/labels.py`.
        identity: beside `path`, who is on a picture: "parent", "none" or a column.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        groups: fields of classes that are compared between pictures.
        controls: adds the words "white", "black", "asian", "male", "female", "young" and "old".
        plant: a bias added to the embeddings, to see it found; None adds none.
        k: pictures that MaxSkew counts; cut to a factor's pictures over its levels.
        pairs: of one face, that `spread` draws.
        permutations: of `weat_p`.
        crop: share of the centred square of each picture that is kept.
        bootstrap: draws of the intervals; 0 leaves them out.
        seed: of all draws.
    """

    path: str = ""
    labels: str | tuple[str, ...] = ()
    identity: str = "parent"
    source: Mapping[str, Any] | None = None
    groups: tuple[str, ...] = ()
    controls: bool = False
    plant: Plant | None = None
    k: int = 1000
    pairs: int = 1000
    permutations: int = 1000
    crop: float = 1.0
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Twelve synthetic faces, two parameters moved; nothing is written beneath `root`."""
        levels = {"yaw": (-20.0, 20.0), "melanin": (0.1, 0.9)}
        source = {"name": "synthetic", "n": 48, "identities": 12, "size": 32, "move": levels}
        return cls(source=source, bootstrap=20, permutations=20)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        units: i64[N], face or person of each picture, which the bootstrap draws.
        factors: names, C of them; the moved ones come first.
        moved: how many of them are moved within a face.
        level: i64[N, C]; -1 where a picture does not take part.
    """

    size: int
    pictures: Pictures
    units: np.ndarray
    factors: tuple[str, ...]
    moved: int
    level: np.ndarray


def prepare(cfg: Config, size: int) -> Data:
    """Reads which picture shows what.

    Raises:
        UserError: an illegal option, no factor to compare, one with a single level, or a planted
            bias of a factor, level or dimension that isn't there.
    """
    _options.shares("crop", cfg.crop)
    moving = ("face", "factor", "level")
    pictures = _open(cfg, moving)
    fields = pictures.source.fields
    names, columns, units = [], [], np.arange(len(pictures.source))
    if "identity" in fields:
        people = pictures.values("identity")[0]
        units = np.where(people >= 0, people, len(people) + units)
    if all(name in fields for name in moving):
        units, factor, level, _ = pictures.values(*moving)
        names += pictures.classes("factor", "source").names
        columns += [np.where(factor == k, level, -1) for k in range(len(names))]
    moved = len(names)
    for group in cfg.groups:
        pictures.classes(group, "groups")
        names.append(group)
        columns.append(pictures.values(group)[0])
    if not names:
        remedy = "move parameters of the source synthetic, or name classes in 'groups'"
        raise UserError("groups", f"nothing to compare in {pictures.where}", remedy)
    level = np.stack(columns, axis=1)
    for name, own in zip(names, level.T):
        if own.max() < 1 or not (own == 0).any():
            raise UserError(pictures.where, f"'{name}' has one level only", "give two or more")
    if cfg.plant is not None:
        _check_plant(cfg, names, level)
    return Data(size, pictures, units, tuple(names), moved, level)


def run(cfg: Config, data: Data, joint: Joint) -> Result:
    """Embeds every picture once and compares it with all words.

    `items` holds, for each picture: `valid` (not failed), `subjects` i64 (face or person), `delta`
    f64[n, K] of the dimensions and `level` i64[n, C] of the factors (-1: no part).

    Raises:
        UserError: so many pictures failed that a factor has no picture left at an end.
    """
    found, valid = embed_pictures(joint.image, data.pictures, range(len(data.units)), data.size)
    dimensions, directions = _directions(cfg, joint)
    x = _metrics.unit(found)
    if cfg.plant is not None:
        x = _planted(cfg.plant, x, data, dimensions, directions)
    delta = np.where(valid[:, None], x @ directions, 0.0)
    level = _complete(data, valid)
    for name, own in zip(data.factors, level.T):
        if own.max() < 1 or not (own == 0).any():
            raise unusable(data.pictures, f"too many pictures failed to compare '{name}'")
    items = {"valid": valid, "subjects": data.units, "delta": delta, "level": level}
    metrics = {"n": float(np.sum(valid)), "failed": float(np.sum(~valid))}
    told = 0
    for c, factor in enumerate(data.factors):
        rows = level[:, c] >= 0
        own = _bootstrap.subset(items, rows)
        own["level"] = own["level"][:, c : c + 1]
        rates = _association(cfg, own, c < data.moved)
        for d, dimension in enumerate(dimensions):
            where = f"{factor}/{dimension}"
            metrics |= {f"{name}/{where}": float(values[d]) for name, values in rates.items()}
            if cfg.bootstrap:
                one = {**own, "delta": own["delta"][:, d : d + 1]}
                _, low, high = _bootstrap.interval(
                    one, one["subjects"], _largest(signed=True), cfg.bootstrap, cfg.seed
                )
                told += not low <= 0 <= high
                metrics |= {f"effect/{where}_low": low, f"effect/{where}_high": high}
    if cfg.bootstrap:
        metrics["effects_told"] = float(told)
    metrics["effect_max"] = float(_largest()(items, np.ones((1, len(valid))))[0])
    return Result(metrics=metrics, items=items, **drawn(x, data.units, valid))


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """The largest effect of `a` less that of `b`, with its 95 % interval.

    Args:
        a: a result of `run`.
        b: another on the same pictures; those that failed in either are left out.
        n: bootstrap draws over faces or people.
        seed: of the draws.
    """
    return _bootstrap.differences(a.items, b.items, {"effect_max": _largest()}, n, seed)


def _largest(signed: bool = False) -> _bootstrap.Statistic:
    """The statistic "largest |effect|"; with `signed` the one effect that there is."""

    def statistic(items: _bootstrap.Items, weights: np.ndarray) -> np.ndarray:
        found = _social.effects(items["delta"], items["level"], weights)
        return found[:, 0, 0] if signed else np.abs(found).max(axis=(1, 2))

    return statistic


def _association(cfg: Config, items: _bootstrap.Items, moved: bool) -> dict[str, np.ndarray]:
    """Metric -> f64[K], of one factor."""
    delta, level = items["delta"], items["level"][:, 0]
    top, levels = delta[level == level.max()], int(level.max()) + 1
    size, p = _social.weat(top, delta[level == 0], cfg.permutations, cfg.seed)
    ranked = [level[np.argsort(-column, kind="stable")] for column in delta.T]
    k = min(cfg.k, max(len(level) // levels, 1))
    found = {
        "effect": _social.effects(delta, items["level"], np.ones((1, len(level))))[0, 0],
        "weat": size,
        "weat_p": p,
        "maxskew": np.array([_social.skew(r, k, levels).max() for r in ranked]),
        "ndkl": np.array([_social.ndkl(r, levels) for r in ranked]),
    }
    if moved:
        units = np.unique(items["subjects"], return_inverse=True)[1]
        found["spread"] = _social.spread(delta, level, units, cfg.pairs, cfg.seed)
    return found


def _words(cfg: Config) -> dict[str, tuple[str, ...]]:
    """Dimension -> its words, without those that are differences of two."""
    return {**WORDS, **({word: (word,) for word in CONTROLS} if cfg.controls else {})}


def _directions(cfg: Config, joint: Joint) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the dimensions, and f64[D, K] whose products with a unit image are the deltas."""
    words = _words(cfg)
    flat = [word for some in words.values() for word in some]
    texts = [t.format(word) for word in flat for t in TEMPLATES]
    blank = [t.format("").replace("  ", " ") for t in TEMPLATES]
    found = _metrics.unit(joint.text(texts + blank)).reshape(len(flat) + 1, len(TEMPLATES), -1)
    each = (found[:-1] - found[-1]).mean(axis=1)
    ends = np.cumsum([len(some) for some in words.values()])[:-1]
    means = dict(zip(words, (part.mean(axis=0) for part in np.split(each, ends))))
    means |= {name: means[f"{name}+"] - means[f"{name}-"] for name in BIPOLAR}
    return tuple(means), np.stack(list(means.values()), axis=1)


def _planted(
    plant: Plant, x: np.ndarray, data: Data, dimensions: tuple[str, ...], directions: np.ndarray
) -> np.ndarray:
    """Adds what changes the dimension's delta by `plant.size`, without normalising again."""
    along = directions[:, dimensions.index(plant.dimension)]
    here = data.level[:, data.factors.index(plant.factor)] == plant.level
    return x + np.where(here, plant.size, 0.0)[:, None] * (along / np.sum(along**2))


def _complete(data: Data, valid: np.ndarray) -> np.ndarray:
    """Levels without failed pictures, nor, of moved factors, the rest of such a picture's face."""
    level = np.where(valid[:, None], data.level, -1)
    for c in range(data.moved):
        own = data.level[:, c] >= 0
        whole = np.bincount(data.units[own & valid], minlength=data.units.max() + 1)
        whole = whole[data.units] == data.level[:, c].max() + 1
        level[:, c] = np.where(whole, level[:, c], -1)
    return level


def _check_plant(cfg: Config, names: list[str], level: np.ndarray) -> None:
    dimensions = (*_words(cfg), *BIPOLAR)
    for key, legal in (("factor", names), ("dimension", dimensions)):
        if getattr(cfg.plant, key) not in legal:
            name = getattr(cfg.plant, key)
            raise UserError(f"plant.{key}", f"no {key} called '{name}'", nearest(name, legal))
    if not (level[:, names.index(cfg.plant.factor)] == cfg.plant.level).any():
        what = f"no picture shows level {cfg.plant.level} of '{cfg.plant.factor}'"
        raise UserError("plant.level", what, "levels are numbered from 0")


def _open(cfg: Config, moving: tuple[str, ...]) -> Pictures:
    """The pictures; of label files, columns called as in `moving` are read where `moving` is."""
    files = (cfg.labels,) if isinstance(cfg.labels, str) else cfg.labels
    classes = cfg.groups or moving
    who = {"identity": cfg.identity}
    if cfg.identity not in ("parent", "none"):
        who = {"identity": "column", "identity_column": cfg.identity}
    folder = {"labels": files, "classes": classes, "missing": "unknown"}
    return open_pictures(cfg.path, cfg.source, cfg.crop, **folder, **who)
