"""What modifiers count under a queue is what they multiply there."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from counting import products
from made_up import SPEC, B, Rewriting, base, pairs, unit

from facejax.modifiers import amcl, cacr, hallucinator

WIDTH, QUEUE = 32, 4096


def queued(pairs):
    """Against a queue so long that nothing else matters much."""
    rows = jax.random.normal(jax.random.key(1), (QUEUE, WIDTH))
    return dataclasses.replace(pairs, neg=rows, neg_owner=jnp.full(QUEUE, -1))


def keys(cfg) -> float:
    """Of AMCL's products with keys, which have no backward pass, two thirds are not counted."""
    sides = amcl._head(cfg, WIDTH).flops(WIDTH) + amcl._net(cfg, cfg.out).flops(cfg.out)
    return cfg.heads * sides * (1 + QUEUE / B) * 2 / 3


@pytest.mark.parametrize(
    ("module", "options", "uncounted"),
    [
        (amcl, {"out": 16}, keys),
        (cacr, {}, None),
        (cacr, {"intra_batch": True}, None),
        (cacr, {"form": "weights"}, None),
        (hallucinator, {}, None),
    ],
    ids=lambda x: getattr(x, "__name__", "").rpartition(".")[2],
)
def test_flops_are_those_of_the_products(module, options, uncounted):
    case = Rewriting.of(module, WIDTH, **options)
    given = case.inputs(queued(unit(pairs(WIDTH))))
    counted = products(jax.make_jaxpr(case.value)(given).jaxpr)
    counted -= products(jax.make_jaxpr(base)(given["pairs"]).jaxpr)
    want = module.flops(case.config, SPEC, WIDTH, QUEUE)
    want += uncounted(case.config) if uncounted else 0
    assert counted / B == pytest.approx(want, rel=0.02, abs=1)
