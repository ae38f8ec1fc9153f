"""CLIPC8 against its definition in float64 NumPy, one image and one class at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import BROAD, SPEC, B, Case, assert_gradient, assert_value, moved
from numpy_heads import f64, unit
from support import TEXT, program_of, resolve

from facejax.errors import UserError
from facejax.objectives import clipc8
from facejax.ops.similarity import clip_softmax

NAMES = ("live", "print", "screen", "never", "bare")
SPEC = dataclasses.replace(SPEC, names={"attack": NAMES})
PROMPTS = {"screen": ("s",), "live": ("a", "b", "c"), "never": ("n", "m"), "print": ("p", "q")}
CONFIG = clipc8.Config(out=6, prompts=PROMPTS)
LABELS = np.array([0, 2, 2, 1, 4, 0, 2, -1])  # nobody shows class 3, and class 4 has no prompts


def labelled(given, labels=LABELS, has=True):
    labels = jnp.asarray(labels, jnp.int32)
    own = {"attack": labels, "has_attack": jnp.full(len(labels), has)}
    return dataclasses.replace(given, batch={**given.batch, **own})


def case_of(**options) -> Case:
    return moved(Case.of(clipc8, dataclasses.replace(CONFIG, **options), SPEC))


def embeddings(case, given):
    """Unit images [B, D], and unit classes by name, each prompt looked up by its text."""
    p = f64(given.params)
    x = unit(f64(given.feats["image"].pooled) @ p["image"]["kernel"])
    z = unit(f64(given.feats["text"].pooled) @ p["text"]["kernel"])
    rows = case.constants["prompts"]

    def of(text):
        return z[next(i for i, row in enumerate(rows) if (row == SPEC.tokenize([text])[0]).all())]

    return x, {name: unit(np.mean([of(t) for t in texts], 0)) for name, texts in PROMPTS.items()}


def reference(case, given, labels=LABELS):
    x, y = embeddings(case, given)
    e = np.exp(f64(given.params["logit_scale"]))
    named = {i: NAMES[c] for i, c in enumerate(labels) if c >= 0 and NAMES[c] in y}
    total = 0.0
    for i, name in named.items():
        shares = {n: np.exp(e * x[i] @ y[n]) for n in y}
        total -= np.log(shares[name] / sum(shares.values())) / len(named) / 2
    present = set(named.values())
    for name in present:
        shares = {i: np.exp(e * x[i] @ y[name]) for i in named}
        own = [i for i in named if named[i] == name]
        costs = [-np.log(shares[i] / sum(shares.values())) for i in own]
        total += np.mean(costs) / len(present) / 2
    return total


def test_loss_is_its_formula():
    case = case_of()
    given = labelled(case.inputs())
    assert_value(case, given, reference(case, given))
    assert_gradient(case, given, rtol=1e-6)
    metrics = jax.jit(case.loss)(given).metrics
    np.testing.assert_allclose(metrics["covered"].value(), 6 / B)
    np.testing.assert_allclose(metrics["accuracy"].count, 6)


def test_images_without_a_class_have_no_part():
    case = case_of()
    given = labelled(case.inputs())
    value, grads = jax.jit(lambda g: (case.value(g), case.grads(g)))(given)
    image = given.feats["image"]
    outside = np.array([4, 7])
    other = dataclasses.replace(image, pooled=image.pooled.at[outside].set(9.0))
    changed = dataclasses.replace(given, feats={**given.feats, "image": other})
    np.testing.assert_allclose(jax.jit(case.value)(changed), value, rtol=1e-6)
    assert (grads["feats"]["image"]["pooled"][outside] == 0).all()
    nobody, grads = jax.jit(lambda g: (case.value(g), case.grads(g)))(labelled(given, has=False))
    assert nobody == 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_one_image_of_each_class_is_clip():
    case = case_of()
    given = labelled(case.inputs(), [2, -1, 0, -1, 3, -1, -1, 1])
    x, y = embeddings(case, given)
    rows = [2, 0, 4, 7]
    pairs = jnp.float32(x[rows]), jnp.float32([y[NAMES[c]] for c in (0, 2, 3, 1)])
    want = clip_softmax(*pairs, jnp.exp(given.params["logit_scale"])).mean()
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)


def test_images_of_one_class_do_not_repel_each_other():
    """Their text is one text: where classes are told apart perfectly nothing is left to gain."""
    case = Case.of(clipc8, clipc8.Config(project="none", prompts={"a": ("a",), "b": ("b",)}))
    case = dataclasses.replace(case, spec=dataclasses.replace(SPEC, names={"attack": ("a", "b")}))
    given = labelled(case.inputs(), [0, 0, 0, 0, 1, 1, 1, 1])
    at = jnp.eye(8)
    feats = {
        "image": dataclasses.replace(given.feats["image"], pooled=at[jnp.arange(B) // 4]),
        "text": dataclasses.replace(given.feats["text"], pooled=at[:2]),
    }
    params = {"logit_scale": jnp.float32(np.log(100.0))}
    given = dataclasses.replace(given, feats=feats, params=params)
    np.testing.assert_allclose(jax.jit(case.value)(given), np.log(4) / 2, rtol=1e-5)
    assert max(np.abs(g).max() for g in jax.tree.leaves(jax.jit(case.grads)(given))) < 1e-6


def test_where_all_are_equal_the_loss_is_that_of_guessing():
    case = case_of(project="none")
    given = labelled(case.inputs("equal"), [0, 1, 2, 3, 0, 1, 2, 3])
    np.testing.assert_allclose(
        jax.jit(case.value)(given), (np.log(len(PROMPTS)) + np.log(B)) / 2, rtol=1e-5
    )


def test_the_order_of_prompts_and_classes_means_nothing():
    """Everything goes by name: texts in another order, and the same classes otherwise numbered."""
    case = case_of()
    given = labelled(case.inputs())
    want, rows = jax.jit(case.value)(given), case.constants["prompts"]
    turned = {name: texts[::-1] for name, texts in reversed(PROMPTS.items())}
    other = case_of(prompts=turned)
    old = [np.flatnonzero((rows == row).all(1))[0] for row in other.constants["prompts"]]
    assert old != sorted(old)
    text = given.feats["text"]
    text = dataclasses.replace(text, pooled=text.pooled[np.array(old)])
    shown = dataclasses.replace(given, feats={**given.feats, "text": text})
    np.testing.assert_allclose(jax.jit(other.value)(shown), want, rtol=1e-6)

    spec = dataclasses.replace(SPEC, names={"attack": NAMES[::-1]})
    renamed = dataclasses.replace(case, spec=spec)
    numbers = np.where(LABELS < 0, -1, 4 - LABELS)
    np.testing.assert_allclose(jax.jit(renamed.value)(labelled(given, numbers)), want, rtol=1e-6)
    nameless = dataclasses.replace(case, spec=dataclasses.replace(SPEC, names={}))
    assert nameless.constants["place_of_class"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"live": ("a",), "prin": ("b",)}, r"'prin' is no class of 'attack'.*'print'"),
        ({"live": ("a",), "print": ()}, r"'print' has no text"),
        ({"live": ("a",)}, r"fewer than two classes"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompts, message):
    with pytest.raises(UserError, match=message):
        clipc8.constants(clipc8.Config(prompts=prompts), SPEC)


def test_the_step_reads_the_field_and_encodes_the_prompts_once():
    options = {"out": 6, "field": "clip", "prompts": {"one": ["a", "b"], "two": ["c"]}}
    program = program_of(resolve({"clipc8": options}, encoder_text=TEXT))
    assert program.fields() == ("clip", "image")
    assert program.constants["clipc8/prompts"].shape == (3, 6)
    assert sorted(p.tower for p in program.forwards) == ["encoder", "encoder_text"]
    without = dataclasses.replace(SPEC, tokenize=None)
    with pytest.raises(UserError, match=r"^config.data.text: prompts are texts"):
        clipc8.constants(CONFIG, without)


def test_flops_are_those_that_xla_counts():
    spec = dataclasses.replace(BROAD, names={"attack": NAMES})
    case = Case.of(clipc8, dataclasses.replace(CONFIG, out=512), spec)
    given = labelled(case.inputs())
    counted = jax.jit(case.loss).lower(given).cost_analysis()["flops"] / B
    np.testing.assert_allclose(clipc8.flops(case.config, spec), counted, rtol=0.02)
