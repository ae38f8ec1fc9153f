"""Lets a config name the plug-ins beneath `tests/plugins`, as it names facejax's own.

python tests/with_plugins.py --config=... --workdir=...      the training command, with them
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "plugins"
sys.path.insert(0, str(FOLDER.parents[1]))

import facejax.data.sources  # noqa: E402
import facejax.encoders  # noqa: E402
import facejax.modifiers  # noqa: E402
import facejax.objectives  # noqa: E402


def extend() -> None:
    packages = (facejax.encoders, facejax.modifiers, facejax.objectives, facejax.data.sources)
    for package in packages:
        package.__path__.append(str(FOLDER / package.__name__.rsplit(".")[-1]))


if __name__ == "__main__":
    from facejax import cli, train

    extend()
    cli.main(train.run)
