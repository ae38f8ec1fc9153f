"""Counts the matrix products of a traced function, which is what model FLOPs are."""

import math

from jax.extend import core


def products(jaxpr: core.Jaxpr) -> float:
    """Multiply-adds of every product and convolution in a jaxpr, twice each.

    Work on elements is left out, so that the smallest shapes will do. A loop's body counts as often
    as it runs. Products that a function writes down twice, of the same arrays, are made once.
    """
    total, seen = 0.0, set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            product = (*map(id, eqn.invars), str(eqn.params))
            if product not in seen:
                total += _flops(eqn)
            seen.add(product)
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        for inner in core.jaxprs_in_params(eqn.params):
            total += times * products(inner)
    return total


def _flops(eqn) -> float:
    out, (left, right) = eqn.outvars[0].aval, (v.aval for v in eqn.invars)
    if eqn.primitive.name == "dot_general":
        contracted = eqn.params["dimension_numbers"][0][0]
        return 2.0 * out.size * math.prod(left.shape[i] for i in contracted)
    return 2.0 * out.size * right.size / out.shape[-1]
