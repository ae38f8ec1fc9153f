"""Evaluators: they get `embed`, never the trainer, and give named numbers.

An evaluator module `facejax/evaluators/<name>.py` has

    Config                      frozen dataclass of its legal keys; `Config.tiny(root)` writes a
                                small data set beneath the folder `root` and returns its config
    prepare(cfg, size) -> data  reads and checks files and lists, before anything is compiled;
                                `size` is the side in pixels of the images that `embed` takes
    run(cfg, data, embed) -> Result     float64 NumPy metrics over the whole set

`embed` maps u8[n, size, size, 3] RGB of any n to f32[n, D]; it pads, shards and masks by itself,
so results are exact over the whole set. The runner calls `run` three times for the report: with the
trained encoder, with the same encoder at random initialisation and with raw pixels.

A module with `JOINT = True` compares images with texts: `run(cfg, data, joint)` gets a `Joint` in
place of `embed`. Its random baseline is the same towers and projections at random initialisation;
raw pixels know no words, so it has none of these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Embed = Callable[[np.ndarray], np.ndarray]


class Joint(Protocol):
    """A space in which images and texts meet: their cosines, times `scale`, plus `bias`.

    Attributes:
        scale: multiplies cosines (1 / temperature).
        bias: added to scaled cosines, by models of pairs; 0 where a softmax makes it void.
    """

    scale: float
    bias: float

    def image(self, images: np.ndarray) -> np.ndarray:
        """u8[n, S, S, 3] -> f32[n, D], unit rows."""

    def text(self, texts: Sequence[str]) -> np.ndarray:
        """n texts -> f32[n, D], unit rows."""

    def compose(self, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """n images, each changed by its text -> f32[n, D], unit rows, to be met by images.

        Raises:
            UserError: the model was not trained to compose.
        """


Space = Embed | Joint
"""What an evaluator's `run` is handed."""


@dataclass(frozen=True)
class Result:
    """What one evaluation found.

    Attributes:
        metrics: name -> number (float64), `n` and `failed` among them.
        curves: name -> {"x": f64[n], "y": f64[n], "xlabel": str, "ylabel": str}, for the report;
            with "logx": True its x axis runs in decades.
        items: name -> array with one entry per unit (pair, sample), for paired intervals.
        embeddings: f32[n, D] of the evaluated images, for the report's map, or None.
        labels: [n] beside `embeddings` (identity names or numbers), or None.
    """

    metrics: dict[str, float]
    curves: dict[str, dict] = field(default_factory=dict)
    items: dict[str, np.ndarray] = field(default_factory=dict)
    embeddings: np.ndarray | None = None
    labels: np.ndarray | None = None
