"""The text tower: what a token sees, which one is the text, image context, leading axes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.contracts import TowerSpec
from facejax.encoders import text
from facejax.errors import UserError

TINY = dataclasses.replace(text.Config.tiny(), context=12)
IDS = jnp.asarray([[2, 7, 8, 1, 0, 0], [2, 9, 9, 9, 9, 1], [2, 1, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def params():
    return text.init(TINY, jax.random.key(0), TowerSpec())[0]


@functools.partial(jax.jit, static_argnames="cfg")
def encode(params, ids, context=None, cfg=TINY):
    outputs = ("pooled", "tokens")
    return text.apply(cfg, params, {}, {"text": ids}, context=context, outputs=outputs)[0]


def test_clip_reads_forward_and_pools_the_first_end(params):
    found = encode(params, IDS)
    np.testing.assert_allclose(found.pooled[0], found.tokens[0, 3], atol=1e-6)
    np.testing.assert_allclose(found.pooled[1], found.tokens[1, 5], atol=1e-6)
    later = encode(params, IDS.at[:, 4:].set(11))
    np.testing.assert_allclose(later.tokens[:, :4], found.tokens[:, :4], atol=1e-6)
    np.testing.assert_allclose(later.pooled[0], found.pooled[0], atol=1e-6)
    earlier = encode(params, IDS.at[:, 1].set(11))
    assert np.abs(earlier.pooled - found.pooled).max(1).min() > 1e-3


def test_bert_sees_all_but_padding_and_siglip_all(params):
    bert = dataclasses.replace(TINY, mask="padding", pool="first")
    found = encode(params, IDS, cfg=bert)
    np.testing.assert_allclose(found.pooled, found.tokens[:, 0], atol=1e-6)
    # Where the end token pads, the first of them is none.
    ends = dataclasses.replace(bert, pad=1)
    same = encode(params, jnp.where(IDS == 0, 1, IDS), cfg=ends)
    np.testing.assert_allclose(same.pooled, found.pooled, atol=1e-5)
    siglip = dataclasses.replace(TINY, mask="none", pool="last")
    read = encode(params, IDS, cfg=siglip)
    np.testing.assert_allclose(read.pooled, read.tokens[:, 5], atol=1e-6)
    moved = encode(params, IDS.at[:, 1].set(11), cfg=siglip).pooled
    assert np.abs(moved - read.pooled).max(1).min() > 1e-3


def test_image_context_is_read_where_it_is_given(params):
    context = jax.random.normal(jax.random.key(1), (3, 4, 12))
    seen = encode(params, IDS, context)
    assert np.abs(seen.pooled - encode(params, IDS).pooled).max(1).min() > 1e-3
    order = jnp.asarray([2, 0, 3, 1])
    np.testing.assert_allclose(
        encode(params, IDS, context[:, order]).pooled, seen.pooled, atol=1e-5
    )
    plain = text.init(dataclasses.replace(TINY, context=0), jax.random.key(0), TowerSpec())[0]
    assert "cross" in params["blocks_00"]
    np.testing.assert_allclose(
        encode(plain, IDS, cfg=text.Config.tiny()).pooled, encode(params, IDS).pooled, atol=1e-6
    )


def test_leading_axes_are_kept(params):
    sets = jnp.stack([IDS, IDS[::-1]])
    found = encode(params, sets)
    assert found.tokens.shape == (2, 3, 6, 32)
    np.testing.assert_allclose(found.pooled[1], encode(params, IDS[::-1]).pooled, atol=1e-6)


def test_scanned_and_recomputed_it_is_the_same(params):
    other = dataclasses.replace(TINY, scan=True, remat="full")
    np.testing.assert_allclose(
        encode(params, IDS, cfg=other).pooled, encode(params, IDS).pooled, atol=1e-6
    )
    half = encode(params, IDS, cfg=dataclasses.replace(TINY, dtype="bfloat16"))
    assert (half.pooled.dtype, half.tokens.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(half.pooled, encode(params, IDS).pooled, atol=0.2)


def test_flops_are_those_that_are_counted(params):
    cfg = dataclasses.replace(TINY, width=1024, heads=2, depth=2, context=0)
    wide = jax.eval_shape(lambda: text.init(cfg, jax.random.key(0), TowerSpec())[0])
    counted = encode.lower(wide, jax.ShapeDtypeStruct((1, 6), jnp.int32), cfg=cfg).cost_analysis()
    np.testing.assert_allclose(text.flops(cfg), counted["flops"], rtol=0.02)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UserError, match="5 heads do not divide the width 512"):
        text.Config(heads=5)
    with pytest.raises(UserError, match="neck 'none' does not go with embed 8"):
        text.Config(embed=8)
