"""Cleans the labels of a data set by its embeddings.

    python -m facejax.clean --embeddings=DIR --out=DIR [--test=DIR] [--<threshold>=...]
        [--no_pictures]

`--embeddings` and `--test` are what `facejax.embed` wrote, the first of a set with identities. In
this order:

    strays      of each identity the largest cluster stays (`--near`, `--points`)
    same person identities with centres closer than `--same` become one; of two closer than
                `--unsure` the smaller one is left out
    test        identities closer than `--overlap` to a picture of the test set are left out
    copies      of pictures of one identity closer than `--copy` the first stays

All are cosines. This is one round of CAST (Zhu et al. 2021, arXiv:2103.04098), which trains a new
encoder on what stayed and goes on with its embeddings; .7, .5, .95 and .7 are from memory [M], and
DBSCAN's two are ours, since the paper does not give them. They are those of a teacher that was
trained on millions of people: a weak encoder has strangers above .7, and needs higher ones. Look at
the page before using the result. What it writes:

    <out>/clean.csv      file, identity (new; empty: left out), old, reason; a label file for the
                         source `folder`
    <out>/blocked.csv    what to leave out, for `config.data.blocklist`
    <out>/summary.json   counts by reason
    <out>/review.html    what would be left out, the most doubtful first; nothing has been deleted

Run again, it keeps the finished stages (`<out>/stages/`).
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facejax import cli
from facejax.cleaning import across, blocks, review, within
from facejax.cleaning.stored import Stored, Vectors, by_identity, read
from facejax.data.decode import decode
from facejax.data.mixture import open_source
from facejax.data.packed import write_json
from facejax.data.records import BadRecord
from facejax.errors import UserError
from facejax.metrics import replacing

REASONS = ("", "stray", "unsure", "test", "copy", "unknown", "rejected")
"""Why a record is left out; the first one means that it stays."""

THRESHOLDS = {"near": 0.35, "same": 0.7, "unsure": 0.5, "copy": 0.95, "overlap": 0.7}


@dataclass(frozen=True)
class Cleaned:
    """What all stages found, over N records and over the M identities they had, by their number.

    Attributes:
        names: of the identities.
        old, new: i64[N], the identity of each record; -1: unknown, left out.
        reason: i64[N], a place in `REASONS`.
        doubt: f32[N], the cosine to the centre of the old identity's largest cluster.
        pictures: i64[M].
        pure: f64[M], share of them in the largest cluster.
        alike: the mean cosine of a record to the centre of its identity, before and after.
    """

    names: np.ndarray
    old: np.ndarray
    new: np.ndarray
    reason: np.ndarray
    doubt: np.ndarray
    pictures: np.ndarray
    pure: np.ndarray
    alike: tuple[float, float]


class _Stages:
    """What finished stages of this very plan found, or what they find now.

    A stage's plan is its own thresholds and all that it builds on.
    """

    def __init__(self, folder: Path, stored: Stored):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._plan = folder, ""
        self._extend([stored.manifest, stored.identities, stored.rejected])

    def _extend(self, values: Any) -> None:
        self._plan = hashlib.sha256((self._plan + json.dumps(values)).encode()).hexdigest()

    def take(self, name: str, values: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The result of stage `name` under the thresholds `values`."""
        self._extend([name, values])
        path = self._folder / f"{name}.npz"
        if path.exists():
            with np.load(path) as saved:
                if str(saved["plan"]) == self._plan:
                    return saved["found"]
        found = compute()
        with replacing(path) as file:
            np.savez(file, found=found, plan=self._plan)
        return found


def clean(
    stored: Stored, out: Path, thresholds: dict[str, float], points: int, test: Stored | None
) -> Cleaned:
    """All stages; those that are finished in `out` are taken from there."""
    near, same, unsure, copy, overlap = (thresholds[name] for name in THRESHOLDS)
    stages, x = _Stages(out / "stages", stored), stored.embeddings
    rejected = np.array([bool(why) for why in stored.rejected])
    labelled = np.array(stored.identities)
    known = ~rejected & (labelled != "")
    old = np.full(len(x), -1)
    names, old[known] = np.unique(labelled[known], return_inverse=True)
    reason = np.where(known, 0, np.where(rejected, 6, 5))
    groups = by_identity(old)

    kept = stages.take("strays", [near, points], lambda: _strays(x, groups, near, points))
    reason = np.where(known & ~kept, 1, reason)

    staying = [rows[kept[rows]] for rows in groups]
    centre, _ = across.centres(x, staying)
    size = np.array([len(rows) for rows in staying], np.int64)
    becomes = stages.take(
        "same_person", [same, unsure], lambda: across.merged(centre, size, same, unsure)
    )
    now = np.where(old >= 0, becomes[old], -1)
    reason = np.where((reason == 0) & (now < 0), 2, reason)

    if test is not None:
        shown = stages.take(
            "test",
            [overlap, test.manifest],
            lambda: blocks.near_any(centre, test.embeddings, overlap),
        )
        reason = np.where((reason == 0) & shown[now], 3, reason)

    now = np.where(reason == 0, now, -1)
    first = stages.take("copies", [copy], lambda: _copies(x, by_identity(now), copy))
    reason = np.where((reason == 0) & ~first, 4, reason)
    now = np.where(reason == 0, now, -1)
    pictures = np.array([len(rows) for rows in groups], np.int64)
    return Cleaned(
        names=names,
        old=old,
        new=now,
        reason=reason,
        doubt=_doubt(x, old, centre),
        pictures=pictures,
        pure=size / pictures,
        alike=(_alike(x, groups), _alike(x, by_identity(now))),
    )


