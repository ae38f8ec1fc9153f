"""CLIPC8: an image finds the texts of its class, and a class all of its images in the batch.

Source: the abstract of CLIPC8 (face liveness detection by eight classes that texts describe);
nothing else is public, so the form is a decision [D]. y_c is the unit mean of the unit embeddings
of the prompts of class c, x_i an image's, s_ic = e^t <x_i, y_c>, P_c the images of class c in the
batch:

    loss = 1/2 mean_i CE(s_i., class of i)
         + 1/2 mean_{c present} 1/|P_c| sum_{i in P_c} -log softmax_i(s_.c)

All classes stand in the first denominator, all labelled images in the second. So images of one
class are joint positives of their text, where CLIP would take them for each other's negatives; with
exactly one image of each class it is CLIP's loss. t is `clip`'s. The prompts are encoded once a
step, unlabelled images are left out. B images, C classes, P prompts, D width.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from facejax.contracts import Ctx, Loss, Params, Pass, Spec, Term, Vars, View
from facejax.errors import UserError, nearest
from facejax.objectives import _image_text
from facejax.objectives._image_text import Towers
from facejax.ops import logits
from facejax.ops.similarity import l2_normalize

SCOPE = "batch"

Prompts = tuple[tuple[str, tuple[str, ...]], ...]

PROMPTS: Prompts = (
    ("live", ("a live face", "a real person in front of the camera", "a genuine face")),
    ("print", ("a printed photo of a face", "a face on a sheet of photo paper")),
    ("screen", ("a face replayed on a screen", "a phone display that shows a face")),
    ("paper_mask", ("a paper mask over a face", "someone wearing a printed mask")),
    ("silicone_mask", ("a silicone mask of a face", "a person in a rubber mask")),
    ("dark", ("a face in a dark environment", "a person barely lit at night")),
    ("tampered_id", ("a tampered photo on an identity card", "a pasted portrait in a passport")),
    ("reprint", ("a low-quality reprint of a face", "a badly copied portrait")),
    ("cutout", ("a face partly covered by a cut photo", "a person behind a piece of a picture")),
)
"""facejax's own: of CLIPC8's classes only dark, tampered identity card, printed photo and screen
are public, no prompt is, nor whether live is one of the eight."""


@dataclass(frozen=True)
class Config(Towers):
    """Options of `clipc8`.

    Attributes:
        field: batch field of class numbers.
        prompts: (class, its texts) of each class. Where the data names its classes these are found
            by name, otherwise they are in the order of the class numbers.
        tau: temperature at the start.
    """

    field: str = "attack"
    prompts: Prompts = PROMPTS
    tau: float = 0.07

    @classmethod
    def tiny(cls) -> "Config":
        return cls(out=6, field="frame", prompts=(("first", ("a", "the one")), ("last", ("b",))))


def fields(cfg: Config) -> tuple[str, ...]:
    return (cfg.field,)


def _ordered(cfg: Config, spec: Spec) -> list[tuple[str, ...]]:
    """The texts of each class, by its number.

    Raises:
        UserError: a class without a text.
    """
    texts = dict(cfg.prompts)
    names = spec.names.get(cfg.field, tuple(texts)[: spec.classes.get(cfg.field)])
    for name in names:
        if not texts.get(name):
            what = f"no text for class '{name}' of '{cfg.field}'"
            raise UserError("prompts", what, nearest(name, list(texts)))
    if len(names) < spec.classes.get(cfg.field, 0):
        what = f"{len(names)} classes, but '{cfg.field}' has {spec.classes[cfg.field]}"
        raise UserError("prompts", what, "give texts for every class")
    return [texts[name] for name in names]


def constants(cfg: Config, spec: Spec) -> dict[str, np.ndarray]:
    """Token ids i32[P, L] of the prompts, and the class i32[P] of each."""
    if spec.tokenize is None:
        raise UserError("config.data.text", "missing", "the prompts need a tokenizer")
    texts = _ordered(cfg, spec)
    return {
        "prompts": spec.tokenize([text for own in texts for text in own]),
        "owner": np.repeat(np.arange(len(texts), dtype=np.int32), [len(own) for own in texts]),
    }


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    return {
        "image": _image_text.passes(cfg, spec)["image"],
        "prompts": Pass(View("prompts"), tower="encoder_text", batched=False),
    }


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    start = jnp.float32(math.log(1 / cfg.tau))
    return Vars(params={**_image_text.init(cfg, rng, spec), "logit_scale": start})


def of_classes(params: Params, pooled: jax.Array, owner: jax.Array, classes: int) -> jax.Array:
    """Unit vectors [C, D] of classes from what the text tower made of the prompts [P, D]."""
    each = _image_text.embedded(params, "text", pooled)
    return l2_normalize(jax.ops.segment_sum(each, owner, classes))


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    owner, C = ctx.constants["owner"], len(_ordered(cfg, ctx.spec))
    there = batch[f"has_{cfg.field}"]
    if cfg.cached:
        there &= batch[f"has_{cfg.cached}"]
    x = _image_text.embedded(params, "image", feats["image"].pooled)
    y = of_classes(params, feats["prompts"].pooled, owner, C)
    scale = jnp.exp(params["logit_scale"])
    s = scale * logits.product(x, y)
    own = there[:, None] & (batch[cfg.field][:, None] == jnp.arange(C)[None])
    positive = jnp.where(own, s, 0.0)

    to_class = jnp.where(there, jax.nn.logsumexp(s, axis=1) - positive.sum(axis=1), 0.0)
    # Without any labelled image all stand in: the sum would be that of nothing.
    among = jnp.where(there[:, None] | ~there.any(), s, -jnp.inf)
    members = own.sum(axis=0)
    to_image = jax.nn.logsumexp(among, axis=0) - positive.sum(axis=0) / jnp.maximum(members, 1)
    to_image = jnp.where(members > 0, to_image, 0.0)

    labelled = there.sum(dtype=jnp.float32)
    right = there & (jnp.argmax(s, axis=1) == batch[cfg.field])
    metrics = {
        "accuracy": Term(right.sum(dtype=jnp.float32), labelled),
        "scale": Term(scale, jnp.float32(1)),
    }
    terms = {
        "class": Term(to_class.sum(), labelled, 0.5),
        "image": Term(to_image.sum(), (members > 0).sum(dtype=jnp.float32), 0.5),
    }
    return Loss(terms, metrics=metrics)


def update(cfg: Config, params, state, stats, ctx: Ctx):
    return _image_text.clamped(params), state


def embed_image(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "image", pooled)


def embed_text(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "text", pooled)


def scale_bias(cfg: Config, params) -> tuple[jax.Array, jax.Array]:
    return jnp.exp(params["logit_scale"]), jnp.float32(0)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: its projection and its row of the similarities, and its share of
    the prompts' projections."""
    texts, sides = _ordered(cfg, spec), _image_text.projected(cfg)
    image, text = spec.towers["encoder"].embed, spec.towers["encoder_text"].embed
    out = cfg.out if sides else image
    prompts = sum(map(len, texts)) / spec.global_batch
    project = image * ("image" in sides) + text * ("text" in sides) * prompts
    return 2.0 * cfg.out * project + 2.0 * out * len(texts)
