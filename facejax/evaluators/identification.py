"""Closed-set identification: is the right person found among many others?

Protocol "closed", as on TinyFace (Cheng et al. 2018): the gallery holds pictures of the probes'
people and distractors; `r@k` is the share of probes for which fewer than k gallery pictures of
other people score as high as the best one of the same person. Protocol "megaface", as on MegaFace
(Kemelmacher-Shlizerman et al. 2016): each gallery picture of a probe's person in turn is the only
one in a gallery of distractors, and `r@k` is a mean over these pairs. Ties count against the mate.

Roles come from a list, or are drawn: of each person seen twice or more the picture whose name has
the lowest hash is in the gallery and the others are probes (of "megaface", all are both); people
seen once are distractors. `distractors` adds all pictures of another set.

Metrics: `r@<k>`, their 95 % intervals (bootstrap over people), `n` probes (or pairs), `failed` ones
(of whom a picture could not be read or gave no finite embedding; distractors that fail are left
out), `size/gallery` and `size/distractors`. The curve is r@1 as distractors are added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from facejax.data.labels import read_table, rows_by_name
from facejax.errors import UserError
from facejax.evaluators import Embed, Result, _bootstrap, _metrics, _options, _search
from facejax.evaluators._embed import Flip, drawn, embed_pictures, unusable
from facejax.evaluators._hashing import hash_share
from facejax.evaluators._pictures import Pictures, labels_of, open_pictures
from facejax.evaluators._tiny import write_people

ROLES = ("probe", "gallery", "distractor")


@dataclass(frozen=True)
class Config:
    """What is looked for, and among whom.

    Attributes:
        path: folder or zip of the pictures, in a folder per person.
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        roles: CSV file with the columns `file` and `role` ("probe", "gallery" or "distractor"); ""
            draws them.
        distractors: folder or zip of more distractors.
        protocol: "closed" or "megaface".
        ranks: k of `r@k`.
        crop: share of the centred square of each picture that is kept.
        flip: "sum" or "concat" also embeds the mirror image; see `_embed.embed_pictures`.
        bootstrap: draws of the intervals; 0 leaves them out.
        seed: of the draws, and of drawn roles.
    """

    path: str = ""
    source: Mapping[str, Any] | None = None
    roles: str = ""
    distractors: str = ""
    protocol: Literal["closed", "megaface"] = "closed"
    ranks: tuple[int, ...] = (1, 5, 20)
    crop: float = 1.0
    flip: Flip = "sum"
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Six people with five pictures each, and twenty others."""
        root = Path(root)
        write_people(root / "images", 6, 5, "{name}/{number}.png")
        write_people(root / "others", 20, 1, "{name}.png", seed=1)
        return cls(path=str(root / "images"), distractors=str(root / "others"), ranks=(1, 5))


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], those that take part.
        people: str[N]; "" for distractors.
        probe: bool[N], gallery: bool[N]. Distractors are neither.
        others: more distractors, or None.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    people: np.ndarray
    probe: np.ndarray
    gallery: np.ndarray
    others: Pictures | None


def prepare(cfg: Config, size: int) -> Data:
    """Reads or draws the roles.

    Raises:
        UserError: an illegal option, an unreadable list, a picture that is missing, no probe with
            a mate, or "megaface" without distractors.
    """
    _options.choice("flip", cfg.flip, get_args(Flip))
    _options.choice("protocol", cfg.protocol, ("closed", "megaface"))
    _options.shares("crop", cfg.crop)
    if not cfg.ranks or min(cfg.ranks) < 1:
        raise UserError("ranks", f"{cfg.ranks}", "give numbers from 1 on")
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, identity="parent")
    field = pictures.classes("identity", "roles")
    numbers, _ = pictures.values("identity")
    people = np.where(numbers >= 0, labels_of(field, numbers), "")
    probe, gallery, distractor = (_read if cfg.roles else _draw)(cfg, pictures, people)
    mates = set(people[gallery]) - {""}
    if not mates & set(people[probe]):
        what = "no probe has a mate in the gallery"
        raise UserError(cfg.roles or pictures.where, what, "give people with two pictures or more")
    others = None
    if cfg.distractors:
        others = open_pictures(cfg.distractors, None, cfg.crop, identity="none")
    if cfg.protocol == "megaface" and others is None and not distractor.any():
        what = "protocol='megaface' without distractors"
        raise UserError("distractors", what, "give a folder of them, or people seen once")
    probe &= np.isin(people, list(mates))
    rows = np.flatnonzero(probe | gallery | distractor)
    people = np.where(distractor, "", people)
    return Data(size, pictures, rows, people[rows], probe[rows], gallery[rows], others)


def _draw(cfg: Config, pictures: Pictures, people: np.ndarray) -> tuple:
    """Which pictures are probes, gallery and distractors, bool[N] each."""
    order = np.argsort([hash_share(f"{cfg.seed}/{name}") for name in pictures.names()])
    _, first, person, counts = np.unique(
        people[order], return_index=True, return_inverse=True, return_counts=True
    )
    count = np.empty(len(people), np.int64)
    count[order] = counts[person]
    distractor = (count == 1) | (people == "")
    gallery = np.zeros(len(people), bool)
    gallery[order[first]] = True
    gallery &= ~distractor
    if cfg.protocol == "megaface":
        return ~distractor, ~distractor, distractor
    return ~distractor & ~gallery, gallery, distractor


