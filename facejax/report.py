"""Draws one self-contained page of one run, or one that compares several.

    python -m facejax.report DIR [DIR ...] [--out=FILE] [--no-pictures]

The page needs no network, no script and no other file. Without --out it is DIR/report.html, and
report.html in the current directory where several runs are compared.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import facejax
from facejax.cli import Parser, main
from facejax.errors import UserError
from facejax.reporting import overview, page, pairs, scores, speed, training
from facejax.reporting.rundir import Run, read_runs


def run(argv: list[str]) -> int:
    """Runs the command on its arguments."""
    parser = Parser(prog="python -m facejax.report", description=__doc__.partition("\n")[0])
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="a run's --workdir")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the page goes")
    parser.add_argument("--no-pictures", action="store_true", help="no faces, nobody's name")
    args = parser.parse_args(argv)
    default = args.dirs[0] / "report.html" if len(args.dirs) == 1 else Path("report.html")
    out = write_report(args.dirs, args.out or default, pictures=not args.no_pictures)
    print(f"wrote {out} ({out.stat().st_size / 1e3:,.0f} kB)")
    return 0


def write_report(dirs: Sequence[Path], out: Path, pictures: bool = True) -> Path:
    """Writes the page of the runs in `dirs` to `out`, whole or not at all.

    Args:
        pictures: False leaves out everything that shows a face or names a person.

    Returns:
        `out`.

    Raises:
        UserError: a directory is no run, or `out` can't be written.
    """
    text = _page(read_runs(dirs), pictures)
    out = Path(out)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, out)
    except OSError as error:
        what = f"can't be written ({error.strerror})"
        raise UserError(str(out), what, "give another --out") from error
    return out


def _page(runs: Sequence[Run], pictures: bool) -> str:
    title = " and ".join(filter(None, (", ".join(r.name for r in runs[:-1]), runs[-1].name)))
    parts = [
        ("runs", "Runs", overview.together, len(runs) > 1),
        ("evaluation", "Evaluation", scores.evaluations, True),
        ("curves", "ROC curves", scores.curves, True),
        ("training", "Training", training.training, True),
        ("similarity", "Similarities", training.distributions, True),
        ("scores", "Scores of pairs", pairs.scores, pairs.logged(runs)),
        ("previews", "Pictures", training.previews, pictures),
        ("map", "Embedding map", partial(scores.embedding_maps, names=pictures), True),
        ("speed", "Speed", speed.speed, True),
        ("records", "Rejected records", overview.records, True),
        ("config", "Configuration", overview.configuration, True),
    ]
    parts = [part for part in parts if part[3]]
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name, _, _ in parts)
    if len(runs) == 1:
        head = [f'<p class="lead">{page.escape(overview.what_it_is(runs[0]))}</p>']
        head.append(page.facts(overview.summary(runs[0])))
    else:
        head = [f'<p class="lead">{len(runs)} runs compared.</p>']
        head += [
            f"<p><b>{page.escape(r.name)}</b>: {page.escape(overview.what_it_is(r))}</p>"
            for r in runs
        ]
    left_out = "" if pictures else " Pictures and names were left out on request."
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = [
        f"<header><h1>{page.escape(title)}</h1>",
        *head,
        f"<nav>{links}</nav></header>",
        *(draw(runs) for _, _, draw, _ in parts),
        f"<footer>Written by facejax {facejax.__version__} on {now}.{left_out}</footer>",
    ]
    return page.page(f"{title} – facejax", body)


if __name__ == "__main__":
    main(run)
