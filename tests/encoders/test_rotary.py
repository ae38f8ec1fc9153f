"""Rotary positions of the encoder `vit`, against complex numbers in float64."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax import mesh
from facejax.config import MeshShape
from facejax.contracts import Drawn, TowerSpec
from facejax.encoders import _tokens, vit
from facejax.errors import UserError
from facejax.layers import Attention

ROPE = dataclasses.replace(vit.Config.tiny(), positions="rope", registers=2, layer_scale=0.5)
HEADS, C = 2, 8
GRID = (2, 3)


def turned(x, grid, prefix):
    """x [B, N, heads, C] by e^(i angle), channel c with channel c + C / 2 as one number."""
    out = np.array(x, np.complex128)[..., : C // 2] + 1j * x[..., C // 2 :]
    for n in range(prefix, x.shape[1]):
        row, column = divmod(n - prefix, grid[1])
        for c in range(C // 2):
            place = (2 * row + 1) / grid[0] - 1 if c < C // 4 else (2 * column + 1) / grid[1] - 1
            period = 100.0 ** ((c % (C // 4)) / (C // 4))
            out[:, n, :, c] *= np.exp(2j * np.pi * place / period)
    return out


def test_attention_is_the_formula():
    rng = np.random.default_rng(0)
    x, prefix = rng.normal(size=(2, 7, 16)), 1
    names = {"qkv": (16, 48), "proj": (16, 16)}
    w = {k: rng.normal(size=s) for k, s in names.items()}
    q_bias, v_bias, bias = rng.normal(size=(3, 16))
    parts = np.split(x @ w["qkv"], 3, axis=-1)
    q, k, v = (y.reshape(2, 7, HEADS, C) for y in (parts[0] + q_bias, parts[1], parts[2] + v_bias))
    scores = np.einsum("bqhc,bkhc->bhqk", turned(q, GRID, 1), turned(k, GRID, 1).conj()).real
    weights = np.exp(scores / np.sqrt(C))
    weights /= weights.sum(-1, keepdims=True)
    want = np.einsum("bhqk,bkhc->bqhc", weights, v).reshape(2, 7, 16) @ w["proj"] + bias
    with jax.enable_x64(True):
        params = {
            "qkv": {"kernel": jnp.asarray(w["qkv"])},
            "proj": {"kernel": jnp.asarray(w["proj"]), "bias": jnp.asarray(bias)},
            "q_bias": jnp.asarray(q_bias),
            "v_bias": jnp.asarray(v_bias),
        }
        cos, sin = (p[None] for p in _tokens.rope_2d(C, GRID))
        pad = ((0, 0), (prefix, 0), (0, 0))
        rotation = jnp.asarray(np.pad(cos, pad, constant_values=1)), jnp.asarray(np.pad(sin, pad))
        module = Attention(HEADS, key_bias=False)
        found = module.apply({"params": params}, jnp.asarray(x), rotation)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


def made(cfg, mask_token=False):
    params, _ = vit.init(cfg, jax.random.key(0), TowerSpec(mask_token))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)


@partial(jax.jit, static_argnames="cfg")
def tokens(cfg, params, image, mask=None):
    wanted = ("prefix", "tokens")
    return vit.apply(cfg, params, {}, {"image": image}, mask=mask, outputs=wanted)[0]


IMAGES = np.random.default_rng(2).normal(size=(2, 16, 16, 3)).astype(np.float32)


def test_kept_patches_are_turned_by_their_own_places():
    params = made(ROPE)
    order = jnp.asarray(np.stack([np.random.default_rng(n).permutation(16) for n in range(2)]))
    whole = tokens(ROPE, params, IMAGES)
    shuffled = tokens(ROPE, params, IMAGES, Drawn(jnp.ones((2, 16), jnp.uint8), order))
    np.testing.assert_allclose(shuffled.prefix, whole.prefix, atol=1e-5)
    back = jnp.take_along_axis(whole.tokens, order[..., None], axis=1)
    np.testing.assert_allclose(shuffled.tokens, back, atol=1e-5)


def test_scanned_and_replaced_patches_are_turned_too():
    params = made(ROPE, mask_token=True)
    mask = Drawn(jnp.ones((2, 16), jnp.uint8))
    found = tokens(ROPE, params, IMAGES, mask).tokens
    assert float(jnp.ptp(found, axis=1).max()) > 1e-3, "equal tokens differ by their places alone"
    scanned = dataclasses.replace(ROPE, scan=True)
    np.testing.assert_allclose(tokens(scanned, params, IMAGES, mask).tokens, found, atol=1e-5)


def test_its_parameters_have_a_place_on_a_mesh():
    shapes = jax.eval_shape(lambda: vit.init(ROPE, jax.random.key(0), TowerSpec())[0])
    placed = mesh.shardings(mesh.make(MeshShape(), jax.devices()[:2]), shapes)
    attention = placed["blocks_00"]["attn"]
    assert attention["q_bias"].is_fully_replicated
    assert attention["v_bias"].is_fully_replicated


def test_other_sizes_need_nothing_learned():
    params = made(ROPE)
    assert "pos_embed" not in params
    large = tokens(ROPE, params, np.repeat(np.repeat(IMAGES, 2, 1), 2, 2))
    assert large.tokens.shape == (2, 64, 32)


def test_eps_follows_the_positions_unless_it_is_given():
    assert (vit.Config.tiny().eps, ROPE.eps) == (1e-6, 1e-5)
    assert dataclasses.replace(ROPE, norm_eps=1e-3).eps == 1e-3
    params, loud = made(ROPE), dataclasses.replace(ROPE, norm_eps=1.0)
    a, b = (tokens(cfg, params, IMAGES).tokens for cfg in (ROPE, loud))
    assert float(jnp.abs(a - b).max()) > 0.1


def test_heads_must_be_cut_in_four():
    with pytest.raises(UserError, match=r"rotary positions need a multiple of 4 per head, not 6"):
        dataclasses.replace(ROPE, width=24, heads=4)
