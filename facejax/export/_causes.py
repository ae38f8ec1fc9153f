"""Why an encoder gives other embeddings than its fingerprint: the usual mistakes, tried in turn."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from facejax import export
from facejax.contracts import Params
from facejax.data.align import MEAN_STD
from facejax.export import _encoder
from facejax.export._graph import CALLS

TOLERANCE = 1e-3
"""Of the embeddings' standard deviation, as for the fingerprint itself."""


def cause(
    cfg: Any, params: Params, stats: Params, preprocess: Mapping[str, Any], then: np.ndarray
) -> str:
    """Names the mistake under which the encoder gives the embeddings `then`; "" if none does.

    Args:
        cfg, params, stats: of the encoder.
        preprocess: see `facejax.export`.
        then: f32[4, D], those of the fingerprint.
    """
    for what, made in _tries(cfg, params, stats, preprocess):
        if made.shape == then.shape and export.agreement(then, made)["max_rel"] <= TOLERANCE:
            return what
    return ""


def _tries(cfg, params, stats, preprocess) -> Iterator[tuple[str, np.ndarray]]:
    images = export.fixed_images(preprocess["size"])
    embed = _encoder.embedder(cfg, params, stats)
    normal = export.normalise(images, preprocess)
    yield "channels in the order BGR", embed(export.normalise(images[..., ::-1], preprocess))
    swapped = {"mean": preprocess["std"], "std": preprocess["mean"]}
    yield "mean and std swapped", embed(export.normalise(images, swapped))
    for name, (mean, std) in MEAN_STD.items():
        other = export.normalise(images, {"mean": mean, "std": std})
        yield f"mean and std of '{name}'", embed(other)
    plain = _encoder.exact(cfg, scan=False)
    for name, activation in ACTIVATIONS.items():

        def forward(pixels):
            return _encoder.outputs(plain, params, stats, pixels)["raw"]

        with jax.default_matmul_precision("highest"):
            yield f"the activation {name}", np.asarray(with_erf(forward, activation)(normal))


def _quick(x: jax.Array) -> jax.Array:
    """What stands for erf(x) in GELU's x (1 + erf(x / sqrt 2)) / 2 to give x sigmoid(1.702 x)."""
    return jnp.tanh(0.851 * math.sqrt(2) * x)


ACTIVATIONS = {"QuickGELU instead of GELU": _quick}
"""GELU by tanh is not among them: it differs by less than other hardware may."""


def with_erf(
    function: Callable[[jax.Array], jax.Array], erf: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """The function with another function in place of every error function in it."""

    def run(x: jax.Array) -> jax.Array:
        closed = jax.make_jaxpr(function)(x)
        return _evaluate(closed.jaxpr, closed.consts, [x], erf)[0]

    return run


def _evaluate(jaxpr: core.Jaxpr, consts, inputs, erf) -> list[jax.Array]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs)))

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        given, name = [read(atom) for atom in eqn.invars], eqn.primitive.name
        if name in CALLS:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            closed = hasattr(inner, "consts")
            body, own = (inner.jaxpr, inner.consts) if closed else (inner, ())
            found = _evaluate(body, own, given, erf)
        elif name == "erf":
            found = [erf(given[0])]
        elif name == "erfc":
            found = [1 - erf(given[0])]
        else:
            made = eqn.primitive.bind(*given, **eqn.params)
            found = made if eqn.primitive.multiple_results else [made]
        values |= dict(zip(eqn.outvars, found))
    return [read(atom) for atom in jaxpr.outvars]
