"""CLIPC8 against its equation in float64 NumPy, CLIP where both are the same, and its prompts."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import BROAD, SPEC, B, Case, assert_gradient, assert_value, counted_flops, moved
from numpy_heads import f64, unit

from facejax.errors import UserError
from facejax.objectives import clipc8
from facejax.ops.similarity import clip_softmax

THREE = (("one", ("a", "an a", "the a")), ("two", ("b",)), ("three", ("c", "some c")))


def case_of(prompts=THREE, **options) -> Case:
    config = dataclasses.replace(clipc8.Config.tiny(), prompts=prompts, field="kind", **options)
    return moved(Case.of(clipc8, config))


def labelled(case: Case, kind, known=None, features="ordinary"):
    given = case.inputs(features)
    known = np.ones(B, bool) if known is None else known
    fields = {"kind": jnp.asarray(kind, jnp.int32), "has_kind": jnp.asarray(known)}
    return dataclasses.replace(given, batch=given.batch | fields)


def embedded(case: Case, given):
    """Unit vectors of images [B, D] and of classes [C, D], in float64."""
    p = f64(given.params)
    x = unit(f64(given.feats["image"].pooled) @ p["image"]["kernel"])
    each = unit(f64(given.feats["prompts"].pooled) @ p["text"]["kernel"])
    owner = case.constants["owner"]
    return x, unit(np.stack([each[owner == c].mean(0) for c in range(owner.max() + 1)]))


def test_the_loss_is_its_equation():
    """Two classes are in the batch, one isn't; a row has no label, and another's is a sentinel."""
    case = case_of()
    kind = np.array([0, 2, 2, 0, -1, 0, 2, 0])
    known = np.arange(B) != 4
    given = labelled(case, kind, known)
    x, y = embedded(case, given)
    s = math.exp(float(given.params["logit_scale"])) * x @ y.T
    to_class = [np.log(np.exp(s[i]).sum()) - s[i, kind[i]] for i in range(B) if known[i]]
    to_image = []
    for c in (0, 2):
        total = np.log(np.exp(s[known, c]).sum())
        to_image.append(np.mean([total - s[i, c] for i in range(B) if kind[i] == c]))
    assert_value(case, given, np.mean(to_class) / 2 + np.mean(to_image) / 2)
    assert_gradient(case, given, 1e-5)
    none = labelled(case, kind, np.zeros(B, bool))
    value, grads = jax.jit(lambda g: (case.value(g), case.grads(g)))(none)
    assert value == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_one_image_of_each_class_is_clip():
    case = case_of(tuple((f"class {c}", (f"a {c}", f"the {c}")) for c in range(B)))
    order = np.random.default_rng(0).permutation(B)
    given = labelled(case, order)
    with jax.enable_x64(True):
        x, y = map(jnp.asarray, embedded(case, given))
        scale = jnp.exp(jnp.float64(given.params["logit_scale"]))
        want = float(clip_softmax(x, y[order], scale).mean())
    assert_value(case, given, want)


def test_the_order_of_prompts_and_classes_means_nothing():
    """Neither within a class, nor of the classes where the data names these."""
    kind = np.arange(B) % 3
    case = case_of()
    given = labelled(case, kind)
    turned = tuple((name, texts[::-1]) for name, texts in THREE[::-1])
    named = dataclasses.replace(SPEC, names={"kind": ("one", "two", "three")})
    other = dataclasses.replace(case_of(turned), spec=named)
    tokens, owner = (other.constants[name] for name in ("prompts", "owner"))
    assert owner.tolist() == case.constants["owner"].tolist()
    place = [case.constants["prompts"].tolist().index(row) for row in tokens.tolist()]
    assert place != sorted(place)
    prompts = dataclasses.replace(
        given.feats["prompts"], pooled=given.feats["prompts"].pooled[jnp.asarray(place)]
    )
    moved_prompts = dataclasses.replace(given, feats={**given.feats, "prompts": prompts})
    np.testing.assert_allclose(other.value(moved_prompts), case.value(given), rtol=1e-6)


def test_where_all_cosines_are_equal_the_loss_is_that_of_guessing():
    case = case_of()
    for kind in (np.arange(B) % 3, np.zeros(B)):
        given = labelled(case, kind, features="zero")
        want = (math.log(3) + math.log(B)) / 2
        np.testing.assert_allclose(case.value(given), want, rtol=1e-6)


def test_a_class_without_texts_is_refused():
    named = dataclasses.replace(SPEC, names={"frame": ("first", "lost")}, classes={"frame": 2})
    with pytest.raises(UserError, match=r"prompts: no text for class 'lost'.*mean 'last'"):
        clipc8.constants(clipc8.Config.tiny(), named)
    many = dataclasses.replace(SPEC, classes={"frame": 5})
    with pytest.raises(UserError, match="prompts: 2 classes, but 'frame' has 5"):
        clipc8.constants(clipc8.Config.tiny(), many)
    with pytest.raises(UserError, match=r"config\.data\.text: missing"):
        clipc8.constants(clipc8.Config.tiny(), dataclasses.replace(SPEC, tokenize=None))
    public = {name for name, _ in clipc8.PROMPTS}
    assert {"dark", "tampered_id", "print", "screen"} < public
    assert len(public) == len(clipc8.PROMPTS) == 9


def test_flops_are_those_that_are_counted():
    config = clipc8.Config(out=512, field="frame", prompts=THREE[:2])
    counted = counted_flops(Case.of(clipc8, config, BROAD))
    np.testing.assert_allclose(clipc8.flops(config, BROAD), counted, rtol=0.05)
