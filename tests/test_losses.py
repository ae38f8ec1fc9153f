"""What the step makes of modifiers, without running it."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
from made_up import DRAW
from support import program_of, resolve

from facejax import state
from facejax.contracts import Ctx, Histogram, Loss, Term
from facejax.losses import Given, _modify
from facejax.plugins import load


def test_a_modifier_that_is_called_twice_counts_as_one_over_all_pairs(monkeypatch):
    drawn = []

    def transform(cfg, params, own, pairs, ctx):
        drawn.append(jax.random.key_data(ctx.draw.key))
        values = pairs.q[: 3 + 2 * len(drawn), 0]
        loss = Loss(
            {"mean": Term.mean(values, weight=0.5)},
            stats={"rows": len(values)},
            metrics={"drawn": Histogram.of(values), "curve": Term.mean(values)},
        )
        return dataclasses.replace(pairs, q=pairs.q * 2), loss

    monkeypatch.setattr(load("modifier", "gate", ""), "transform", transform)
    program = program_of(resolve({"queue": {"modifiers": {"gate": {}}}}))
    current = state.initial(program)
    given = Given(program, current, {}, {})
    ctx = Ctx(jnp.int32(0), draw=DRAW, spec=program.spec)
    collected = {}
    modify = _modify(given, {"params": current.params, "rows": {}}, "queue", ctx, collected)
    first, second = made_up.pairs(4, seed=1), made_up.pairs(4, seed=2)
    for pairs in (first, second):
        np.testing.assert_array_equal(modify(pairs).q, 2 * pairs.q)

    values = np.concatenate([first.q[:5, 0], second.q[:7, 0]])
    loss = collected["gate"]
    np.testing.assert_allclose(loss.terms["mean"].value(), values.mean(), rtol=1e-6)
    assert (float(loss.terms["mean"].weight), float(loss.terms["mean"].count)) == (0.5, 12)
    np.testing.assert_allclose(loss.metrics["curve"].value(), values.mean(), rtol=1e-6)
    np.testing.assert_array_equal(loss.metrics["drawn"].counts.sum(), 12)
    assert loss.stats == {"rows": 12}
    assert (drawn[0] != drawn[1]).any()
