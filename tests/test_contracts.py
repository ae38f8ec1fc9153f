"""Every plug-in, the test plug-ins among them, keeps the contract of its kind.

Evaluators have theirs in `evaluators/test_contract.py`; sources have the rest of theirs in
`data/sources/test_sources.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import B, Case, take
from support import assert_close, leaves, program_of, resolve

from facejax import mesh, plugins, state
from facejax.checkpoint import Checkpoints
from facejax.config import MeshShape
from facejax.contracts import (
    Draw,
    Drawn,
    Ema,
    Features,
    Frozen,
    Histogram,
    Loss,
    Pass,
    Student,
    Term,
    TowerSpec,
    Vars,
    View,
)
from facejax.data.records import BadRecord
from facejax.losses import sum_terms
from facejax.ops.masking import REMOVED, Cells, Random, patchify, unpatchify
from facejax.schedule import Schedule


def load(kind: str, name: str):
    return plugins.load(kind, name, "test")


def finite(tree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in leaves(tree).values())


def assert_plain(tree) -> None:
    """Nested dicts with string keys, arrays at the ends."""
    if isinstance(tree, dict):
        assert all(type(key) is str for key in tree)
        for value in tree.values():
            assert_plain(value)
    else:
        assert isinstance(tree, jax.Array)


def assert_pure(call, *given) -> None:
    """Two traces are the same programs, and no container that went in has changed."""
    before = jax.tree.structure(given), [id(leaf) for leaf in jax.tree.leaves(given)]
    # A new function each time, or the second trace would come from the cache.
    first, second = (jax.make_jaxpr(lambda: call())() for _ in range(2))
    assert (jax.tree.structure(given), [id(leaf) for leaf in jax.tree.leaves(given)]) == before
    assert str(first) == str(second)
    for a, b in zip(first.consts, second.consts):
        np.testing.assert_array_equal(*(_data(x) for x in (a, b)))


def _data(x):
    typed = isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if typed else x


def assert_frozen_config(module, config) -> None:
    """Equal values are equal configs, so that two runs of one config are one compilation."""
    assert type(config) is module.Config
    assert hash(config) == hash(dataclasses.replace(config))


# --------------------------------------------------------------------------------- objectives


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
        assert set(p.outputs) <= {"pooled", "prefix", "tokens", "layers", "view"}
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
    assert students
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
    moved = jax.tree.map(lambda x: x[order], grads["feats"])
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
    added = jax.tree.map(jnp.add, *((p.stats, p.metrics) for p in parts))
    assert_close(added, (whole.stats, whole.metrics), atol=1e-5, rtol=1e-5)


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
    assert columns
    size = objective.spec.size
    for name, images in columns.items():
        assert type(name) is str
        assert images.shape == (B, size, size, 3)
        assert images.dtype == jnp.float32
        assert np.isfinite(images).all()


def test_states_of_all_objectives_survive_a_checkpoint_on_another_mesh(tmp_path):
    section = {}
    for name in plugins.names("objective"):
        module = load("objective", name)
        config = module.Config.tiny()
        section[name] = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        if module.init(config, jax.random.key(0), made_up.SPEC).pairs:
            section[name]["modifiers"] = {m: {} for m in plugins.names("modifier")}
    optimizer = {"name": "adamw", "lr": 1e-3}
    program = program_of(
        resolve(section, encoder={"name": "toy", "norm": True}, optimizer=optimizer)
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


# ---------------------------------------------------------------------------------- modifiers

WIDTH = 6


@pytest.fixture(scope="module", params=plugins.names("modifier"))
def modifier(request):
    module = load("modifier", request.param)
    config = module.Config.tiny()
    return module, config, module.init(config, jax.random.key(0), made_up.SPEC, WIDTH)


def transform(modifier, params, pairs, config=None):
    module, own, variables = modifier
    ctx = Case(module, own, variables).ctx(made_up.DRAW)
    return module.transform(config or own, params, variables.state, pairs, ctx)


def test_modifier_declares_itself(modifier):
    module, config, variables = modifier
    assert_frozen_config(module, config)
    assert isinstance(variables, Vars)
    assert_plain(variables.params)
    assert_plain(variables.state)
    assert hasattr(module, "update") == bool(variables.state)
    again = module.init(config, jax.random.key(0), made_up.SPEC, WIDTH)
    assert_close((again.params, again.state), (variables.params, variables.state), atol=0)


def test_modifier_is_pure(modifier):
    _, _, variables = modifier
    pairs = made_up.pairs(WIDTH)
    assert_pure(lambda: transform(modifier, variables.params, pairs), variables.params, pairs)


@pytest.mark.parametrize("kind", ["ordinary", "zero", "equal"])
def test_modifier_returns_pairs_and_passes_gradients(modifier, kind):
    _, _, variables = modifier
    given = made_up.pairs(WIDTH, kind)

    @jax.jit
    def run(params, q, k, neg):
        pairs = dataclasses.replace(given, q=q, k=k, neg=neg)
        out, loss = transform(modifier, params, pairs)
        parts = [out.q, out.k, out.neg, out.weight]
        if out.qp is not None:
            parts.append(out.qp)
        total = sum(jnp.sum(jnp.sin(part)) for part in parts) + sum_terms(loss)
        return total, (out, loss)

    arguments = (variables.params, given.q, given.k, given.neg)
    (total, (out, loss)), grads = jax.value_and_grad(run, (0, 1, 2, 3), has_aux=True)(*arguments)
    assert finite(total)
    assert finite(grads)
    A, P, M = len(out.q), out.k.shape[1], len(out.neg)
    assert out.q.shape == (A, WIDTH)
    assert out.k.shape == (A, P, WIDTH)
    assert out.neg.shape == (M, WIDTH)
    assert (out.allowed.shape, out.allowed.dtype) == ((A, M), bool)
    assert (out.positive.shape, out.positive.dtype) == ((A, P), bool)
    assert out.weight.shape == (A,)
    assert jnp.shape(out.tau) in ((), (A, 1))
    assert out.qp is None or out.qp.shape == (A, P, WIDTH)
    assert out.enqueue.shape[1] == WIDTH
    assert len(out.enqueue) % B == 0
    assert all(isinstance(term, Term) for term in loss.terms.values())
    if kind == "ordinary":
        for path, grad in leaves(grads[0]).items():
            assert np.abs(grad).max() > 0, path


def test_modifier_that_is_off_hands_the_pairs_on(modifier):
    _, config, variables = modifier
    if "off" not in {f.name for f in dataclasses.fields(config)}:
        pytest.skip("no neutral option")
    given = made_up.pairs(WIDTH)
    off = dataclasses.replace(config, off=True)
    out, loss = transform(modifier, variables.params, given, off)
    assert_close(out, given, atol=0)
    assert float(sum_terms(loss)) == 0


# ----------------------------------------------------------------------------------- encoders

OUTPUTS = ("pooled", "prefix", "tokens", "layers")
MASKS = {
    "none": None,
    "drop": Random(0.5),
    "replace": Random(0.5, drop=False),
    "cells": Cells(8, 0.5),
}


@dataclasses.dataclass(frozen=True)
class Encoder:
    module: object
    config: object
    params: dict
    stats: dict

    @property
    def tower(self):
        return self.module.tower(self.config)

    @property
    def images(self) -> jax.Array:
        size = self.tower.size
        return jax.random.normal(jax.random.key(5), (B, size, size, 3))

    def drawn(self, kind: str, images: jax.Array) -> Drawn | None:
        sampler = MASKS[kind]
        return sampler and sampler({"image": images}, self.tower.grid(), made_up.DRAW)

    def apply(self, images, mask=None, config=None, params=None, **keys) -> Features:
        found, _ = self.module.apply(
            config or self.config,
            self.params if params is None else params,
            self.stats,
            {"image": images},
            mask=mask,
            **{"outputs": OUTPUTS, **keys},
        )
        return found


@pytest.fixture(scope="module", params=plugins.names("encoder"))
def encoder(request) -> Encoder:
    module = load("encoder", request.param)
    config = module.Config.tiny()
    params, stats = module.init(config, jax.random.key(0), TowerSpec(mask_token=True))
    return Encoder(module, config, params, stats)


@pytest.fixture(scope="module")
def run(encoder):
    """Evaluation, compiled once per kind of mask."""
    return jax.jit(lambda images, mask: encoder.apply(images, mask))


def test_encoder_declares_itself(encoder):
    module = encoder.module
    assert_frozen_config(module, encoder.config)
    tower = encoder.tower
    assert tower.size % max(tower.patch, 1) == 0
    assert min(tower.width, tower.embed, tower.depth) > 0
    assert_plain(encoder.params)
    assert_plain(encoder.stats)
    assert {leaf.dtype for leaf in jax.tree.leaves(encoder.params)} == {jnp.dtype("float32")}


def test_encoder_init_depends_on_its_key_alone(encoder):
    draw = functools.partial(encoder.module.init, encoder.config)
    assert_close(draw(jax.random.key(0), TowerSpec(True)), (encoder.params, encoder.stats), atol=0)
    other, _ = draw(jax.random.key(1), TowerSpec(True))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (other, encoder.params))))
    plain, _ = draw(jax.random.key(0), TowerSpec(False))
    extra = leaves(encoder.params).keys() - leaves(plain).keys()
    assert [path.rsplit("/")[-1] for path in extra] == ["mask_token"]


@pytest.mark.parametrize("kind", MASKS)
def test_encoder_returns_what_its_tower_says(encoder, run, kind):
    tower, images = encoder.tower, encoder.images
    drawn = encoder.drawn(kind, images)
    found = run(images, drawn)
    n = int(np.prod(tower.grid()))
    assert drawn is None or (np.asarray(drawn.mask) & REMOVED).sum(1).tolist() == [n // 2] * B
    if drawn is not None and drawn.keep is not None:
        n = drawn.keep.shape[1]
    assert found.pooled.shape == (B, tower.embed)
    assert found.pooled.dtype == jnp.float32
    assert found.prefix.shape == (B, tower.prefix, tower.width)
    assert found.tokens.shape == (B, n, tower.width)
    assert len(found.layers) == tower.depth
    assert {x.shape for x in found.layers} == {(B, tower.prefix + n, tower.width)}
    assert finite((found.pooled, found.tokens))
    run(images + 1, drawn)
    assert run._cache_size() <= len({"none", "drop", "replace"})


def test_encoder_returns_nothing_that_was_not_asked_for(encoder):
    for name in OUTPUTS:
        found = jax.eval_shape(lambda n=name: encoder.apply(encoder.images, outputs=(n,)))
        given = {n for n in (*OUTPUTS, "view") if getattr(found, n) is not None}
        assert given == {name}


@pytest.mark.parametrize("kind", ["drop", "replace", "cells"])
def test_encoder_does_not_see_what_was_removed(encoder, run, kind):
    images, patch = encoder.images, encoder.tower.patch
    drawn = encoder.drawn(kind, images)
    removed = (np.asarray(drawn.mask) & REMOVED).astype(bool)
    patches = patchify(images, patch)
    hidden = unpatchify(jnp.where(removed[..., None], 7.0, patches), patch, encoder.tower.grid())
    visible = unpatchify(jnp.where(removed[..., None], patches, 7.0), patch, encoder.tower.grid())
    found = run(images, drawn)
    assert_close(found, run(hidden, drawn), atol=0)
    assert np.abs(found.pooled - run(visible, drawn).pooled).max() > 1e-3


def test_encoder_treats_rows_alone_and_alike(encoder, run):
    images = encoder.images
    found = run(images, None)
    order = np.array([3, 0, 7, 6, 5, 4, 2, 1])
    moved = run(images[order], None)
    np.testing.assert_allclose(moved.pooled, found.pooled[order], atol=1e-5)
    changed = run(images.at[1:].set(0.0), None)
    np.testing.assert_allclose(changed.pooled[0], found.pooled[0], atol=1e-5)
    assert np.abs(changed.pooled[1] - found.pooled[1]).max() > 1e-3


def test_encoder_has_stochastic_depth_only_where_it_is_trained_with_a_draw(encoder):
    names = {f.name for f in dataclasses.fields(encoder.config)}
    random = {"drop_path": 0.9} if "drop_path" in names else {}
    config = dataclasses.replace(encoder.config, **random)

    @functools.partial(jax.jit, static_argnames=("train", "drop"))
    def pooled(seed, train, drop=True):
        draw = Draw(jax.random.key(seed), made_up.DRAW.rows) if drop else None
        return encoder.apply(encoder.images, config=config, train=train, draw=draw).pooled

    np.testing.assert_array_equal(pooled(0, train=False), pooled(1, train=False))
    plain = encoder.apply(encoder.images).pooled
    np.testing.assert_allclose(pooled(0, train=False), plain, atol=1e-5)
    np.testing.assert_allclose(pooled(0, train=True, drop=False), plain, atol=1e-5)
    if random:
        assert np.abs(pooled(0, train=True) - pooled(1, train=True)).max() > 1e-3
        np.testing.assert_array_equal(pooled(0, train=True), pooled(0, train=True))


def test_encoder_is_pure(encoder):
    images = encoder.images
    given = {"image": images}

    def call():
        return encoder.module.apply(
            encoder.config, encoder.params, encoder.stats, given, train=True, draw=made_up.DRAW
        )

    assert_pure(call, encoder.params, encoder.stats, given)


def test_encoder_trains_every_parameter(encoder):
    """Through the pooled output of images with replaced patches, and of whole images."""
    images = encoder.images
    drawn = encoder.drawn("replace", images)

    @jax.jit
    @jax.grad
    def grad(params):
        found = encoder.apply(images, drawn, params=params, outputs=("pooled",))
        # Unequal weights: the sum of a normalised vector has no gradient of its own.
        weight = jnp.arange(found.pooled.shape[1], dtype=jnp.float32)[None]
        return jnp.sum(jnp.sin(found.pooled) * weight)

    for path, value in leaves(grad(encoder.params)).items():
        assert np.isfinite(value).all(), path
        assert np.abs(value).max() > 0, path


def test_encoder_flops_grow_with_what_is_computed(encoder):
    if not hasattr(encoder.module, "flops"):
        pytest.skip("no flops")
    flops = functools.partial(encoder.module.flops, encoder.config)
    count = int(np.prod(encoder.tower.grid()))
    assert 0 < flops(keep=count // 2) < flops(keep=count) == flops()
    assert flops(2 * encoder.tower.size) > flops()


# ------------------------------------------------------------------------------------ sources


@pytest.fixture(scope="module", params=plugins.names("source"))
def source(request, tmp_path_factory):
    module = load("source", request.param)
    config = module.Config.tiny(tmp_path_factory.mktemp(request.param))
    assert_frozen_config(module, config)
    return module.open(config)


def test_source_fields_describe_its_records_exactly(source):
    for index, record in enumerate(source.read(range(len(source)))):
        assert not isinstance(record, BadRecord)
        assert type(source.name(index)) is str
        for name, value in record.items():
            field = source.fields[name]
            if isinstance(value, bytes):
                assert name in ("image", "regions")
            elif field.dtype == "str":
                assert type(value) is str
            elif name == "image":
                assert (value.dtype, value.ndim, value.shape[2]) == (np.uint8, 3, 3)
            elif name == "regions":
                assert (value.dtype, value.ndim) == (np.uint8, 2)
            else:
                array = np.asarray(value)
                assert array.shape == field.shape
                kind = np.dtype(field.dtype).kind
                assert array.dtype.kind == kind
                assert not array.shape or array.dtype == np.dtype(field.dtype)
                if field.classes:
                    assert -1 <= value < field.classes
                if name == "attributes":
                    assert set(np.unique(array)) <= {-1, 0, 1}
                    assert len(field.names) == array.size


def test_source_reads_the_same_twice(source):
    first, second = (source.read(range(len(source))) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
