"""SPN4CIR's two stages against their definition in float64 NumPy, one query at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import BROAD, SPEC, B, Case, assert_gradient, assert_value, counted_flops, moved
from numpy_heads import f64, mlp, unit
from support import TEXT, program_of, resolve

from facejax.contracts import Frozen
from facejax.errors import UserError
from facejax.objectives import spn4cir

CONFIG = spn4cir.Config.tiny()
WHOLE = [0, 1, 2, 4, 5, 7]  # rows with a text and a target's picture
ALL = jnp.ones(B, bool)


def case_of(spec=SPEC, **options) -> Case:
    return moved(Case.of(spn4cir, dataclasses.replace(CONFIG, **options), spec), by=0.3)


def queries(given):
    p = f64(given.params)
    r, t = unit(f64(given.feats["reference"].pooled)), f64(given.feats["text"].pooled)
    t = unit(t @ p["text"]["kernel"])
    both = np.concatenate([r, t], 1)
    gate = 1 / (1 + np.exp(-mlp(p["gate"], both)))
    return unit(gate * t + (1 - gate) * r + mlp(p["mix"], both))


def cross(c, targets, index, tau=CONFIG.tau):
    """The cross-entropy of each query with its row of the targets."""
    s = c @ targets.T / tau
    return np.mean([np.log(np.exp(row - row.max()).sum()) + row.max() - row[i]
                    for row, i in zip(s, index)])  # fmt: skip


def test_first_stage_is_its_formula():
    case = case_of()
    given = case.inputs()
    v = unit(f64(given.feats["target"].pooled))
    want = cross(queries(given)[WHOLE], v[WHOLE], range(len(WHOLE)))
    assert_value(case, given, want)
    assert_gradient(case, given, rtol=1e-5)


@pytest.fixture
def banked(tmp_path):
    """A function from rows to the spec of a run whose bank they are."""

    def spec(rows):
        np.save(tmp_path / "bank.npy", rows)
        return dataclasses.replace(SPEC, artifacts={"all": str(tmp_path / "bank.npy")})

    return spec


SECOND = {"bank": "all", "frozen": "first"}


def test_second_stage_is_its_formula(banked):
    rows = np.random.default_rng(3).normal(size=(10, 8)).astype(np.float32)
    case = case_of(banked(rows), **SECOND)
    given = case.inputs()
    index = np.asarray(given.batch["target"])
    some = [b for b in range(B) if index[b] >= 0 and b != 3]
    assert_value(case, given, cross(queries(given)[some], unit(f64(rows)), index[some]))
    assert_gradient(case, given, rtol=1e-5)
    beyond = {**given.batch, "target": given.batch["target"].at[0].set(10)}
    count = jax.jit(case.loss)(dataclasses.replace(given, batch=beyond)).terms["retrieval"].count
    assert count == len(some) - 1


def test_a_bank_of_the_batchs_targets_is_the_first_stage(banked):
    """In value, and in the gradient of what both train."""
    first = case_of()
    given = first.inputs()
    batch = {**given.batch, "has_text": ALL, "has_generated": ALL, "has_target": ALL}
    batch["target"] = jnp.arange(B, dtype=jnp.int32)
    given = dataclasses.replace(given, batch=batch)
    spec = banked(np.asarray(3 * given.feats["target"].pooled))
    second = dataclasses.replace(first, config=dataclasses.replace(CONFIG, **SECOND), spec=spec)
    feats = {name: f for name, f in given.feats.items() if name != "target"}
    other = dataclasses.replace(given, feats=feats)
    values, grads = zip(
        *(
            jax.jit(lambda g, case=case: (case.value(g), case.grads(g)))(g)
            for case, g in ((first, given), (second, other))
        )
    )
    np.testing.assert_allclose(*values, rtol=1e-5)
    for a, b in zip(*(jax.tree.leaves(g["params"]) for g in grads)):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)


def test_second_stage_fixes_the_image_tower_and_the_bank(banked):
    """The tower is a frozen one, whose features the step sends no gradient; a bank is no weight."""
    case = case_of(banked(np.ones((10, 8), np.float32)), **SECOND)
    assert case.passes["reference"].weights == Frozen("first")
    assert "target" not in case.passes
    given = case.inputs()

    def of_bank(bank):
        params, ema, state, feats, batch, ctx = case.arguments(given)
        ctx = dataclasses.replace(ctx, constants={"bank": bank})
        loss = spn4cir.loss(case.config, params, ema, state, feats, batch, ctx)
        return loss.terms["retrieval"].value()

    assert (jax.jit(jax.grad(of_bank))(case.constants["bank"]) == 0).all()


def test_where_all_are_equal_the_loss_is_that_of_guessing(banked):
    case = case_of(banked(np.ones((30, 8), np.float32)), **SECOND)
    np.testing.assert_allclose(jax.jit(case.value)(case.inputs()), np.log(30), rtol=1e-5)


def test_the_composed_query_is_what_training_compares():
    case = case_of()
    given = case.inputs()
    pooled = given.feats["reference"].pooled, given.feats["text"].pooled
    c = jax.jit(spn4cir.compose, static_argnums=0)(CONFIG, given.params, *pooled)
    np.testing.assert_allclose(c, queries(given), atol=1e-5)
    assert spn4cir.scale_bias(CONFIG, given.params) == (50, 0)


def test_what_does_not_fit_is_refused(banked):
    spec = banked(np.ones((4, 7), np.float32))
    for options, message in (
        ({"bank": "al", "frozen": "first"}, r"^bank: no artifact 'al'.*'all'"),
        (SECOND, r"holds \[4, 7\]; give rows of 8"),
    ):
        with pytest.raises(UserError, match=message):
            spn4cir.constants(dataclasses.replace(CONFIG, **options), spec)
    for options, message in (
        ({"bank": "all"}, r"^frozen: the bank's image tower has to stay"),
        ({"cached": "feature"}, r"^cached: the first stage encodes its targets"),
    ):
        with pytest.raises(UserError, match=message):
            spn4cir.passes(dataclasses.replace(CONFIG, **options), spec)


def test_the_step_reads_what_a_stage_needs():
    program = program_of(resolve({"spn4cir": {"hidden": 4}}, encoder_text=TEXT))
    assert program.fields() == ("generated", "image", "text")
    assert spn4cir.fields(spn4cir.Config(bank="all")) == ("text", "target")


def test_flops_are_those_that_xla_counts():
    counted = counted_flops(Case.of(spn4cir, spn4cir.Config(), BROAD))
    np.testing.assert_allclose(spn4cir.flops(spn4cir.Config(), BROAD), counted, rtol=0.02)