def _read(cfg: Config, pictures: Pictures, people: np.ndarray) -> tuple:
    """The same of the list."""
    table = read_table(cfg.roles)
    if "role" not in table.columns:
        raise UserError(cfg.roles, "no column called 'role'", "give the columns file and role")
    column, row = table.columns.index("role"), rows_by_name(pictures.names())
    found = {role: np.zeros(len(people), bool) for role in ROLES}
    for name, cells in table.rows.items():
        if cells[column] not in ROLES:
            raise UserError(cfg.roles, f"'{cells[column]}' of {name} is no role", f"use {ROLES}")
        if name not in row:
            what = f"no picture '{name}' in {pictures.where}"
            raise UserError(cfg.roles, what, "give the pictures that this list belongs to")
        found[cells[column]][row[name]] = True
    return tuple(found.values())


def run(cfg: Config, data: Data, embed: Embed) -> Result:
    """Embeds each picture once and looks up every probe.

    `items` holds, for each probe (or pair): `valid` (not failed), `subjects` and `r@<k>`, whether
    the mate was among the first k (False where failed).
    """
    raw, usable = embed_pictures(embed, data.pictures, data.rows, data.size, cfg.flip)
    # As wide as the distractors are held, so that equal pictures tie.
    unit = _metrics.unit(raw).astype(np.float32).astype(np.float64)
    people = np.unique(data.people, return_inverse=True)[1]
    distractors = [unit[usable & ~data.probe & ~data.gallery].astype(np.float32)]
    if data.others is not None:
        rows = range(len(data.others.source))
        found, good = embed_pictures(embed, data.others, rows, data.size, cfg.flip)
        distractors.append(_metrics.unit(found[good]).astype(np.float32))
    distractors = np.concatenate(distractors)
    probes, mates = np.flatnonzero(data.probe), np.flatnonzero(data.gallery)
    if cfg.protocol == "closed":
        gallery = mates[usable[mates]]
        best = _search.best_mates(unit[probes], people[probes], unit[gallery], people[gallery])
        valid, at = usable[probes] & np.isfinite(best), np.arange(len(probes))
    else:
        gallery = mates[:0]
        of = {who: mates[people[mates] == who] for who in np.unique(people[probes])}
        pairs = [(p, m) for p in probes for m in of[people[p]] if p != m]
        pairs = np.array(pairs, np.int64).reshape(-1, 2)
        valid, at = usable[pairs].all(axis=1), np.searchsorted(probes, pairs[:, 0])
        best = _metrics.cosines(unit, pairs)
    if not valid.any() or len(gallery) + len(distractors) < 2:
        what = f"{np.sum(~usable)} of {len(usable)} pictures failed and none is left to compare"
        raise unusable(data.pictures, what)
    members = np.append(people[gallery], np.full(len(distractors), -1))
    among = np.concatenate([unit[gallery], distractors])
    before, first, _ = _search.ranks(
        unit[probes], people[probes], among, members, best[valid], at[valid]
    )
    subjects = people[probes][at]
    items = {"valid": valid, "subjects": subjects}
    metrics = {
        "n": float(np.sum(valid)),
        "failed": float(np.sum(~valid)),
        "size/gallery": float(len(gallery)),
        "size/distractors": float(len(distractors)),
    }
    for k in cfg.ranks:
        name, right = f"r@{k}", before < k
        items[name] = np.zeros(len(valid), bool)
        items[name][valid] = right
        metrics[name] = float(np.mean(right))
    known = _bootstrap.subset(items, valid)
    metrics |= _bootstrap.bounds(known, _statistics(items), cfg.bootstrap, cfg.seed)
    return Result(
        metrics=metrics,
        curves=_curve(first - len(gallery), len(distractors)),
        items=items,
        **drawn(unit, data.people, usable & (data.probe | data.gallery)),
    )


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Each `r@<k>` of `a` minus that of `b` over the probes both could look up.

    Args:
        a: a result of `run`.
        b: another on the same lists.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    return _bootstrap.differences(a.items, b.items, _statistics(a.items), n, seed)


def _statistics(items: _bootstrap.Items) -> dict[str, _bootstrap.Statistic]:
    return {name: _bootstrap.weighted_mean(name) for name in items if name.startswith("r@")}


def _curve(first: np.ndarray, distractors: int) -> dict[str, dict]:
    """r@1 by the number of distractors; `first` is the first that comes before the mate."""
    if distractors < 2:
        return {}
    counts = np.unique(np.geomspace(1, distractors, 100).astype(np.int64))
    rate = np.array([np.mean(first >= count) for count in counts])
    return {
        "distractors": {
            "x": counts.astype(np.float64),
            "y": rate,
            "xlabel": "distractors",
            "ylabel": "r@1",
            "logx": True,
        }
    }
