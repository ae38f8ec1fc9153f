"""Does a picture's quality tell whether it will be recognised? Errors as the worst are rejected.

The error-versus-reject curve of Grother & Tabassi (2007): at a threshold that accepts a share `far`
of the impostor pairs (the exact rule of `tar@far`), fixed before anything is rejected, the share of
genuine pairs that are missed falls as the pairs of lowest quality are rejected, if quality knows.
A pair is as good as the worse of its pictures. Quality is the length of the embedding (MagFace and
AdaFace train it to be that), or any score of a list. Equally good pairs are rejected in the order
of the list.

Metrics: `fnmr@reject=R` for each R of `reject`, its 95 % interval (bootstrap over people), `gain`
(how far the area under the curve, up to `most` rejected, lies from that of random rejection, 0, to
that of rejecting the missed pairs first, 1; left out where none is missed), `threshold` (a cosine),
`n` and `failed` pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from facejax.data.labels import read_table
from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _compared, _metrics, _options
from facejax.evaluators._embed import Flip, embed_pictures, map_rows
from facejax.evaluators._pictures import Pictures, open_pictures, rows_by_name
from facejax.evaluators._tiny import write_people

NORM = "norm"


@dataclass(frozen=True)
class Config:
    """What is compared, and what quality is.

    Attributes:
        path: folder or zip of the pictures, in a folder per person if `pairs` are drawn.
        pairs: pairs file, a number of pairs to draw, or "auto", as in `verification`.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        template: picture of a line of the pairs file, from `name` and `number`.
        quality: "norm", or a CSV file with the columns `file` and `score`; higher is better.
        far: share of the impostor pairs that the threshold accepts.
        reject: shares R of the genuine pairs that are rejected.
        most: the share up to which `gain` looks.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        bootstrap: draws of the intervals; 0 leaves them out.
        seed: of the draws, and of drawn pairs.
    """

    path: str = ""
    pairs: str | int = "auto"
    source: Mapping[str, Any] | None = None
    template: str = _compared.TEMPLATE
    quality: str = NORM
    far: float = 1e-2
    reject: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    most: float = 0.5
    crop: float = 1.0
    flip: Flip = "none"
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Twenty-four people with five pictures each, and drawn pairs."""
        write_people(Path(root) / "images", 24, 5, "{name}/{number}.png")
        return cls(path=str(Path(root) / "images"), far=0.1)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        compared: the pairs.
        score: f64[N], quality of each picture by the list, or None for the norm.
    """

    size: int
    pictures: Pictures
    compared: _compared.Compared
    score: np.ndarray | None


def prepare(cfg: Config, size: int) -> Data:
    """Reads or draws the pairs, and the qualities.

    Raises:
        UserError: an illegal option, an unreadable list, a picture that is missing or has no score,
            or too few impostors for `far`.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.shares("crop", cfg.crop)
    _options.shares("far", cfg.far)
    _options.shares("most", cfg.most)
    if not cfg.reject or not all(0 <= share < 1 for share in cfg.reject):
        raise UserError("reject", f"{cfg.reject}", "give shares from 0 on and below 1")
    identity = "parent" if _compared.are_drawn(cfg.pairs) else "none"
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity=identity)
    c = _compared.compare(pictures, cfg.pairs, cfg.template, cfg.seed)
    impostors = int(np.sum(~c.same))
    if not _metrics.allowed_impostors(impostors, cfg.far):
        what = f"{cfg.far} of {impostors} impostor pairs is less than one"
        raise UserError("far", what, f"give {1 / impostors:.2g} or more, or more pairs")
    score = None if cfg.quality == NORM else _scores(cfg.quality, pictures, c.rows)
    return Data(size, pictures, c, score)


