"""Every modifier, encoder and source, the test plug-ins among them, keeps the contract of its kind.

Sources have the rest of theirs in `data/sources/test_sources.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from contract import assert_frozen_config, assert_plain, assert_pure, finite, load
from counting import products
from made_up import B, Case
from support import assert_close, leaves

from facejax import plugins
from facejax.contracts import (
    Aug,
    Draw,
    Drawn,
    Features,
    Pass,
    Term,
    TowerSpec,
    Vars,
    View,
)
from facejax.data.records import BadRecord
from facejax.losses import sum_terms
from facejax.ops.masking import REMOVED, Cells, Random, patchify, unpatchify

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
    feats = {name: made_up.features(p) for name, p in passes(module, own).items()}
    ctx = dataclasses.replace(ctx, feats=feats)
    return module.transform(config or own, params, variables.state, pairs, ctx)


def passes(module, config) -> dict[str, Pass]:
    """What the modifier asks for beside the passes of an objective with two views."""
    view = View(aug=Aug(made_up.SPEC.size, scale=(0.5, 1.0)))
    base = {draw: Pass(dataclasses.replace(view, draw=draw)) for draw in "ab"}
    return module.passes(config, base, made_up.SPEC) if hasattr(module, "passes") else {}


def test_modifier_declares_itself(modifier):
    module, config, variables = modifier
    assert_frozen_config(module, config)
    assert isinstance(variables, Vars)
    assert_plain(variables.params)
    assert_plain(variables.state)
    assert hasattr(module, "update") == bool(variables.state)
    again = module.init(config, jax.random.key(0), made_up.SPEC, WIDTH)
    assert_close((again.params, again.state), (variables.params, variables.state), atol=0)
    asked = passes(module, config)
    assert asked == passes(module, config)
    assert all(isinstance(p, Pass) and "/" not in name for name, p in asked.items())


def test_modifier_is_pure(modifier):
    _, _, variables = modifier
    pairs = made_up.pairs(WIDTH)
    assert_pure(lambda: transform(modifier, variables.params, pairs), variables.params, pairs)


@pytest.fixture(scope="module")
def modified(modifier):
    """What the modifier makes of pairs, and gradients, compiled once for all tests of it."""

    def run(params, features, given):
        out, loss = transform(modifier, params, dataclasses.replace(given, **features))
        parts = [out.q, out.k, out.neg, out.weight]
        if out.qp is not None:
            parts.append(out.qp)
        total = sum(jnp.sum(jnp.sin(part)) for part in parts) + sum_terms(loss)
        return total, (out, loss)

    return jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))


@pytest.mark.parametrize("kind", ["ordinary", "zero", "equal"])
def test_modifier_returns_pairs_and_passes_gradients(modifier, modified, kind):
    _, _, variables = modifier
    given = made_up.pairs(WIDTH, kind)
    features = {name: getattr(given, name) for name in ("q", "k", "neg")}
    (total, (out, loss)), grads = modified(variables.params, features, given)
    assert finite(total)
    assert finite(grads)
    A, P, M = len(out.q), out.k.shape[1], len(out.neg)
    assert out.q.shape == (A, WIDTH)
    assert out.k.shape == (A, P, WIDTH)
    assert out.neg.shape == (M, WIDTH)
    assert (out.owner.shape, out.neg_owner.shape) == ((A,), (M,))
    assert out.allowed is None or (out.allowed.shape, out.allowed.dtype) == ((A, M), bool)
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
        """What it reads: images, or texts where its tower has no pixels."""
        size = self.tower.size
        if not size:
            return made_up.batch()["text"]
        return jax.random.normal(jax.random.key(5), (B, size, size, 3))

    def given(self, images) -> dict[str, jax.Array]:
        return {"image" if self.tower.size else "text": images}

    def drawn(self, kind: str, images: jax.Array) -> Drawn | None:
        sampler = MASKS[kind]
        if sampler and not self.tower.patch:
            pytest.skip("no patches to mask")
        return sampler and sampler({"image": images}, self.tower.grid(), made_up.DRAW)

    def apply(self, images, mask=None, config=None, params=None, **keys) -> Features:
        found, _ = self.module.apply(
            config or self.config,
            self.params if params is None else params,
            self.stats,
            self.given(images),
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
    wanted = ["mask_token"] if encoder.tower.patch else []
    assert [path.rsplit("/")[-1] for path in extra] == wanted


@pytest.mark.parametrize("kind", MASKS)
def test_encoder_returns_what_its_tower_says(encoder, run, kind):
    tower, images = encoder.tower, encoder.images
    drawn = encoder.drawn(kind, images)
    found = run(images, drawn)
    n = int(np.prod(tower.grid())) if tower.patch else found.tokens.shape[1]
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
    run(images[::-1], drawn)
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
    changed = run(images.at[1:].set(0), None)
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
    if not encoder.stats:  # else it is normalised by the batch
        np.testing.assert_allclose(pooled(0, train=True, drop=False), plain, atol=1e-5)
    if random:
        assert np.abs(pooled(0, train=True) - pooled(1, train=True)).max() > 1e-3
        np.testing.assert_array_equal(pooled(0, train=True), pooled(0, train=True))


def test_encoder_moves_its_statistics_in_training_alone(encoder):
    if not encoder.stats:
        pytest.skip("no statistics")
    module, given = encoder.module, encoder.given(encoder.images)

    @functools.partial(jax.jit, static_argnames="train")
    def stats(train):
        return module.apply(encoder.config, encoder.params, encoder.stats, given, train=train)[1]

    moved = leaves(stats(train=True))
    before = leaves(encoder.stats)
    assert_close(stats(train=False), encoder.stats, atol=0)
    assert {path: (x.shape, x.dtype) for path, x in moved.items()} == {
        path: (x.shape, x.dtype) for path, x in before.items()
    }
    for path, value in moved.items():
        assert np.isfinite(value).all(), path
        assert (value != before[path]).any(), path


def test_encoder_is_pure(encoder):
    images = encoder.images
    given = encoder.given(images)

    def call():
        return encoder.module.apply(
            encoder.config, encoder.params, encoder.stats, given, train=True, draw=made_up.DRAW
        )

    assert_pure(call, encoder.params, encoder.stats, given)


def test_encoder_trains_every_parameter(encoder):
    """Through the pooled output of images with replaced patches, and of whole images."""
    images = encoder.images
    drawn = encoder.drawn("replace" if encoder.tower.patch else "none", images)

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


def test_encoder_flops_are_those_of_its_products(encoder):
    """Of products alone, so the smallest config will do; its own test asks XLA at a large one."""
    config, given = encoder.config, encoder.given(encoder.images)

    def pooled(params, stats):
        return encoder.module.apply(config, params, stats, given, outputs=("pooled",))[0].pooled

    jaxpr = jax.make_jaxpr(pooled)(encoder.params, encoder.stats)
    assert products(jaxpr.jaxpr) / B == pytest.approx(encoder.module.flops(config), rel=0.02)


def test_encoder_flops_grow_with_what_is_computed(encoder):
    flops = functools.partial(encoder.module.flops, encoder.config)
    if encoder.tower.patch:
        count = int(np.prod(encoder.tower.grid()))
        assert flops(keep=count // 2) < flops(keep=count) == flops()
    assert not encoder.tower.size or flops() < flops(2 * encoder.tower.size)


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
                assert name in ("image", "regions", "generated")
            elif field.dtype == "str":
                several = value if type(value) is tuple else (value,)
                assert {type(v) for v in several} == {str}
            elif name in ("image", "generated"):
                assert (value.dtype, value.ndim, value.shape[2]) == (np.uint8, 3, 3)
            elif name == "regions":
                assert (value.dtype, value.ndim) == (np.uint8, 2)
            else:
                array = np.asarray(value)
                if field.many:
                    assert len(array) <= field.shape[0]
                assert array.shape[field.many :] == field.shape[field.many :]
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
