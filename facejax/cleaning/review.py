"""The page on which a person looks at what would be left out, the most doubtful first."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from facejax.reporting import page as html

TOLD = {
    "stray": "not in the largest cluster of its identity",
    "unsure": "its identity is close to a larger one, but not close enough to be it",
    "test": "its identity is close to a picture of the test set",
    "copy": "nearly the same picture as an earlier one",
    "unknown": "no identity",
    "rejected": "no embedding",
}
SHOWN = 60  # records of a reason
SIDE = 72  # pixels of a picture


def most_doubtful(reasons: Sequence[str], doubt: np.ndarray) -> dict[str, np.ndarray]:
    """Records to show by reason: those farthest from their identity's centre first."""
    reasons = np.array(reasons)
    out = {}
    for reason in TOLD:
        rows = np.flatnonzero(reasons == reason)
        if len(rows):
            out[reason] = rows[np.argsort(doubt[rows], kind="stable")][:SHOWN]
    return out


def thumbnail(image: np.ndarray) -> str:
    """A data URI of u8[H, W, 3]."""
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def page(
    names: Sequence[str],
    after: Sequence[str],
    before: Sequence[str],
    reasons: Sequence[str],
    doubt: np.ndarray,
    people: Sequence[tuple[str, int, float]],
    summary: Mapping[str, Any],
    pictures: Mapping[int, str] | None = None,
) -> str:
    """The page, self-contained.

    Args:
        names: of the records; `after` and `before` are their identities.
        doubt: f32[N], cosine to the centre of the old identity.
        people: name, pictures and share of them in the largest cluster, of each old identity.
        summary: as in `summary.json`.
        pictures: data URIs by record.
    """
    parts = [
        "<h1>What cleaning would leave out</h1>",
        html.facts(
            [
                ("records", f"{summary['records']:,}"),
                ("kept", f"{summary['kept']:,}"),
                *((f"left out: {r}", f"{n:,}") for r, n in summary["left_out"].items()),
                ("identities before", f"{summary['identities_before']:,}"),
                ("identities after", f"{summary['identities_after']:,}"),
                *summary["thresholds"].items(),
                ("points", summary["points"]),
            ]
        ),
    ]
    for reason, rows in most_doubtful(reasons, doubt).items():
        count = summary["left_out"][reason]
        shown = f" The {len(rows)} most doubtful:" if len(rows) < count else ""
        told = f"<p>{html.escape(f'{count:,}: {TOLD[reason]}.{shown}')}</p>"
        lines = [(names[i], before[i], f"{doubt[i]:.3f}") for i in rows]
        found = (
            html.table(("record", "identity", "cosine to its centre"), lines, text=True)
            if not pictures
            else html.grid(
                [
                    html.figure(before[i], f"<img src='{pictures[i]}' alt=''>", f"{cosine} {name}")
                    for i, (name, _, cosine) in zip(rows, lines)
                    if i in pictures
                ],
                small=True,
            )
        )
        parts.append(html.section(reason, reason, told, found))
    impure = sorted((p for p in people if p[2] < 1), key=lambda p: p[2])
    if impure:
        lines = [(name, n, f"{share:.1%}") for name, n, share in impure[:SHOWN]]
        told = (
            f"<p>{len(impure):,} of {len(people):,} identities are more than one cluster. The "
            f"largest clusters hold {summary['in_largest_cluster']:.2%} of all pictures; the mean "
            f"cosine to an identity's centre was {summary['cosine_to_centre_before']:.3f} and "
            f"becomes {summary['cosine_to_centre_after']:.3f}.</p>"
        )
        table = html.table(("identity", "pictures", "in its largest cluster"), lines, text=True)
        parts.append(html.section("purity", "purity", told, table))
    moved = [i for i, (a, b) in enumerate(zip(after, before)) if a and a != b]
    if moved:
        lines = [(names[i], before[i], after[i]) for i in moved[:SHOWN]]
        told = f"<p>{len(moved):,} records change their identity.</p>"
        table = html.table(("record", "was", "becomes"), lines, text=True)
        parts.append(html.section("renamed", "renamed", told, table))
    return html.page("Cleaning", parts)
