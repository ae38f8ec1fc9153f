"""CLIPC8: an image and the prompts of its class find each other, among few classes.

Source: CLIPC8's abstract, which tells eight text-described categories of presentation attacks, four
of them by name. Its prompts, loss and hyper-parameters are not public: the form below is derived
[D], with CLIP's hyper-parameters. y_c is the mean of the unit embeddings of the prompts of class c,
brought back to unit length, c_i the class of image i and P_c the images of class c. Over the images
with a class and the classes that they show,

    loss = 1/2 mean_i -log softmax_c(e^t <x_i, y_c>)_{c_i}
         + 1/2 mean_c 1/|P_c| sum_{i in P_c} -log softmax_i(e^t <y_c, x_i>)_i

so that images of one class, whose texts are the same, are positives together, where CLIP would take
them for negatives of each other's text. With exactly one image of each class it is CLIP. Every
prompt is encoded once a step. Classes go by the names that the data gives them; where it gives only
numbers, by the sorted names of the prompts. Images of a class without prompts are left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from facejax.contracts import Ctx, Loss, Pass, Spec, Term, Vars, View
from facejax.errors import UserError, nearest
from facejax.objectives import _image_text
from facejax.objectives._image_text import Towers
from facejax.ops import logits
from facejax.ops.similarity import l2_normalize
from facejax.prompts import ATTACKS

SCOPE = "batch"


@dataclass(frozen=True)
class Config(Towers):
    """Options of `clipc8`.

    Attributes:
        prompts: class -> texts.
        field: batch field of class numbers; images where it is unknown are left out.
        tau: temperature at the start.
    """

    # Mappings have no hash; equality still compares them.
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: ATTACKS, hash=False)
    field: str = "attack"
    tau: float = 0.07

    @classmethod
    def tiny(cls) -> "Config":
        return cls(out=6, field="clip", prompts={"one": ("a", "an a"), "two": ("b",)})


def fields(cfg: Config) -> tuple[str, ...]:
    return (cfg.field,)


def constants(cfg: Config, spec: Spec) -> dict[str, np.ndarray]:
    """Token ids i32[Q, L] of all prompts, the place of each one's class, and that of each class.

    Places count the classes with prompts, C of them. `place` is i32[Q], `place_of_class` i32[K] for
    the K class numbers of the data, -1 for a class without prompts.

    Raises:
        UserError: no tokenizer, fewer than two classes, one without a text or not in the data.
    """
    if spec.tokenize is None:
        raise UserError("config.data.text", "prompts are texts", "set its tokenizer")
    order = tuple(sorted(cfg.prompts))
    names = spec.names.get(cfg.field, order)
    for name, texts in cfg.prompts.items():
        if name not in names:
            what = f"'{name}' is no class of '{cfg.field}'"
            raise UserError("prompts", what, nearest(name, names))
        if not texts:
            raise UserError("prompts", f"'{name}' has no text", "give it one")
    if len(order) < 2:
        raise UserError("prompts", "fewer than two classes", "give each class its texts")
    texts = [text for name in order for text in cfg.prompts[name]]
    place = np.repeat(np.arange(len(order)), [len(cfg.prompts[name]) for name in order])
    of_class = [order.index(name) if name in cfg.prompts else -1 for name in names]
    return {
        "prompts": spec.tokenize(texts),
        "place": place.astype(np.int32),
        "place_of_class": np.asarray(of_class, np.int32),
    }


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    prompts = Pass(View("prompts"), tower="encoder_text", batched=False)
    return {**_image_text.passes(cfg, spec), "text": prompts}


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    start = jnp.float32(math.log(1 / cfg.tau))
    return Vars(params={**_image_text.init(cfg, rng, spec), "logit_scale": start})


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    x = _image_text.embedded(params, "image", feats["image"].pooled)
    prompts = _image_text.embedded(params, "text", feats["text"].pooled)
    C = len(cfg.prompts)
    # The sum of unit vectors points where their mean does.
    y = l2_normalize(jax.ops.segment_sum(prompts, ctx.constants["place"], C))
    label, there = _places(cfg, batch, ctx)

    scale = jnp.exp(params["logit_scale"])
    s = scale * logits.product(x, y)
    own = there[:, None] & (label[:, None] == jnp.arange(C)[None])
    at_label = jnp.sum(jnp.where(own, s, 0.0), axis=1)
    of_image = jnp.where(there, jax.nn.logsumexp(s, axis=1) - at_label, 0.0)

    count = jnp.sum(own, axis=0)
    # Where no image has a class the sums are over nothing, and count for nothing.
    among = jnp.where(there[:, None] | ~there.any(), s, -jnp.inf)
    mean = jnp.sum(jnp.where(own, s, 0.0), axis=0) / jnp.maximum(count, 1)
    of_class = jnp.where(count > 0, jax.nn.logsumexp(among, axis=0) - mean, 0.0)

    n, present = (jnp.sum(k, dtype=jnp.float32) for k in (there, count > 0))
    right = there & (jnp.argmax(s, axis=1) == label)
    return Loss(
        {
            "image": Term(jnp.sum(of_image), n, 0.5),
            "text": Term(jnp.sum(of_class), present, 0.5),
        },
        metrics={
            "accuracy": Term(jnp.sum(right, dtype=jnp.float32), n),
            "covered": Term.mean(there.astype(jnp.float32)),
            "scale": Term(scale, jnp.float32(1)),
        },
    )


def _places(cfg: Config, batch, ctx: Ctx) -> tuple[jax.Array, jax.Array]:
    """The place of each image's class i32[B], -1 where it has none, and bool[B]: where it has."""
    known = batch[f"has_{cfg.field}"] & (batch[cfg.field] >= 0)
    if cfg.cached:
        known &= batch[f"has_{cfg.cached}"]
    of_class = jnp.asarray(ctx.constants["place_of_class"])
    number = jnp.where(known, batch[cfg.field], len(of_class))
    place = of_class.at[number].get(mode="fill", fill_value=-1)
    return place, place >= 0


def update(cfg: Config, params, state, stats, ctx: Ctx):
    return _image_text.clamped(params), state


def embed_image(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "image", pooled)


def embed_text(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "text", pooled)


def scale_bias(cfg: Config, params) -> tuple[jax.Array, jax.Array]:
    return jnp.exp(params["logit_scale"]), jnp.float32(0)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: its projection and cosines, and its share of the prompts'."""
    sides = _image_text.projected(cfg)
    image, text = (spec.towers[key].embed for key in ("encoder", "encoder_text"))
    width = cfg.out if sides else text
    prompts = sum(map(len, cfg.prompts.values())) / spec.global_batch
    projections = ("image" in sides) * image + ("text" in sides) * text * prompts
    return float(2 * cfg.out * projections + 2 * len(cfg.prompts) * width)