def _scores(path: str, pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """f64[N]: the score that a list gives to each picture of `rows`."""
    table = read_table(path)
    if "score" not in table.columns:
        raise UserError(path, "no column called 'score'", "give the columns file and score")
    column, row = table.columns.index("score"), rows_by_name(pictures.names())
    found = np.full(len(pictures.source), np.nan)
    for name, cells in table.rows.items():
        try:
            value = float(cells[column])
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise UserError(path, f"'{cells[column]}' of {name} is no score", "give numbers")
        if name in row:
            found[row[name]] = value
    absent = rows[np.isnan(found[rows])]
    if len(absent):
        name = pictures.source.name(int(absent[0]))
        raise UserError(path, f"no score of '{name}'", "give one for each picture of the pairs")
    return found[rows]


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once, scores all pairs and rejects the worst genuine ones.

    `items` holds, for each genuine pair: whether it was missed as `fnmr@reject=R`, NaN where it
    failed or was rejected; `quality` (NaN where failed) and `subjects` i64[P, 2].

    Raises:
        UserError: so many failed that pairs of one kind are left, or too few impostors.
    """
    c = data.compared
    raw, usable = embed_pictures(embed, data.pictures, c.rows, data.size, cfg.flip)
    embeddings = _metrics.unit(raw)
    valid = usable[c.pairs].all(axis=1)
    score, same = _metrics.cosines(embeddings, c.pairs), c.same
    impostors = int(np.sum(valid & ~same))
    if not (valid & same).any() or not _metrics.allowed_impostors(impostors, cfg.far):
        raise UserError(
            data.pictures.where,
            f"{np.sum(~valid)} of {len(valid)} pairs failed and the rest can't be judged",
            "check that the pictures open and that the encoder's output is finite",
        )
    threshold = _metrics.tar_at_far(score[valid], same[valid], cfg.far)[1]
    norm = np.linalg.norm(raw.astype(np.float64), axis=1)
    worse = (norm if data.score is None else data.score)[c.pairs].min(axis=1)
    quality = np.where(valid, worse, np.nan)[same]
    good = valid[same]
    missed = (score[same] <= threshold).astype(np.float64)
    order = np.flatnonzero(good)[np.argsort(quality[good], kind="stable")]
    people = np.unique(c.people, return_inverse=True)[1][c.pairs]
    items: dict[str, np.ndarray] = {"quality": quality, "subjects": people[same]}
    metrics: dict[str, float] = {"threshold": threshold}
    for share in cfg.reject:
        name = f"fnmr@reject={share:g}"
        kept = order[_metrics.allowed_impostors(len(order), share) :]
        items[name] = np.full(len(good), np.nan)
        items[name][kept] = missed[kept]
        metrics[name] = float(missed[kept].mean())
        if cfg.bootstrap:
            _, metrics[f"{name}_low"], metrics[f"{name}_high"] = _bootstrap.interval(
                {name: missed[kept]},
                people[same][kept],
                _bootstrap.weighted_mean(name),
                cfg.bootstrap,
                cfg.seed,
            )
    share, rate = curve(missed[order])
    if missed[order].any():
        metrics["gain"] = gain(missed[order], cfg.most)
    metrics |= {"n": float(np.sum(valid)), "failed": float(np.sum(~valid))}
    shown = map_rows(c.people, usable)
    axes = {"xlabel": "share of genuine pairs rejected", "ylabel": "FNMR"}
    return Result(
        metrics=metrics,
        curves={"reject": {"x": share, "y": rate, **axes}},
        items=items,
        embeddings=embeddings[shown].astype(np.float32),
        labels=c.people[shown],
    )


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Each `fnmr@reject=R` of `a` minus that of `b` over the pairs both could score.

    Each result keeps the threshold, and rejects what it rejected.

    Args:
        a: a result of `run`.
        b: another on the same pairs.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    both = np.isfinite(a.items["quality"]) & np.isfinite(b.items["quality"])
    found = {}
    for name in (key for key in a.items if key.startswith("fnmr@")):
        sides = [{name: r.items[name][both]} for r in (a, b)]
        statistic = _bootstrap.weighted_mean(name)
        subjects = a.items["subjects"][both]
        found[name] = _bootstrap.paired_interval(*sides, subjects, statistic, n, seed)
    return found


def curve(missed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares rejected f64[n] and the FNMR f64[n] of the rest, from none to all pairs but one.

    Args:
        missed: f64[n], 0 or 1, the pair that is rejected first in front.
    """
    n = len(missed)
    return np.arange(n) / n, np.cumsum(missed[::-1])[::-1] / np.arange(n, 0, -1)


def gain(missed: np.ndarray, most: float) -> float:
    """Where the area under the curve up to `most` lies between random (0) and ideal rejection (1).

    Needs a missed pair.
    """

    def area(order: np.ndarray) -> float:
        share, rate = curve(order)
        return float(rate[share <= most].mean())

    ideal, flat = area(np.sort(missed)[::-1]), float(missed.mean())
    return (flat - area(missed)) / (flat - ideal) if flat > ideal else 0.0
