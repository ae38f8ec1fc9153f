"""SPN4CIR: a picture changed by a text finds the picture it would then be, among all there are.

Source: BUAADreamer/SPN4CIR, */train*.py: two stages over a base of composed retrieval. With the
query c = n(fuse(reference, text)), targets v of unit length and B rows that have all three,

    first stage    mean_i CE(c_i V^T / tau, i),        V the batch's targets, and all is trained
    second stage   mean_i CE(c_i V^T / tau, index_i),  V a bank of all M targets

In the second the image tower is fixed and the bank is never updated, so that gradients reach the
text tower and the fusion alone. It starts from the first by `init_from`. The first stage's
positives come from language models that describe pairs of pictures, which is a matter of data.

The common space is that of the image tower: what `facejax.embed` writes of it is a bank. The
fusion is facejax's own, in the place of the base's: with r the reference and t the projected text,
both of unit length, and g a sigmoid of an MLP of both, c is the direction of

    g t + (1 - g) r + MLP(r, t)
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from facejax import layers
from facejax.contracts import Aug, Ctx, Frozen, Loss, Pass, Spec, Student, Term, Vars, View
from facejax.errors import UserError, nearest
from facejax.objectives import _image_text
from facejax.ops import logits
from facejax.ops.similarity import l2_normalize

SCOPE = "batch"


@dataclass(frozen=True)
class Config:
    """Options of `spn4cir`.

    Attributes:
        target: first stage: batch field of the target's picture.
        bank: second stage: artifact, an `.npy` of f32[M, D], every target's embedding.
        index: second stage: batch field of the target's row in the bank.
        frozen: run or export whose encoder stands in for the image tower and isn't trained.
        cached: second stage: batch field with the reference's embedding; no image tower runs.
        tau: temperature.
        hidden: width of the hidden layers of the fusion.
        scale: area range of the random resized crops.
        flip: probability of a horizontal flip.
    """

    target: str = "generated"
    bank: str | None = None
    index: str = "target"
    frozen: str | None = None
    cached: str | None = None
    tau: float = 0.02
    hidden: int = 512
    scale: tuple[float, float] = (0.9, 1.0)
    flip: float = 0.0

    @classmethod
    def tiny(cls) -> "Config":
        return cls(hidden=6)


def fields(cfg: Config) -> tuple[str, ...]:
    return ("text", cfg.index if cfg.bank else cfg.target)


def constants(cfg: Config, spec: Spec) -> dict[str, np.ndarray]:
    """The bank f32[M, D], rows of unit length.

    Raises:
        UserError: no such artifact, or one of another shape.
    """
    if not cfg.bank:
        return {}
    if cfg.bank not in spec.artifacts:
        raise UserError("bank", f"no artifact '{cfg.bank}'", nearest(cfg.bank, spec.artifacts))
    path, width = spec.artifacts[cfg.bank], spec.towers["encoder"].embed
    try:
        bank = np.load(path)
    except (OSError, ValueError) as error:
        raise UserError(path, f"not an array ({error})", "save it with numpy.save") from error
    if bank.ndim != 2 or not len(bank) or bank.shape[1] != width:
        what = f"holds {list(bank.shape)}"
        raise UserError(path, what, f"give rows of {width}, as the image tower's")
    bank = bank.astype(np.float32)
    return {"bank": bank / np.maximum(np.linalg.norm(bank, axis=1, keepdims=True), 1e-6)}


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    if "encoder_text" not in spec.towers:
        raise UserError("config.encoder_text", "missing", "add a section with name 'text'")
    if cfg.bank and not (cfg.frozen or cfg.cached):
        what = "the bank's image tower has to stay as it is"
        raise UserError("frozen", what, "name the first stage's run, or cached embeddings")
    if cfg.cached and not cfg.bank:
        raise UserError("cached", "the first stage encodes its targets", "set bank as well")
    aug = Aug(spec.size, scale=cfg.scale, flip=cfg.flip, **spec.aug)
    weights = Frozen(cfg.frozen) if cfg.frozen and not cfg.cached else Student()
    found = {"text": Pass(View("text"), tower="encoder_text")}
    shown = Pass(View(aug=aug), weights=weights)
    found["reference"] = Pass(cached=cfg.cached) if cfg.cached else shown
    if not cfg.bank:
        found["target"] = Pass(View(cfg.target, aug), weights=weights)
    return found


def _heads(cfg: Config, width: int) -> dict[str, layers.MlpHead]:
    widths = {"mix": width, "gate": 1}
    return {name: layers.MlpHead((cfg.hidden, out)) for name, out in widths.items()}


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    image, text = (spec.towers[key].embed for key in ("encoder", "encoder_text"))
    r_text, *keys = jax.random.split(rng, 3)
    both, heads = jnp.zeros((1, 2 * image)), _heads(cfg, image)
    params = {name: heads[name].init(key, both)["params"] for name, key in zip(heads, keys)}
    kernel = jax.random.normal(r_text, (text, image)) / math.sqrt(text)
    return Vars(params={**params, "text": {"kernel": kernel}})


def _fused(cfg: Config, params, image: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The query [B, D], of unit length, and the gate f32[B]."""
    r, t = embed_image(cfg, params, image), embed_text(cfg, params, text)
    both, heads = jnp.concatenate([r, t], axis=-1), _heads(cfg, r.shape[-1])
    mixed, gate = (heads[k].apply({"params": params[k]}, both) for k in ("mix", "gate"))
    gate = jax.nn.sigmoid(gate)
    return l2_normalize(gate * t + (1 - gate) * r + mixed), gate[..., 0]


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    c, gate = _fused(cfg, params, feats["reference"].pooled, feats["text"].pooled)
    there = batch["has_text"]
    if cfg.cached:
        there &= batch[f"has_{cfg.cached}"]
    if cfg.bank:
        bank = jax.lax.stop_gradient(jnp.asarray(ctx.constants["bank"]))
        index = batch[cfg.index]
        there &= batch[f"has_{cfg.index}"] & (index >= 0) & (index < len(bank))
        # Rows that are left out read some row of the bank and count for nothing.
        index = jnp.where(there, index, 0)
        v, columns, owner, k_owner = bank[index], bank, index, jnp.arange(len(bank))
    else:
        there &= batch[f"has_{cfg.target}"]
        v = columns = embed_image(cfg, params, feats["target"].pooled)
        owner = k_owner = jnp.where(there, jnp.arange(len(c)), logits.ABSENT)
    owner = jnp.where(there, owner, logits.ABSENT)
    others = logits.log_totals(c / cfg.tau, columns, owner, k_owner).rows
    each = jax.nn.softplus(others - jnp.sum(c * v, axis=-1) / cfg.tau)
    count = jnp.sum(there, dtype=jnp.float32)
    return Loss(
        {"retrieval": Term(jnp.sum(jnp.where(there, each, 0.0)), count)},
        metrics={
            **_image_text.metrics(c, v, there),
            "gate": Term(jnp.sum(jnp.where(there, gate, 0.0)), count),
        },
    )


def embed_image(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return l2_normalize(pooled)


def embed_text(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "text", pooled)


def compose(cfg: Config, params, image: jax.Array, text: jax.Array) -> jax.Array:
    return _fused(cfg, params, image, text)[0]


def scale_bias(cfg: Config, params) -> tuple[jax.Array, jax.Array]:
    return jnp.float32(1 / cfg.tau), jnp.float32(0)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per query: the text's projection, the fusion, and its similarities."""
    image, text = (spec.towers[key].embed for key in ("encoder", "encoder_text"))
    columns = len(constants(cfg, spec)["bank"]) if cfg.bank else spec.global_batch
    fusion = sum(head.flops(2 * image) for head in _heads(cfg, image).values())
    return float(2 * text * image + fusion + 2 * columns * image)
