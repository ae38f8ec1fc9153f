"""Verification and identification of templates, as on IJB-B and IJB-C (Maze et al. 2018).

A template is the pictures and video frames of one person. A picture's feature is the sum of the
embeddings of it and its mirror image, by default with its length (`keep_norm`), times the score of
the face detector where there is a list of them; features are averaged within a medium (a video),
added over media and normalised. Templates are compared by cosine.

1:1 (`pairs`): TAR at FAR 1e-6 to 1e-1. 1:N (`galleries` and `probes`): each probe is looked for in
each gallery. `r@1`, `r@5`, `r@10` are hits in any gallery over all probes that have a mate in one;
`tpir@fpir=F` is the mean over galleries of the share of mated probes whose mate comes first and
scores above t, t being entry max(floor(F n) - 1, 0) of the n non-mated probes' highest scores in
falling order. Ties count against the mate.

Source: the tools of insightface (recognition/_evaluation_/ijb and arcface_torch), where "N1" means
`keep_norm` in one and the contrary in the other; `tar='insightface'` takes their point of the ROC.

A picture that can't be decoded, or whose embedding is not finite, is left out of its template; a
template without any counts its pairs and probes as `failed`. `n` is the number of pairs (without
`pairs`: of mated probes) that could be scored, `failed/pictures` counts pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from facejax.data.labels import rows_by_name
from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _metrics, _options, _search
from facejax.evaluators._embed import Flip, drawn, embed_pictures, unusable
from facejax.evaluators._pictures import Pictures, open_pictures
from facejax.evaluators._templates import fuse, read_media, read_subjects, read_template_pairs
from facejax.evaluators._tiny import write_people


@dataclass(frozen=True)
class Config:
    """What is compared, and how.

    Attributes:
        path: folder or zip of the aligned pictures.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        media: list of lines `name template media`.
        scores: list of lines `name ... score`, the detector's; "" leaves them out.
        pairs: list of lines `template template label`; "" leaves out 1:1.
        galleries: CSV files of lines `template,subject`; none leaves out 1:N.
        probes: CSV file of lines `template,subject`.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        keep_norm: whether longer features count more.
        far: false-accept rates F of `tar@far=F`.
        tar: "exact" keeps FAR <= F under ties; "insightface" takes the nearest point of the ROC.
        ranks: k of `r@k`.
        fpir: false-positive identification rates F of `tpir@fpir=F`.
    """

    path: str = ""
    source: Mapping[str, Any] | None = None
    media: str = ""
    scores: str = ""
    pairs: str = ""
    galleries: tuple[str, ...] = ()
    probes: str = ""
    crop: float = 1.0
    flip: Flip = "sum"
    keep_norm: bool = True
    far: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    tar: Literal["exact", "insightface"] = "exact"
    ranks: tuple[int, ...] = (1, 5, 10)
    fpir: tuple[float, ...] = (1e-2, 1e-1)

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Eight people with three templates each, two galleries."""
        root, people = Path(root), 8
        names = write_people(root / "images", people, 6, "{name}_{number}.png")
        lines = [f"{name} {3 * (i // 6) + i % 3} {i // 2}\n" for i, name in enumerate(names)]
        scores = [f"{name} {'0 ' * 10}0.{5 + i % 5}\n" for i, name in enumerate(names)]
        subjects = [(3 * p + t, p, t) for p in range(people) for t in range(3)]
        pairs = [(a, b, int(p == q)) for a, p, _ in subjects for b, q, _ in subjects if a < b]
        (root / "media.txt").write_text("".join(lines))
        (root / "scores.txt").write_text("".join(scores))
        (root / "pairs.txt").write_text("".join(f"{a} {b} {same}\n" for a, b, same in pairs))
        parts = {
            "g1": [(t, p) for t, p, n in subjects if n == 0 and p < 4],
            "g2": [(t, p) for t, p, n in subjects if n == 0 and p >= 4],
            "probes": [(t, p) for t, p, n in subjects if n > 0],
        }
        for name, rows in parts.items():
            text = "TEMPLATE_ID,SUBJECT_ID\n" + "".join(f"{t},{p}\n" for t, p in rows)
            (root / f"{name}.csv").write_text(text)
        return cls(
            path=str(root / "images"),
            media=str(root / "media.txt"),
            scores=str(root / "scores.txt"),
            pairs=str(root / "pairs.txt"),
            galleries=(str(root / "g1.csv"), str(root / "g2.csv")),
            probes=str(root / "probes.csv"),
        )


