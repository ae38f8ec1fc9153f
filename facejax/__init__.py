"""facejax: pretraining of face foundation models in JAX."""

from pathlib import Path

__version__ = "0.1.0"


def load(directory: str | Path, step: int | None = None):
    """Loads a run (its working directory) or an export; see `facejax.model.load`.

    >>> faces = load("runs/quickstart")                          # doctest: +SKIP
    >>> faces.embed(["a_1.jpg", "a_2.jpg"]).shape                # doctest: +SKIP
    (2, 192)
    """
    from facejax import model  # jax is imported only once it is needed

    return model.load(directory, step)