def _doubt(x: Vectors, old: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """f32[N]: the cosine to the centre of its identity; 0 without one."""
    out = np.zeros(len(x), np.float32)
    for start in range(0, len(x), blocks.BLOCK):
        rows = start + np.flatnonzero(old[start : start + blocks.BLOCK] >= 0)
        out[rows] = np.sum(x[rows] * centre[old[rows]], axis=1)
    return out


def _alike(x: Vectors, groups: list[np.ndarray]) -> float:
    size = np.array([len(rows) for rows in groups], np.int64)
    return float(size @ across.centres(x, groups)[1] / max(size.sum(), 1))


def _strays(x: Vectors, groups: list[np.ndarray], near: float, points: int) -> np.ndarray:
    kept = np.zeros(len(x), bool)
    for rows in groups:
        kept[rows] = within.largest_cluster(x[rows], near, points)
    return kept


def _copies(x: Vectors, groups: list[np.ndarray], same: float) -> np.ndarray:
    first = np.zeros(len(x), bool)
    for rows in groups:
        first[rows] = within.without_copies(x[rows], same)
    return first


def _pictures(stored: Stored, reasons: list[str], doubt: np.ndarray) -> dict[int, str]:
    """Thumbnails of the records on the page; none where the source has gone."""
    rows = np.concatenate([*review.most_doubtful(reasons, doubt).values(), np.zeros(0, int)])
    try:
        entry = open_source(stored.manifest["source"], "source")
    except UserError:
        return {}
    found = {}
    for row in rows.astype(int).tolist():
        record = entry.source.read([stored.indices[row]])[0]
        shown = decode(record, review.SIDE, entry.crop, {})
        if not isinstance(shown, BadRecord):
            found[row] = review.thumbnail(shown["image"])
    return found


def _write(path: Path, lines: list[tuple]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def run(argv: list[str]) -> None:
    """The command."""
    parser = cli.Parser(prog="python -m facejax.clean", description=__doc__.splitlines()[0])
    parser.add_argument("--embeddings", required=True, type=Path, help="of facejax.embed")
    parser.add_argument("--out", required=True, type=Path, help="directory for the result")
    parser.add_argument("--test", type=Path, help="embeddings of a test set, by the same weights")
    parser.add_argument("--no_pictures", action="store_true", help="on the page for review")
    parser.add_argument("--points", type=int, default=2, help="of a cluster's core (default: 2)")
    for name, value in THRESHOLDS.items():
        parser.add_argument(f"--{name}", type=float, default=value, help=f"(default: {value})")
    given = parser.parse_known(argv)[0]
    thresholds = {name: getattr(given, name) for name in THRESHOLDS}
    for name, value in thresholds.items():
        if not -1 <= value <= 1:
            raise UserError(f"--{name}", f"{value} is no cosine", "give one from -1 to 1")
    if thresholds["unsure"] > thresholds["same"]:
        what = f"{thresholds['unsure']} is above --same, {thresholds['same']}"
        raise UserError("--unsure", what, "give a lower one")
    stored, test = read(given.embeddings), given.test and read(given.test)
    if not any(who and not why for who, why in zip(stored.identities, stored.rejected)):
        raise UserError(str(given.embeddings), "no identities", "embed a source that has them")
    if test and test.manifest["weights_sha256"] != stored.manifest["weights_sha256"]:
        raise UserError("--test", "embedded by other weights", "embed both with one encoder")
    found = clean(stored, given.out, thresholds, given.points, test)
    after = [found.names[i] if i >= 0 else "" for i in found.new]
    before = [found.names[i] if i >= 0 else "" for i in found.old]
    reasons = [REASONS[r] for r in found.reason]
    rows = list(zip(stored.names, after, before, reasons))
    _write(given.out / "clean.csv", [("file", "identity", "old", "reason"), *rows])
    blocked = zip(stored.labels, stored.indices, stored.names, reasons)
    left = [row for row in blocked if row[3]]
    _write(given.out / "blocked.csv", [("source", "index", "name", "reason"), *left])
    moved = sum(a != b and a != "" for a, b in zip(after, before))
    summary = {
        "records": len(rows),
        "kept": sum(not r for r in reasons),
        "left_out": {r: n for r, n in sorted(Counter(reasons).items()) if r},
        "renamed": moved,
        "identities_before": len(set(before) - {""}),
        "identities_after": len(set(after) - {""}),
        "in_largest_cluster": float(found.pictures @ found.pure / found.pictures.sum()),
        "cosine_to_centre_before": found.alike[0],
        "cosine_to_centre_after": found.alike[1],
        "thresholds": thresholds,
        "points": given.points,
    }
    write_json(given.out / "summary.json", summary)
    pictures = {} if given.no_pictures else _pictures(stored, reasons, found.doubt)
    people = list(zip(found.names, found.pictures.tolist(), found.pure.tolist()))
    page = review.page(stored.names, after, before, reasons, found.doubt, people, summary, pictures)
    with replacing(given.out / "review.html") as file:
        file.write(page.encode())
    kept, gone = summary["kept"], len(left)
    print(f"{given.out}: {kept} records stay, {gone} are left out, {moved} change their identity")


if __name__ == "__main__":
    cli.main(run)
