"""Every objective, the test plug-ins among them, keeps the contract.

Modifiers, encoders and sources have theirs in `test_contracts_others.py`, evaluators in
`evaluators/test_contract.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from contract import assert_frozen_config, assert_plain, assert_pure, finite, fitting, load
from made_up import B, Case, take
from support import TEXT, assert_close, leaves, program_of, resolve

from facejax import mesh, plugins, state
from facejax.checkpoint import Checkpoints
from facejax.config import MeshShape
from facejax.contracts import (
    Ema,
    Frozen,
    Histogram,
    Loss,
    Pass,
    Student,
    Term,
    Vars,
    View,
)
from facejax.losses import sum_terms
from facejax.schedule import Schedule


@pytest.fixture(scope="module", params=plugins.names("objective"))
def objective(request) -> Case:
    return Case.of(load("objective", request.param))


@pytest.fixture(scope="module")
def compiled(objective):
    """Loss and gradients, compiled once for all tests of the objective."""

    def both(given):
        loss = objective.loss(given)
        return loss, objective.grads(given)

    return jax.jit(both)


def test_objective_declares_itself(objective):
    module, variables = objective.module, objective.vars
    assert_frozen_config(module, objective.config)
    assert module.SCOPE in ("batch", "sample")
    assert module.__doc__
    passes = objective.passes
    assert passes == objective.passes
    for p in passes.values():
        assert isinstance(p, Pass)
        assert hash(p) == hash(dataclasses.replace(p))
        assert isinstance(p.weights, Student | Ema | Frozen)
        assert isinstance(p.view, View)
        if not p.batched:
            assert (p.cached or p.view.field) in objective.constants
        assert set(p.outputs) <= {"pooled", "prefix", "tokens", "layers", "view"}
    assert all(isinstance(value, np.ndarray) for value in objective.constants.values())
    assert isinstance(variables, Vars)
    for tree in (variables.params, variables.state):
        assert_plain(tree)
    for own in variables.ema.values():
        assert set(own.params) <= variables.params.keys()
        assert isinstance(own.momentum, float | Schedule)
    assert not variables.params.keys() & variables.sparse.keys()
    assert bool(variables.sparse) == hasattr(module, "rows")
    for sparse in variables.sparse.values():
        assert sparse.value.ndim == 2
    assert variables.pairs >= 0


def test_objective_init_depends_on_its_key_alone(objective):
    def draw(seed):
        v = objective.module.init(objective.config, jax.random.key(seed), objective.spec)
        return v.params, v.state, {name: s.value for name, s in v.sparse.items()}

    first, again, other = draw(0), draw(0), draw(1)
    assert_close(first, again, atol=0)
    assert leaves(first).keys() == leaves(other).keys()
    constant = all(np.ptp(leaf) == 0 for leaf in leaves(first).values())
    differ = any((a != b).any() for a, b in zip(leaves(first).values(), leaves(other).values()))
    assert differ or constant


def test_objective_is_pure(objective):
    arguments = objective.arguments(objective.inputs())
    assert_pure(lambda: objective.module.loss(objective.config, *arguments), *arguments[:-1])


def test_objective_compiles_once(objective, compiled):
    before = compiled._cache_size()
    one, _ = compiled(objective.inputs(seed=1))
    two, _ = compiled(objective.inputs(seed=2))
    assert compiled._cache_size() == max(before, 1)
    assert float(sum_terms(one)) != float(sum_terms(two))
    assert isinstance(one, Loss)
    for term in one.terms.values():
        assert isinstance(term, Term)
        assert term.sum.shape == term.count.shape == ()
        assert term.sum.dtype == term.count.dtype == jnp.float32
    for metric in one.metrics.values():
        assert isinstance(metric, Term | Histogram)


@pytest.mark.parametrize("kind", made_up.KINDS)
def test_objective_is_finite(objective, compiled, kind):
    loss, grads = compiled(objective.inputs(kind))
    assert finite(loss)
    assert finite(grads)


def test_objective_trains_all_of_its_parameters_and_the_encoder(objective, compiled):
    """A parameter that no gradient reaches is state, or dead."""
    given = objective.inputs()
    _, grads = compiled(given)
    trained = objective.trained(given)
    assert jax.tree.structure(grads) == jax.tree.structure(trained)
    for path, grad in leaves({"params": grads["params"], "rows": grads["rows"]}).items():
        assert np.abs(grad).max() > 0, path
    students = [n for n, p in objective.passes.items() if p.weights == Student() and not p.cached]
    # An objective that trains no encoder trains a model of its own.
    assert students or objective.vars.params
    for name in students:
        found = leaves(grads["feats"][name])
        assert found
        for path, grad in found.items():
            assert np.abs(grad).max() > 0, (name, path)


def test_objective_counts_and_weights_are_free_of_the_model(objective, compiled):
    one, _ = compiled(objective.inputs())
    given = objective.inputs(seed=3)
    moved = dataclasses.replace(given, params=jax.tree.map(lambda x: 1.5 * x + 0.1, given.params))
    other, _ = compiled(moved)
    assert float(sum_terms(one)) != float(sum_terms(other))
    for name, term in one.terms.items():
        assert float(term.count) == float(other.terms[name].count), name
        assert float(term.weight) == float(other.terms[name].weight), name
    data, _ = compiled(
        dataclasses.replace(objective.inputs("constant"), batch=made_up.batch(seed=1))
    )
    for name, term in one.terms.items():
        assert float(term.weight) == float(data.terms[name].weight), name


def test_objective_does_not_care_for_the_order_of_rows(objective, compiled):
    given = objective.inputs()
    order = np.random.default_rng(0).permutation(B)
    assert (order != np.arange(B)).any()
    one, grads = compiled(given)
    other, other_grads = compiled(take(given, order))
    for name, term in one.terms.items():
        np.testing.assert_allclose(term.value(), other.terms[name].value(), rtol=1e-5, atol=1e-6)
    assert_close(grads["params"], other_grads["params"], atol=1e-5, rtol=1e-4)
    moved = {
        name: jax.tree.map(lambda x: x[order], g) if objective.passes[name].batched else g
        for name, g in grads["feats"].items()
    }
    assert_close(moved, other_grads["feats"], atol=1e-5, rtol=1e-4)


def test_objective_of_sample_scope_adds_up_over_micro_batches(objective, compiled):
    if objective.module.SCOPE != "sample":
        pytest.skip("batch scope")
    given = objective.inputs()
    halves = jax.jit(objective.loss)
    whole, _ = compiled(given)
    parts = [halves(take(given, np.arange(m, B, 2))) for m in range(2)]
    for name, term in whole.terms.items():
        for part in ("sum", "count"):
            added = sum(getattr(p.terms[name], part) for p in parts)
            np.testing.assert_allclose(added, getattr(term, part), rtol=1e-5, err_msg=name)
    added = jax.tree.map(jnp.add, *((p.stats, sums(p.metrics)) for p in parts))
    assert_close(added, (whole.stats, sums(whole.metrics)), atol=1e-5, rtol=1e-5)


def sums(metrics):
    """What of metrics adds up: the weight of a Term does not."""
    return {
        name: dataclasses.replace(m, weight=0.0) if isinstance(m, Term) else m
        for name, m in metrics.items()
    }


def test_objective_update_keeps_what_it_holds(objective, compiled):
    module, given = objective.module, objective.inputs()
    if not hasattr(module, "update"):
        assert not objective.vars.state
        return
    loss, _ = compiled(given)

    def call():
        ctx = objective.ctx(given.draw)
        return module.update(objective.config, given.params, given.state, loss.stats, ctx)

    assert_pure(call, given)
    params, new = jax.jit(call)()
    shape = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    assert shape(params) == shape(given.params)
    assert shape(new) == shape(given.state)
    assert finite((params, new))


def test_objective_flops_are_positive(objective):
    if not hasattr(objective.module, "flops"):
        pytest.skip("no flops")
    assert objective.module.flops(objective.config, objective.spec) > 0


def test_objective_preview_is_columns_of_images(objective):
    if not hasattr(objective.module, "preview"):
        pytest.skip("no preview")
    given = objective.inputs()
    ctx = objective.ctx(given.draw)
    columns = objective.module.preview(objective.config, given.params, given.feats, ctx)
    assert set(columns) == set(objective.module.PREVIEW)
    size = objective.spec.size
    for name, images in columns.items():
        assert type(name) is str
        assert images.shape == (B, size, size, 3)
        assert images.dtype == jnp.float32
        assert np.isfinite(images).all()


@pytest.mark.slow
def test_states_of_all_objectives_survive_a_checkpoint_on_another_mesh(tmp_path):
    section, left = {}, plugins.names("modifier")
    for name in plugins.names("objective"):
        module = load("objective", name)
        config = module.Config.tiny()
        section[name] = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        if module.init(config, jax.random.key(0), made_up.SPEC).pairs:
            # Each modifier once, two at a time.
            fit = fitting(module.passes(config, made_up.SPEC))
            taken = [m for m in left if m in fit][:2]
            section[name]["modifiers"] = {m: {} for m in taken}
            left = [m for m in left if m not in taken]
    assert not left
    optimizer = {"name": "adamw", "lr": 1e-3}
    program = program_of(
        resolve(
            section,
            encoder={"name": "toy", "norm": True},
            encoder_text=TEXT | {"context": 8},
            optimizer=optimizer,
        )
    )
    one = mesh.make(MeshShape(), jax.devices()[:1])
    saved = state.create(program, one)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(0, saved)
    checkpoints.close()
    eight = mesh.make(MeshShape(2, 4))
    restored = Checkpoints(tmp_path).restore(program, eight, 0)
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    assert_close(saved, restored, atol=0)
    spread = [leaf for leaf in jax.tree.leaves(restored) if not leaf.sharding.is_fully_replicated]
    assert spread
