"""GEMINI against its formulas in float64 NumPy, with a warp that looks pixels up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import DRAW, SPEC, B, Case, assert_gradient, features, moved, wide
from scipy.ndimage import gaussian_filter

from facejax.contracts import Draw, Tower
from facejax.data.sources import synthetic
from facejax.errors import UserError
from facejax.objectives import gemini
from facejax.ops import warping

CONFIG = gemini.Config.tiny()
correspondence = jax.jit(gemini.correspondence, static_argnums=0)


# ---------------------------------------------------------------------- the formulas, in NumPy


def warp(x, flow):
    B, H, W, _ = x.shape
    out = np.zeros_like(x)
    for b, i, j in np.ndindex(B, H, W):
        y, z = i + flow[b, i, j, 0], j + flow[b, i, j, 1]
        for p in (int(np.floor(y)), int(np.floor(y)) + 1):
            for q in (int(np.floor(z)), int(np.floor(z)) + 1):
                if 0 <= p < H and 0 <= q < W:
                    out[b, i, j] += (1 - abs(y - p)) * (1 - abs(z - q)) * x[b, p, q]
    return out


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def correlation(a, b, window):
    B, H, W = a.shape
    out, half = np.zeros_like(a), window // 2
    for k, i, j in np.ndindex(B, H, W):
        part = np.s_[k, max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]
        x, y = a[part] - a[part].mean(), b[part] - b[part].mean()
        out[k, i, j] = (x * y).sum() ** 2 / ((x**2).sum() * (y**2).sum() + 1e-5)
    return out


def direction(cfg, flow, moved, fixed, image, other):
    """Sums over pairs of smooth, visual and semantic."""
    mask = warp(np.ones((*flow.shape[:3], 1)), flow)[..., 0]

    def mean(x):
        return (x * mask).sum((1, 2)) / mask.sum((1, 2))

    down, right = flow[:, 1:] - flow[:, :-1], flow[:, :, 1:] - flow[:, :, :-1]
    smooth = ((down**2).mean((1, 2, 3)) + (right**2).mean((1, 2, 3))) / 2
    visual = 1 - mean(correlation(warp(image[..., None], flow)[..., 0], other, cfg.window))
    apart = 1 - mean(cosine(warp(moved, flow), fixed))
    return smooth.sum(), visual.sum(), (cfg.follow + 1) * apart.sum()


def conv(x, p):
    _, H, W, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [padded[:, i : i + H, j : j + W] @ p["kernel"][i, j] for i, j in np.ndindex(3, 3)]
    return sum(patches) + p["bias"]


def net(x, p):
    layers = sorted(name for name in p if name.startswith("conv"))
    for i, name in enumerate(layers):
        x = conv(x, p[name])
        if name != layers[-1]:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * p[f"norm_{i}"]["scale"] + p[f"norm_{i}"]["bias"]
            x = np.where(x > 0, x, 0.2 * x)
    return x


def feature_map(params, tokens):
    """4 x 4 tokens of 2 x 2 pixels each."""
    x = tokens @ params["spread"]["kernel"] + params["spread"]["bias"]
    out = np.zeros((len(x), 8, 8, 4))
    for n in range(16):
        i, j = 2 * (n // 4), 2 * (n % 4)
        out[:, i : i + 2, j : j + 2] = x[:, n].reshape(-1, 2, 2, 4)
    return net(out, params["decoder"])


def reference(cfg, params, feats):
    p = jax.tree.map(np.float64, params)
    image = np.float64(feats["clean"].view["image"])
    small = sum(image[:, i::2, j::2] for i in range(2) for j in range(2)) / 4
    f, grey = feature_map(p, np.float64(feats["clean"].tokens)), small.mean(-1)
    parts = np.zeros(3)
    for step in (1, -1):  # a face moved to the next one, and the next one moved to it
        order = np.roll(np.arange(B), -step)
        a, b = (np.arange(B), order) if step == 1 else (np.roll(np.arange(B), -1), np.arange(B))
        flow = cfg.reach * np.tanh(net(np.concatenate([f[a], f[b]], -1), p["deformer"]))
        parts += direction(cfg, flow, f[a], f[b], grey[a], grey[b])
    corrupted = feature_map(p, np.float64(feats["corrupted"].tokens))
    restore = np.mean((net(corrupted, p["restorer"]) - small) ** 2)
    smooth, visual, semantic = parts / B
    weighted = cfg.smooth * smooth + cfg.visual * visual + cfg.semantic * semantic
    return weighted + cfg.restore * restore


# --------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def case() -> Case:
    """Flows of about half of their bound."""
    case = moved(Case.of(gemini))
    kernel = case.vars.params["deformer"]["conv_2"]["kernel"]
    assert float(jnp.std(kernel)) > 0.05
    return case


def exact(case: Case) -> Case:
    return dataclasses.replace(case, config=dataclasses.replace(CONFIG, dtype="float64"))


def test_loss_is_its_formula(case):
    given = case.inputs()
    want = reference(CONFIG, given.params, given.feats)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(exact(case).value)(wide(given)), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)


def test_gradient_is_that_of_the_loss_where_nothing_is_stopped(case, monkeypatch):
    """The stops themselves are tested below."""
    monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)
    assert_gradient(exact(case), case.inputs(), rtol=1e-5)


def pair(seed=0, side=8, width=4):
    rng = np.random.default_rng(seed)
    f = rng.normal(size=(2, 1, side, side, width)).astype(np.float32)
    image = rng.normal(size=(2, 1, side, side)).astype(np.float32)
    return tuple(jnp.asarray(x) for x in f), tuple(jnp.asarray(x) for x in image)


def test_a_face_matches_itself_without_moving():
    (f, _), (image, _) = pair()
    found = correspondence(CONFIG, jnp.zeros((1, 8, 8, 2)), (f, f), (image, image))
    for name, values in found.items():
        np.testing.assert_allclose(values, 0, atol=1e-5, err_msg=name)


def test_a_shifted_face_matches_under_its_shift_alone():
    """And pixels that come from outside of the picture have no part in it."""
    (f, _), (image, _) = pair()
    shifted = [jnp.roll(x, 1, 2).at[:, :, 0].set(9.0) for x in (f, image)]
    shift = jnp.zeros((1, 8, 8, 2)).at[..., 1].set(-1.0)
    found = correspondence(CONFIG, shift, (f, shifted[0]), (image, shifted[1]))
    np.testing.assert_allclose(found["smooth"], 0, atol=1e-6)
    np.testing.assert_allclose(found["semantic"], 0, atol=1e-5)
    still = correspondence(CONFIG, 0 * shift, (f, shifted[0]), (image, shifted[1]))
    assert float(still["semantic"][0]) > 0.5
    assert float(still["visual"][0]) > float(found["visual"][0]) + 0.3


def test_features_follow_by_a_tenth_and_the_flow_leads():
    """Stop-gradients: which input each part of the semantic match trains."""
    f, image = pair(1)
    flow = 0.5 * jnp.tanh(pair(2)[0][0][..., :2])

    def semantic(flow, moved, fixed, follow):
        cfg = dataclasses.replace(CONFIG, follow=follow)
        return gemini.correspondence(cfg, flow, (moved, fixed), image)["semantic"].sum()

    grads = jax.jit(jax.grad(semantic, argnums=(0, 1, 2)))
    leading, following = grads(flow, *f, 0.0), grads(flow, *f, 0.1)
    assert np.abs(leading[0]).max() > 0
    np.testing.assert_array_equal(leading[1], 0)
    np.testing.assert_array_equal(leading[2], 0)
    np.testing.assert_allclose(following[0], leading[0], atol=1e-7)
    assert np.abs(following[1]).max() > 0
    assert np.abs(following[2]).max() > 0

    def visual(flow, moved, fixed):
        return gemini.correspondence(CONFIG, flow, (moved, fixed), image)["visual"].sum()

    by_image = jax.jit(jax.grad(visual, argnums=(0, 1, 2)))(flow, *f)
    assert np.abs(by_image[0]).max() > 0
    np.testing.assert_array_equal(by_image[1], 0)
    np.testing.assert_array_equal(by_image[2], 0)


def test_a_face_is_paired_with_the_next_global_row():
    np.testing.assert_array_equal(gemini._partner(jnp.arange(5)), [1, 2, 3, 4, 0])
    np.testing.assert_array_equal(gemini._partner(jnp.array([30, 10, 20])), [1, 2, 0])


def test_a_known_smooth_warp_is_found():
    """By following the gradient of the loss from no displacement, with features of every place."""
    values = synthetic.factors(synthetic.Config(n=1, vary=("identity",)), [0])
    face = jnp.asarray(np.float32(synthetic.render_factors(values, 32)["image"]) / 128 - 1)
    noise = np.random.default_rng(0).normal(size=(1, 32, 32, 16))
    places = jnp.asarray(gaussian_filter(noise, (0, 2, 2, 0)), jnp.float32)
    bump = np.prod(np.sin(np.pi * np.mgrid[:32, :32] / 31), axis=0)
    known = jnp.asarray(2.0 * np.stack([bump, -bump], -1)[None], jnp.float32)
    cfg = gemini.Config(reach=3)
    target, theirs = warping.warp(face, known, 3), warping.warp(places, known, 3)

    @jax.jit
    def descend(flow, speed):
        def value(flow):
            images = face.mean(-1), target.mean(-1)
            parts = gemini.correspondence(cfg, flow, (places, theirs), images)
            return (0.4 * parts["smooth"] + 0.8 * parts["semantic"] + parts["visual"]).sum()

        def step(_, state):
            flow, speed = state
            speed = 0.9 * speed - 20.0 * jax.grad(value)(flow)
            return flow + speed, speed

        return jax.lax.fori_loop(0, 150, step, (flow, speed))

    flow, _ = descend(jnp.zeros_like(known), jnp.zeros_like(known))
    before, after = (float(jnp.mean(jnp.abs(known - x))) for x in (0, flow))
    assert before > 0.75
    assert after < 0.25  # of a pixel; the smoothness keeps it from the bump's full height
    missed = [float(jnp.mean(jnp.abs(warping.warp(face, x, 3) - target))) for x in (0 * flow, flow)]
    assert missed[1] < 0.2 * missed[0]


def test_restoration_sees_corrupted_tokens_and_nothing_else_does(case):
    given = case.inputs()

    def gradients(names):
        def value(trained):
            terms = case.loss(given, trained).terms
            return sum(terms[name].value() for name in names)

        return jax.jit(jax.grad(value))(case.trained(given))["feats"]

    restore = gradients(["restore"])
    assert np.abs(restore["corrupted"]["tokens"]).max() > 0
    np.testing.assert_array_equal(restore["clean"]["tokens"], 0)
    rest = gradients(["smooth", "visual", "semantic"])
    np.testing.assert_array_equal(rest["corrupted"]["tokens"], 0)
    assert np.abs(rest["clean"]["tokens"]).max() > 0


def test_both_passes_see_one_crop_and_hide_half():
    clean, corrupted = gemini.passes(gemini.Config(stride=4), SPEC).values()
    assert clean.view == corrupted.view
    assert corrupted.replaces
    drawn = corrupted.mask({}, (4, 4), Draw(DRAW.key, jnp.arange(4)))
    assert (np.asarray(drawn.mask).sum(1) == 8).all()
    with pytest.raises(UserError, match="stride: 3 does not divide the encoder's patch of 4"):
        gemini.passes(gemini.Config(stride=3), SPEC)


def test_preview_shows_the_face_and_the_next(case):
    given = case.inputs()
    shown = gemini.preview(CONFIG, given.params, given.feats, case.ctx(given.draw))
    assert tuple(shown) == gemini.PREVIEW
    np.testing.assert_array_equal(shown["fixed"], np.roll(shown["moved"], -1, 0))
    image = np.asarray(given.feats["clean"].view["image"])
    np.testing.assert_allclose(
        shown["moved"][:, ::2, ::2].mean((1, 2)), image.mean((1, 2)), atol=1e-5
    )


def test_flops_are_those_that_xla_counts():
    """With one shift, because XLA counts the body of a loop once."""
    tower = Tower(512, 512, 16, 1, size=64, depth=12)
    spec = dataclasses.replace(SPEC, size=64, towers={"encoder": tower})
    cfg = gemini.Config(reach=0)
    params = jax.eval_shape(lambda: gemini.init(cfg, jax.random.key(0), spec).params)
    case = Case(gemini, cfg, None, spec)
    feats = {name: jax.eval_shape(lambda p=p: features(p, spec)) for name, p in case.passes.items()}

    def loss(params, feats):
        return gemini.loss(cfg, params, {}, {}, feats, {}, case.ctx(DRAW)).terms

    counted = jax.jit(loss).lower(params, feats).cost_analysis()["flops"] / B
    np.testing.assert_allclose(gemini.flops(cfg, spec), counted, rtol=0.1)
