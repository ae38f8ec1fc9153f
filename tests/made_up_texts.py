"""Made-up texts: their ids, and what a text tower would make of them and of an image."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from facejax.contracts import Features, Spec

LENGTH, WORDS = 6, 32


def applied(spec: Spec, tower: str, inputs, weights=None, outputs=("pooled",), context=None):
    """What `Ctx.apply` would return, of tokens and of the context that they are shown."""
    width = spec.towers[tower].embed
    tables = np.random.default_rng(7).normal(size=(2, WORDS, width))
    pooled = jnp.mean(jnp.asarray(tables[0], context.dtype)[inputs["text"]], axis=-2)
    way = jnp.asarray(tables[1, : spec.towers[tower].context], context.dtype)
    return Features(pooled=pooled * (1 + jnp.mean(context, axis=-2) @ way))


def tokenize(texts: Any) -> np.ndarray:
    """Token ids i32[n, LENGTH] of texts, as `Spec.tokenize` gives them: letters as numbers."""
    ids = [[2, *(ord(c) % WORDS for c in text)][: LENGTH - 1] + [1] for text in texts]
    return np.asarray([row + [0] * (LENGTH - len(row)) for row in ids], np.int32)