@dataclass(frozen=True)
class Data:
    """The checked lists; templates and subjects are numbered anew.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[M], each listed picture once.
        picture: i64[N], position in `rows` of each line of the media list.
        template: i64[N], media: i64[N], score: f64[N], of each line.
        pairs: i64[P, 2] templates, same: bool[P]; empty without 1:1.
        galleries: per gallery, i64[G] templates and i64[G] subjects.
        probes: i64[Q] templates and i64[Q] subjects; empty without 1:N.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    picture: np.ndarray
    template: np.ndarray
    media: np.ndarray
    score: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    galleries: tuple[tuple[np.ndarray, np.ndarray], ...]
    probes: tuple[np.ndarray, np.ndarray]


def prepare(cfg: Config, size: int) -> Data:
    """Reads the lists and checks that every picture and template is there.

    Raises:
        UserError: an illegal option, an unreadable list, a picture or template that is missing,
            pairs of one kind only, or a probe with mates in two galleries.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.choice("tar", cfg.tar, ("exact", "insightface"))
    _options.shares("crop", cfg.crop)
    _options.shares("far", *cfg.far)
    _options.shares("fpir", *cfg.fpir)
    if not cfg.ranks or min(cfg.ranks) < 1:
        raise UserError("ranks", f"{cfg.ranks}", "give numbers from 1 on")
    if not cfg.pairs and not cfg.galleries:
        raise UserError("pairs", "neither pairs nor galleries", "give one of them or both")
    if bool(cfg.galleries) != bool(cfg.probes):
        raise UserError("probes", "galleries and probes go together", "give both or neither")
    listed = read_media(cfg.media, cfg.scores)
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity="none")
    row = rows_by_name(pictures.names())
    absent = [name for name in listed.names if name not in row]
    if absent:
        what = f"{len(absent)} pictures are not in {pictures.where}, the first '{absent[0]}'"
        raise UserError(cfg.media, what, "give the pictures that this list belongs to")
    rows, picture = np.unique([row[name] for name in listed.names], return_inverse=True)
    known, template = np.unique(listed.template, return_inverse=True)

    def numbered(path: str, templates: np.ndarray) -> np.ndarray:
        places = np.searchsorted(known, templates).clip(max=len(known) - 1)
        if (known[places] != templates).any():
            missing = templates[known[places] != templates].flat[0]
            what = f"template {missing} is not in {cfg.media}"
            raise UserError(path, what, "give the list of media that it belongs to")
        return places

    pairs, same = np.zeros((0, 2), np.int64), np.zeros(0, bool)
    if cfg.pairs:
        pairs, same = read_template_pairs(cfg.pairs)
        pairs = numbered(cfg.pairs, pairs)
        if same.all() or not same.any():
            raise UserError(cfg.pairs, "pairs of one kind only", "give both kinds")
    lists = [read_subjects(path) for path in (*cfg.galleries, *[cfg.probes][: bool(cfg.probes)])]
    paths = (*cfg.galleries, cfg.probes)
    lists = [(numbered(path, templates), who) for path, (templates, who) in zip(paths, lists)]
    *galleries, probes = lists or [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    mates = sum(np.isin(probes[1], who).astype(int) for _, who in galleries)
    if galleries and (np.max(mates) > 1 or not np.any(mates)):
        what = "a probe has mates in two galleries, or none has a mate"
        raise UserError("galleries", what, "give galleries that share no subject")
    return Data(
        size,
        pictures,
        rows,
        picture,
        template,
        listed.media,
        listed.score,
        pairs,
        same,
        tuple(galleries),
        probes,
    )


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once, and scores all pairs and probes.

    `items` holds, for each genuine pair and then each mated probe, whether it counted as right for
    a metric, NaN where the metric is about others or it failed; and `subjects`.
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    features = raw if cfg.keep_norm else _metrics.unit(raw).astype(np.float32)
    picture = np.where(usable[data.picture], data.picture, -1)
    templates = fuse(features, picture, data.template, data.media, data.score)
    there = np.zeros(len(templates), bool)
    there[data.template[picture >= 0]] = True
    metrics: dict[str, float] = {}
    curves: dict[str, dict] = {}
    items: dict[str, np.ndarray] = {}
    genuine, probes = data.pairs[data.same], len(data.probes[0])
    valid = there[data.pairs].all(axis=1)
    if len(data.pairs):
        found, curve, accepted = _verify(cfg, data, templates, valid)
        metrics |= found
        curves |= curve
        items |= {name: np.append(v, np.full(probes, np.nan)) for name, v in accepted.items()}
    scored, failed = float(np.sum(valid)), float(np.sum(~valid))
    if data.galleries:
        found, right, lost = _identify(cfg, data, templates, there)
        metrics |= found
        failed += lost
        if not len(data.pairs):
            scored = float(np.sum(np.isfinite(next(iter(right.values())))))
        blank = np.full(len(genuine), np.nan)
        items |= {name: np.append(blank, v) for name, v in right.items()}
    person = _people(len(templates), genuine)
    items["subjects"] = np.append(person[genuine[:, 0]], person.max() + 1 + data.probes[1])
    metrics |= {"n": scored, "failed": failed, "failed/pictures": float(np.sum(~usable))}
    labels = np.array([f"subject {p}" for p in person], dtype=str)
    shown = drawn(templates, person, there, labels)
    return Result(metrics=metrics, curves=curves, items=items, **shown)


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Each metric of `a` minus that of `b` over the pairs and probes both could score.

    Thresholds are those that each run chose.

    Args:
        a: a result of `run`.
        b: another on the same lists.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    found = {}
    for name in sorted(a.items.keys() & b.items.keys() - {"subjects"}):
        sides = [{**r.items, "valid": np.isfinite(r.items[name])} for r in (a, b)]
        statistics = {name: _bootstrap.weighted_mean(name)}
        found |= _bootstrap.differences(*sides, statistics, n, seed)
    return found


def _verify(cfg: Config, data: Data, templates: np.ndarray, valid: np.ndarray) -> tuple:
    """Metrics and curves of the pairs, and which genuine pairs each metric accepts."""
    score, same = _metrics.cosines(templates, data.pairs[valid]), data.same[valid]
    if same.all() or not same.any():
        what = f"{np.sum(~valid)} of {len(valid)} pairs failed and the rest can't be judged"
        raise unusable(data.pictures, what)
    metrics = {"auc": _metrics.auc(score, same), "eer": _metrics.eer(score, same)}
    metrics |= _metrics.tar_metrics(score, same, cfg.far, cfg.tar)
    accepted = {}
    if cfg.tar == "exact":
        limits = dict(zip(cfg.far, _metrics.tar_at_fars(score, same, cfg.far)[1]))
        names = {f"tar@far={_metrics.far_name(far)}": limit for far, limit in limits.items()}
        for name in names.keys() & metrics.keys():
            right = np.full(len(data.same), np.nan)
            right[valid] = score > names[name]
            accepted[name] = right[data.same]
    rates = np.geomspace(1 / np.sum(~same), 1, 200)
    tar = _metrics.tar_at_fars(score, same, rates)[0]
    roc = {"x": rates, "y": tar, "xlabel": "FAR", "ylabel": "TAR", "logx": True}
    return metrics, {"roc": roc}, accepted


def _identify(cfg: Config, data: Data, templates: np.ndarray, there: np.ndarray) -> tuple:
    """Metrics of the probes, which each metric counts as right, and how many mated ones failed."""
    numbers, who = data.probes
    usable = there[numbers]
    probes, owner = templates[numbers[usable]], who[usable]
    right = {f"r@{k}": np.full(len(numbers), np.nan) for k in cfg.ranks}
    names = {f: f"tpir@fpir={_metrics.far_name(f)}" for f in cfg.fpir}
    opened: dict[str, list[float]] = {name: [] for name in names.values()}
    failed = 0
    for members, subjects in data.galleries:
        left = there[members]
        gallery = templates[members[left]], subjects[left]
        mate = _search.best_mates(probes, owner, *gallery)
        before, _, highest = _search.ranks(probes, owner, *gallery, mate)
        stranger, scored = ~np.isin(owner, subjects), np.isfinite(mate)
        failed += int(np.sum(np.isin(who, subjects)) - np.sum(scored))
        for k in cfg.ranks:
            right[f"r@{k}"][np.flatnonzero(usable)[scored]] = before[scored] < k
        others = np.sort(highest[stranger])[::-1]
        for fpir in cfg.fpir:
            if len(others) and scored.any():
                limit = others[max(_metrics.allowed_impostors(len(others), fpir) - 1, 0)]
                hit = (before[scored] == 0) & (mate[scored] > limit)
                opened[names[fpir]].append(float(np.mean(hit)))
    if not all(np.isfinite(values).any() for values in right.values()):
        raise unusable(data.pictures, "no probe with a mate is left")
    metrics = {name: float(np.nanmean(values)) for name, values in right.items()}
    metrics |= {name: float(np.mean(values)) for name, values in opened.items() if values}
    return metrics, right, failed


def _people(templates: int, genuine: np.ndarray) -> np.ndarray:
    """i64[T]: templates that genuine pairs connect are of one person."""
    ones = np.ones(len(genuine), bool)
    graph = coo_array((ones, (genuine[:, 0], genuine[:, 1])), shape=(templates, templates))
    return connected_components(graph, directed=False)[1].astype(np.int64)
