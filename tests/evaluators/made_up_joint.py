"""A space of images and texts for tests: any encoder of images, and a direction for each text."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Joint:
    """Texts have random directions, each its own, among those of the encoder's embeddings.

    Attributes:
        embed: u8[n, S, S, 3] -> f32[n, width].
        width: of the embeddings.
        scale: of the cosines.
        bias: added to them.
    """

    embed: Callable[[np.ndarray], np.ndarray]
    width: int
    scale: float = 10.0
    bias: float = 0.0

    def image(self, images: np.ndarray) -> np.ndarray:
        return unit(self.embed(images))

    def text(self, texts) -> np.ndarray:
        seeds = [zlib.crc32(text.encode()) for text in texts]
        return unit([np.random.default_rng(seed).normal(size=self.width) for seed in seeds])

    def compose(self, images: np.ndarray, texts) -> np.ndarray:
        return self.text(texts)


def space(module, embed: Callable[[np.ndarray], np.ndarray], width: int):
    """What the evaluator `module` is handed: the encoder, or a joint space of it."""
    return Joint(embed, width) if getattr(module, "JOINT", False) else embed
