"""python -m facejax.export --workdir=DIR [--step=N] --format=NAME --out=DIR"""

from pathlib import Path

from facejax import export, plugins
from facejax.cli import Parser, main
from facejax.export._run import export_run


def run(argv: list[str]) -> None:
    """Exports the encoder of a run."""
    parser = Parser(prog="python -m facejax.export", description=run.__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--step", type=int, help="completed steps; default: the last checkpoint")
    parser.add_argument("--format", required=True, help=", ".join(plugins.names("export")))
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    options = parser.parse_args(argv)
    export_run(options.workdir, options.step, options.format, options.out)
    print(f"{options.out}: {', '.join(export.FILES)}")


if __name__ == "__main__":
    main(run)
