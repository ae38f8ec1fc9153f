"""The margin softmax family against its formulas in float64 NumPy, angles taken with arccos."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import B, Case, assert_gradient, assert_value, counted_flops, wide
from numpy_heads import unit

from facejax.contracts import Ctx, Draw
from facejax.errors import UserError
from facejax.losses import sum_terms
from facejax.objectives import _margin, adaface, elasticface, magface, sphereface

LABELS = np.array([3, 1, 3, 0, 11, 5, 7, 0])
ALL = np.ones(B, bool)
MARGINS = {
    "cosface": {"margin": 0.0},
    "arcface": {"margin": 0.0},
    "magface": {"least": 0.0, "most": 0.0, "weight_g": 0.0},
    "adaface": {"margin": 0.0},
    "elasticface": {"margin": 0.0, "spread": 0.0},
    "sphereface": {"margin": 1},
}
"""Options without a margin."""


def case_of(name: str, **options) -> Case:
    module = importlib.import_module(f"facejax.objectives.{name}")
    case = Case.of(module, dataclasses.replace(module.Config.tiny(), **options))
    # As drawn they are so short that differences of values say little about gradients.
    centres = case.vars.sparse["centres"]
    longer = dataclasses.replace(centres, value=100 * centres.value)
    return dataclasses.replace(
        case, vars=dataclasses.replace(case.vars, sparse={"centres": longer})
    )


def given_of(case: Case, pooled=None, labels=LABELS, has=ALL, length=1.0):
    given = case.inputs()
    pooled = given.feats["image"].pooled if pooled is None else jnp.asarray(pooled, jnp.float32)
    feats = {"image": dataclasses.replace(given.feats["image"], pooled=length * pooled)}
    batch = {**given.batch, "identity": jnp.asarray(labels), "has_identity": jnp.asarray(has)}
    return dataclasses.replace(given, feats=feats, batch=batch)


def centres_of(case: Case) -> np.ndarray:
    return np.float64(case.vars.sparse["centres"].value)[: case.spec.classes["identity"]]


def arc(angle, m):
    return np.where(angle > np.pi - m, np.cos(angle) - m * np.sin(m), np.cos(angle + m))


def targets(name, cfg, angle, length):
    """(target logit, scale of the others) of images at an angle to their class."""
    cosine = np.cos(angle)
    if name == "softmax":
        return cfg.scale * cosine, cfg.scale
    if name == "cosface":
        return cfg.scale * (cosine - cfg.margin), cfg.scale
    if name in ("arcface", "curricularface"):
        return cfg.scale * arc(angle, cfg.margin), cfg.scale
    if name == "magface":
        a = np.clip(length, cfg.shortest, cfg.longest)
        m = cfg.least + (cfg.most - cfg.least) * (a - cfg.shortest) / (cfg.longest - cfg.shortest)
        return cfg.scale * np.where(cosine > 0, np.cos(angle + m), cosine), cfg.scale
    if name == "adaface":
        # Running numbers of 20 and 100 have moved by a hundredth towards the batch's.
        a = np.clip(length, 1e-3, 100)
        mean, deviation = 0.99 * 20 + 0.01 * a.mean(), 0.99 * 100 + 0.01 * a.std(ddof=1)
        q = np.clip((a - mean) / (deviation + 1e-3) * cfg.spread, -1, 1)
        angle = np.arccos(np.clip(cosine, -0.999, 0.999))
        moved = np.cos(np.clip(angle - cfg.margin * q, 1e-3, np.pi - 1e-3))
        return cfg.scale * (moved - cfg.margin - cfg.margin * q), cfg.scale
    assert name == "sphereface"
    weight = max(cfg.lowest, cfg.start)
    k = np.floor(cfg.margin * angle / np.pi)
    psi = (-1) ** k * np.cos(cfg.margin * angle) - 2 * k
    return length * (weight * cosine + psi) / (1 + weight), length


def reference(name, case, given, has=ALL):
    """The mean loss over the images with a class, one image at a time."""
    x = np.float64(given.feats["image"].pooled)
    length = np.linalg.norm(x, axis=1)
    cosine = np.clip(unit(x) @ unit(centres_of(case)).T, -1, 1)
    labels = np.asarray(given.batch["identity"])
    angle = np.arccos(cosine[np.arange(B), labels])
    target, scale = targets(name, case.config, angle, length)
    each = []
    for i, own in enumerate(np.broadcast_to(scale, B)):
        others = np.delete(own * cosine[i], labels[i])
        each.append(np.logaddexp.reduce([*others, target[i]]) - target[i])
    found = np.mean(np.array(each)[has])
    if name == "magface":
        cfg = case.config
        a = np.clip(length, cfg.shortest, cfg.longest)
        found += cfg.weight_g * np.mean((a / cfg.longest**2 + 1 / a)[has])
    return found


PLAIN = [
    ("softmax", {}),
    ("cosface", {"margin": 0.35}),
    ("arcface", {}),
    ("arcface", {"gradient": "straight_through", "margin": 0.2}),
    ("magface", {}),
    ("adaface", {}),
    ("adaface", {"spread": 60.0}),
    ("sphereface", {}),
    ("sphereface", {"margin": 3, "start": 2.0}),
]
IDS = ["-".join([name, *options]) for name, options in PLAIN]


@pytest.mark.parametrize(("name", "options"), PLAIN, ids=IDS)
def test_loss_is_its_formula(name, options):
    case = case_of(name, **options)
    given = given_of(case, length=0.8)
    assert_value(case, given, reference(name, case, given))


@pytest.mark.parametrize(("name", "options"), PLAIN, ids=IDS)
def test_loss_is_its_formula_at_the_ends_of_the_angle(name, options):
    case = case_of(name, **options)
    along = np.tile([1.0, -1.0, 1.0, -1.0], 2)[:, None] * unit(centres_of(case)[LABELS])
    noise = np.random.default_rng(0).normal(size=along.shape)
    if options.get("gradient"):  # has no line past pi - margin
        along = np.abs(along[:, :1]) * unit(centres_of(case)[LABELS])
    for step in (0.0, 1e-2):
        pooled = 2 * (along + step * noise)
        given = given_of(case, pooled)
        with jax.enable_x64(True):
            value = jax.jit(case.value)(wide(given), wide(case.trained(given)))
        np.testing.assert_allclose(value, reference(name, case, given), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(p for p in PLAIN if "gradient" not in p[1]),
        ("curricularface", {}),
        ("elasticface", {}),
        ("elasticface", {"kind": "cos", "plus": True, "spread": 0.2}),
        ("softmax", {"sample_rate": 0.5, "groups": 1}),
        ("arcface", {"noise_filter": 0.4}),
    ],
)
def test_gradient_is_that_of_the_loss(name, options):
    if name == "adaface":
        # Its quality passes no gradient, so the length must not reach the loss: all are clipped.
        options = {**options, "spread": 0.0}
    case = case_of(name, **options)
    assert_gradient(case, given_of(case, length=0.8), rtol=1e-5)


@pytest.mark.parametrize("name", [*MARGINS, "curricularface"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_are_finite_at_the_ends_of_the_angle(name, sign):
    case = case_of(name)
    pooled = sign * centres_of(case)[LABELS]
    pooled[0] = 0.0
    value, grads = jax.jit(jax.value_and_grad(lambda g: case.value(g, None), allow_int=True))(
        given_of(case, pooled)
    )
    assert np.isfinite(value)
    assert np.isfinite(grads.feats["image"].pooled).all()
    rows = jax.jit(case.grads)(given_of(case, pooled))["rows"]["centres"]
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("name", MARGINS)
def test_without_a_margin_all_are_the_softmax(name):
    case = case_of(name, **MARGINS[name])
    given = given_of(case)
    if name == "sphereface":  # its scale is the length
        pooled = np.asarray(given.feats["image"].pooled)
        given = given_of(case, 8.0 * unit(pooled))
    want = jax.jit(case_of("softmax").value)(given)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-6)


def test_straight_through_gradients_forget_the_margin():
    """d loss / d cos(theta_y) is scale (p_y - 1): the margin is in p alone, with no slope."""
    case = case_of("arcface", gradient="straight_through")
    given = given_of(case)
    x, rows, s = np.float64(given.feats["image"].pooled), np.arange(B), case.config.scale
    length, w = np.linalg.norm(x, axis=1), unit(centres_of(case))
    cosine = unit(x) @ w.T
    own = np.arccos(cosine[rows, LABELS])
    assert (own < np.pi - case.config.margin).all()
    logits = s * cosine
    logits[rows, LABELS] = s * np.cos(own + case.config.margin)
    pull = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    pull[rows, LABELS] -= 1
    # The derivative of a cosine is the part of the centre across the embedding, over its length.
    across = w[None] - cosine[..., None] * unit(x)[:, None]
    want = s * np.einsum("bc,bcd->bd", pull, across) / length[:, None] / B
    grads = jax.jit(case.grads)(given)["feats"]["image"]["pooled"]
    np.testing.assert_allclose(grads, want, rtol=1e-4, atol=1e-6)
    exact = jax.jit(case_of("arcface").grads)(given)["feats"]["image"]["pooled"]
    assert np.abs(exact - want).max() > 1e-3


def test_magface_of_one_margin_is_arcface_and_its_regulariser():
    case = case_of("magface", least=0.3, most=0.3, weight_g=2.0)
    toward = unit(centres_of(case)[LABELS]) + 0.3 * np.random.default_rng(0).normal(size=(B, 8))
    given = given_of(case, 2 * toward)
    found = jax.jit(case.loss)(given)
    want = jax.jit(case_of("arcface", margin=0.3).value)(given)
    np.testing.assert_allclose(found.terms["softmax"].value(), want, rtol=1e-6)
    assert found.terms["g"].weight == 2.0


def test_the_regulariser_falls_over_the_whole_range_of_lengths():
    cfg = magface.Config()
    a = np.linspace(cfg.shortest, cfg.longest, 50)
    assert (np.diff(a / cfg.longest**2 + 1 / a) < 0).all()


@pytest.mark.parametrize(("length", "base"), [(0.0, "arcface"), (19.8, "cosface")])
def test_adaface_is_arcface_for_the_worst_images_and_cosface_for_middling_ones(length, base):
    # The deviation of lengths is 0.99 * 100 + 0: a spread of 100 makes each length an extreme.
    case = case_of("adaface", spread=1000.0 if not length else 1.0, margin=0.3)
    state = {"mean": jnp.float32(19.8 / 0.99), "deviation": jnp.float32(100)}
    x = unit(np.asarray(case.inputs().feats["image"].pooled)) * (length or 1.0)
    x[:, 0] += 1e-6
    given = given_of(case, x)
    mean = 0.99 * state["mean"] + 0.01 * np.linalg.norm(x, axis=1).mean()
    if length:  # such that the quality is 0
        state["mean"] = (length - 0.01 * np.linalg.norm(x, axis=1).mean()) / 0.99
    else:
        assert (np.linalg.norm(x, axis=1) - mean < -1).all()
    given = dataclasses.replace(given, state=jax.tree.map(jnp.float32, state))
    want = jax.jit(case_of(base, margin=0.3).value)(given)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-4)


def test_adaface_gives_no_gradient_through_its_quality():
    case = case_of("adaface", spread=60.0)
    given = given_of(case, length=15.0)
    grads = jax.jit(case.grads)(given)["feats"]["image"]["pooled"]
    along = np.sum(np.asarray(grads) * unit(np.asarray(given.feats["image"].pooled)), axis=1)
    np.testing.assert_allclose(along, 0, atol=1e-6)


def test_adaface_keeps_the_lengths_of_known_images():
    case = case_of("adaface", rate=0.25)
    has = np.array([1, 1, 1, 1, 1, 0, 0, 1], bool)
    given = given_of(case, length=3.0, has=has)
    stats = jax.jit(case.loss)(given).stats
    a = np.linalg.norm(given.feats["image"].pooled, axis=1)[has]
    np.testing.assert_allclose(stats["mean"], 0.75 * 20 + 0.25 * a.mean(), rtol=1e-6)
    np.testing.assert_allclose(stats["deviation"], 75 + 0.25 * a.std(ddof=1), rtol=1e-6)
    assert adaface.update(case.config, {}, given.state, stats, None) == ({}, stats)
    nobody = jax.jit(case.loss)(given_of(case, has=~ALL)).stats
    assert (nobody["mean"], nobody["deviation"]) == (20, 100)


def test_curricularface_hardens_by_its_state():
    case = case_of("curricularface", scale=4.0)
    given = given_of(case)
    x, labels = np.asarray(given.feats["image"].pooled), LABELS
    cosine = unit(np.float64(x)) @ unit(centres_of(case)).T
    own = np.arccos(cosine[np.arange(B), labels])
    for t in (0.0, 0.3):
        each, hard = [], 0
        for i in range(B):
            others = np.delete(cosine[i], labels[i])
            harder = others > np.cos(own[i] + 0.5)
            hard += harder.sum()
            logits = 4 * np.where(harder, others * (t + others), others)
            target = 4 * arc(own[i], 0.5)
            each.append(np.logaddexp.reduce([*logits, target]) - target)
        assert 0 < hard < 11 * B
        now = dataclasses.replace(given, state={"t": jnp.float32(t)})
        np.testing.assert_allclose(jax.jit(case.value)(now), np.mean(each), rtol=1e-5)
    assert case.vars.state["t"] == 0
    ctx = Ctx(jnp.int32(0), draw=given.draw, spec=case.spec)
    stats = jax.jit(case.loss)(given).stats
    _, after = case.module.update(case.config, {}, {"t": 0.5}, stats, ctx)
    np.testing.assert_allclose(after["t"], 0.99 * 0.5 + 0.01 * np.cos(own).mean(), rtol=1e-5)


def test_elasticface_draws_and_hands_out_its_margins():
    cfg = elasticface.Config(margin=0.5, spread=0.1)
    ctx = case_of("elasticface").ctx(case_of("elasticface").inputs().draw)
    cosine = jnp.linspace(-0.5, 0.9, B)[jnp.array([3, 0, 7, 1, 6, 2, 5, 4])]
    drawn = elasticface.margins(cfg, cosine, ctx)
    plus = elasticface.margins(dataclasses.replace(cfg, plus=True), cosine, ctx)
    np.testing.assert_allclose(np.sort(drawn), np.sort(plus), rtol=1e-6)
    assert (np.diff(plus[np.argsort(cosine)]) < 0).all()
    many = dataclasses.replace(ctx, draw=Draw(ctx.draw.key, jnp.arange(4000)))
    margins = elasticface.margins(cfg, jnp.zeros(4000), many)
    assert abs(float(margins.mean()) - 0.5) < 0.01
    assert abs(float(margins.std()) - 0.1) < 0.01
    assert len(np.unique(drawn)) == B
    other = dataclasses.replace(ctx, draw=ctx.draw.fold("other"))
    assert (drawn != elasticface.margins(cfg, cosine, other)).all()


@pytest.mark.parametrize(("kind", "base"), [("arc", "arcface"), ("cos", "cosface")])
def test_elasticface_without_spread_is_its_base(kind, base):
    case = case_of("elasticface", kind=kind, margin=0.3, spread=0.0)
    given = given_of(case)
    want = jax.jit(case_of(base, margin=0.3).value)(given)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-6)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_psi_falls_without_a_break(m):
    angle = np.linspace(0, np.pi, 2001)
    values = np.asarray(sphereface.psi(jnp.float32(np.cos(angle)), m))
    steps = np.diff(values)
    assert steps.max() < 1e-4
    assert steps.min() > -m * np.pi / 2000 * 1.5
    np.testing.assert_allclose(values[[0, -1]], [1, 1 - 2 * m], atol=1e-5)


def test_sphereface_lets_go_of_the_plain_cosine():
    case = case_of("sphereface")
    given = given_of(case)
    params, ema, state, feats, batch, ctx = case.arguments(given)

    @jax.jit
    def at(step):
        now = dataclasses.replace(ctx, step=step)
        return sum_terms(case.module.loss(case.config, params, ema, state, feats, batch, now))

    start, later, end = (at(jnp.int32(t)) for t in (0, 500, 10_000))
    assert start < later < end
    assert end == at(jnp.int32(20_000))


def test_images_without_a_class_count_for_nothing():
    has = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
    case = case_of("cosface")
    given = given_of(case, has=has)
    assert_value(case, given, reference("cosface", case, given, has))
    grads = jax.jit(case.grads)(given)["feats"]["image"]["pooled"]
    assert (np.abs(grads).max(1) > 0).tolist() == has.tolist()
    none = given_of(case, has=~ALL)
    assert jax.jit(case.value)(none) == 0


def test_the_noise_filter_takes_suspiciously_near_classes_for_strangers():
    case = case_of("softmax", noise_filter=0.3)
    given = given_of(case)
    cosine = unit(np.float64(given.feats["image"].pooled)) @ unit(centres_of(case)).T
    each = []
    for i, label in enumerate(LABELS):
        others = np.delete(cosine[i], label)
        logits = 8 * np.where(others > 0.3, 0.0, others)
        each.append(np.logaddexp.reduce([*logits, 8 * cosine[i, label]]) - 8 * cosine[i, label])
    assert (np.delete(cosine[0], LABELS[0]) > 0.3).any()
    assert_value(case, given, np.mean(each))


def test_a_sample_of_the_classes_holds_those_of_the_batch():
    case = case_of("softmax", sample_rate=0.1, groups=2)
    labels = np.array([6, 7, 8, 9, 10, 11, 6, 7])  # all in the second group
    given = given_of(case, labels=labels)
    rows = np.asarray(jax.jit(case.rows)(given)["centres"])
    assert len(rows) == 12  # a batch of 8 may be of 6 classes of one group
    assert set(labels) <= set(rows.tolist())


def test_measures():
    case = case_of("softmax")
    pooled = centres_of(case)[LABELS]
    pooled[:2] *= -1
    metrics = jax.jit(case.loss)(given_of(case, pooled)).metrics
    np.testing.assert_allclose(metrics["accuracy"].value(), 0.75)
    np.testing.assert_allclose(metrics["cosine"].value(), 0.5, rtol=1e-6)


def test_flops_are_those_of_the_cosines():
    case = case_of("softmax")
    spec = dataclasses.replace(case.spec, classes={"identity": 4096})
    case = Case.of(case.module, case.config, spec)
    assert case.module.flops(case.config, spec) == 2 * 8 * 4096
    assert counted_flops(case) > case.module.flops(case.config, spec)


def test_memory_is_its_formula():
    case = case_of("arcface", sample_rate=0.1, groups=8, velocity="bfloat16")
    spec = dataclasses.replace(case.spec, classes={"identity": 80_000}, global_batch=64)
    n, S, D, chunk = 10_000, 1000, 8, 3 * 4 * 64
    for devices, share in ((8, 1), (2, 4)):
        want = share * (6 * n * D + 8 * S * D) + chunk * share * S + 16 * 64 * D
        assert _margin.bytes_per_device(case.config, spec, devices) == want
    whole = dataclasses.replace(case.config, sample_rate=1.0, velocity="float32")
    want = (8 + 4) * n * D + chunk * n + 16 * 64 * D
    assert _margin.bytes_per_device(whole, spec, 8) == want


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"label": "expression"}, "label"),
        ({"sample_rate": 0.0}, "sample_rate"),
        ({"sample_rate": 1.5}, "sample_rate"),
        ({"groups": 0}, "groups"),
        ({"worn": True, "degrade": (0.2, 0.0, 0.0)}, "worn"),
    ],
)
def test_bad_options_are_told(options, key):
    with pytest.raises(UserError) as caught:
        case_of("arcface", **options)
    assert caught.value.where == key


def test_worn_views_lose_resolution_and_colour():
    case = case_of("arcface", worn=True)
    aug = case.module.passes(case.config, case.spec)["image"].view.aug
    assert (aug.shrink_p, aug.blur_p, aug.hsv_p, aug.gray_p) == (0.1, 0.2, 0.2, 0.1)
    assert (aug.cut_p, aug.flip) == (0.0, case.config.flip)


def test_sphereface_multiplies_by_a_whole_number():
    with pytest.raises(UserError, match="at least 1"):
        sphereface.Config(margin=0)
