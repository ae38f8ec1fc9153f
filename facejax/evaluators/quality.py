"""Does the length of an embedding tell which pictures a recogniser should not trust?

The error-versus-reject curve (Grother & Tabassi 2007): pairs are left out in the order of their
quality, the lower of the two pictures', and the share of genuine pairs that are missed is taken
among the rest, at the threshold whose false-match rate over all impostor pairs is `fmr`. A useful
quality makes the curve fall. Quality is the embedding's length before it is normalised, which
MagFace and AdaFace train for; a quality drawn at random is shown beside it.

Metrics: `fnmr` (nothing left out), `fnmr@reject=R` for each R, `area` (the mean of the curve up to
the largest R, over `fnmr`: 1 is useless, 0 perfect; not where nothing is missed), `area_chance`
(the same of a random order), `threshold`, `n` pairs, `failed` ones (with a picture that can't be
decoded or has no finite embedding).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _compared, _metrics, _options
from facejax.evaluators._embed import Flip, drawn, embed_pictures
from facejax.evaluators._pictures import Pictures, open_pictures
from facejax.evaluators._tiny import write_people

STEPS = 100


@dataclass(frozen=True)
class Config:
    """What is compared.

    Attributes:
        path: folder or zip of the pictures.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        pairs: a file of pairs, a number of pairs to draw, or "auto".
        template: picture of a line of the file, from `name` and `number`.
        fmr: false-match rate of the threshold.
        reject: shares R of `fnmr@reject=R`.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        seed: of drawn pairs and of the random quality.
    """

    path: str = ""
    source: Mapping[str, Any] | None = None
    pairs: str | int = "auto"
    template: str = _compared.TEMPLATE
    fmr: float = 1e-3
    reject: tuple[float, ...] = (0.1, 0.2, 0.3)
    crop: float = 1.0
    flip: Flip = "sum"
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Twenty people with five pictures each."""
        write_people(Path(root) / "images", 20, 5, "{name}/{number}.png")
        return cls(path=str(Path(root) / "images"), fmr=0.1)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        compared: the pairs.
    """

    size: int
    pictures: Pictures
    compared: _compared.Compared


def prepare(cfg: Config, size: int) -> Data:
    """Reads or draws the pairs.

    Raises:
        UserError: an illegal option, an unreadable file of pairs, or a picture that is missing.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.shares("crop", cfg.crop)
    _options.shares("fmr", cfg.fmr)
    if not cfg.reject or not all(0 < r < 1 for r in cfg.reject):
        raise UserError("reject", f"{cfg.reject}", "give shares between 0 and 1")
    identity = "parent" if _compared.are_drawn(cfg.pairs) else "none"
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity=identity)
    return Data(size, pictures, _compared.compare(pictures, cfg.pairs, cfg.template, cfg.seed))


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once.

    `items` holds, for each pair: `valid` (not failed), `same`, `missed` (a genuine pair below the
    threshold), `rank` (share of pairs of lower quality; 0 where failed) and `subjects` i64[P, 2].

    Raises:
        UserError: too many failed, or fewer impostors than `fmr` needs.
    """
    c = data.compared
    raw, usable = embed_pictures(embed, data.pictures, c.rows, data.size, cfg.flip)
    embeddings = _metrics.unit(raw)
    length = np.linalg.norm(np.asarray(raw, np.float64), axis=1)
    valid = usable[c.pairs].all(axis=1)
    same, pairs = c.same[valid], c.pairs[valid]
    impostors = int(np.sum(~same))
    if not same.any() or not _metrics.allowed_impostors(impostors, cfg.fmr):
        what = f"{np.sum(same)} genuine and {impostors} impostor pairs for fmr {cfg.fmr:g}"
        raise UserError(data.pictures.where, what, "give more pairs, or a larger fmr")
    left, right = pairs.T
    score = np.sum(embeddings[left] * embeddings[right], axis=1)
    _, threshold = _metrics.tar_at_far(score, same, cfg.fmr)
    missed = same & (score <= threshold)
    quality = np.minimum(length[left], length[right])
    chance = np.random.default_rng(cfg.seed).permutation(len(quality))
    shares = np.linspace(0, max(cfg.reject), STEPS + 1)
    curve, flat = (_after_rejecting(q, same, missed, shares) for q in (quality, chance))
    metrics = {
        "fnmr": float(curve[0]),
        "threshold": float(threshold),
        "n": float(len(same)),
        "failed": float(np.sum(~valid)),
    }
    for share in cfg.reject:
        at = _after_rejecting(quality, same, missed, np.array([share]))[0]
        metrics[f"fnmr@reject={share:g}"] = float(at)
    if curve[0] > 0:
        metrics["area"] = float(np.mean(curve) / curve[0])
        metrics["area_chance"] = float(np.mean(flat) / flat[0])
    rank = np.zeros(len(valid))
    rank[valid] = np.argsort(np.argsort(quality, kind="stable")) / len(quality)
    items = {"valid": valid, "same": c.same, "rank": rank, "missed": np.zeros(len(valid), bool)}
    items["missed"][valid] = missed
    items["subjects"] = np.unique(c.people, return_inverse=True)[1][c.pairs]
    axes = {"xlabel": "share of pairs left out", "ylabel": "FNMR"}
    return Result(
        metrics=metrics,
        curves={
            "reject": {"x": shares, "y": curve, **axes},
            "reject/chance": {"x": shares, "y": flat, **axes},
        },
        items=items,
        **drawn(embeddings, c.people, usable),
    )


def _after_rejecting(quality, same, missed, shares: np.ndarray) -> np.ndarray:
    """Share of genuine pairs that are missed once the worst shares of all pairs are left out."""
    order = np.argsort(quality, kind="stable")
    genuine = np.cumsum(same[order][::-1])[::-1]
    wrong = np.cumsum(missed[order][::-1])[::-1]
    first = np.minimum((shares * len(order)).astype(int), len(order) - 1)
    return wrong[first] / np.maximum(genuine[first], 1)


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """`fnmr` of `a` minus that of `b` over the pairs both could score, with its 95 % interval.

    Args:
        a: a result of `run`.
        b: another on the same pairs.
        n: bootstrap draws over people.
        seed: of the draws.
    """
    sides = [_bootstrap.subset(r.items, a.items["same"]) for r in (a, b)]
    return _bootstrap.differences(*sides, {"fnmr": _bootstrap.weighted_mean("missed")}, n, seed)
