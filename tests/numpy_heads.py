"""Heads and normalisations in float64 NumPy, which tests of objectives hold losses to."""

import jax
import numpy as np
from scipy.special import erf


def f64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def mlp(params, x, norm="none", final_norm=False, activation="relu"):
    """`layers.MlpHead` on [..., D]; batch statistics are over all leading axes."""
    params, x = f64(params), np.asarray(x, np.float64)
    names = sorted(name for name in params if name.startswith("fc_"))
    for i, name in enumerate(names):
        last = i == len(names) - 1
        x = x @ params[name]["kernel"] + params[name].get("bias", 0.0)
        if norm == "batch" and (not last or final_norm):
            axes = tuple(range(x.ndim - 1))
            x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
            if not last:
                x = x * params[f"norm_{i}"]["scale"] + params[f"norm_{i}"]["bias"]
        if not last:
            gelu = activation == "gelu"
            x = x * (1 + erf(x / np.sqrt(2))) / 2 if gelu else np.maximum(x, 0)
    return x


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def entropy(p):
    return -(p * np.log(p)).sum(-1)
