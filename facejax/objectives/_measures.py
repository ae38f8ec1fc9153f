"""Curves that show whether features spread or collapse; for comparison by eye, never trained on."""

import jax
import jax.numpy as jnp

from facejax.contracts import Histogram, Term
from facejax.ops import similarity

SOME = 256  # images whose similarities to each other are drawn


def compared(q: jax.Array, k: jax.Array) -> dict[str, Histogram | Term]:
    """Similarities of unit vectors q and k f32[B, D], and how far q spreads.

    "positive": of q and k of an image; "negative": of q of two images, of up to 256 images;
    "alignment": the mean of the former; "std": see `similarity.deviation`.
    """
    positive = jnp.sum(q * k, axis=-1)
    some = q[:SOME]
    return {
        "positive": Histogram.of(positive),
        "negative": Histogram.of(some @ some.T, where=~jnp.eye(len(some), dtype=bool)),
        "alignment": Term.mean(positive),
        "std": Term.mean(similarity.deviation(q)),
    }
