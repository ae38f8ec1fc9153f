"""FLIP: images and texts contrast with queues of momentum features, and are matched in pairs.

Source: FaceCaption-15M's FLIP (OpenFace-CQUPT/FLIP), whose class derives from BLIP (Li et al. 2022,
arXiv:2201.12086, models/blip_pretrain.py) without its language model; FLIP's own hyper-parameters
are unverified, the defaults are BLIP's but for what the class's listing tells. With unit x and y of
an image and its text, those of momentum towers with a bar, queues Q of the latter, and K = [y, Q],

    contrast   1/2 CE(x K_t^T / tau, T_x) + 1/2 CE(y K_i^T / tau, T_y)
               T_x = alpha sg softmax(x_bar K_t^T / tau) + (1 - alpha) onehot,  and T_y likewise
    matching   CE over two classes of the fused text, mean of 3B: pairs, each image with a hard
               text, each text with a hard image

where K_t holds the bars of the batch first, tau is learned within [.001, .5] and alpha rises from 0
over the first tenth of the run (two epochs of BLIP's 20). A hard text of an image is drawn in
proportion to softmax(x y_bar^T / tau) + 1e-4 among the others, a hard image likewise. One text
tower serves both: fused, it reads the image tower's class and patch tokens by cross-attention.

Departures: hard negatives come from the global batch, not a device's; the momentum towers move
after the step. Rows without a text have no part, and what they put in the queues is skipped. Texts
that repeat within a batch are false negatives of both terms. No accumulation: the fused texts
depend on the whole batch.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Aug, Ctx, Ema, Loss, OwnEma, Pass, Spec, Term, Vars, View
from facejax.errors import UserError
from facejax.layers import dense
from facejax.objectives import _image_text
from facejax.objectives._image_text import FIELDS as FIELDS
from facejax.ops import logits, negatives, queue
from facejax.ops.similarity import interleave
from facejax.schedule import Schedule

SCOPE = "batch"
SIDES = ("image", "text")
TAU = (0.001, 0.5)


@dataclass(frozen=True)
class Config:
    """Options of `flip`.

    Attributes:
        out: width of the common space.
        tau: temperature at the start.
        momentum: of the momentum towers and projections.
        queue: rows of each queue; a multiple of the global batch.
        alpha: share of the momentum model's judgement in the targets of the contrast.
        matching: weight of the matching; 0 leaves it out.
        scale: area range of the random resized crops.
        flip: probability of a horizontal flip.
    """

    out: int = 256
    tau: float = 0.07
    momentum: float | Schedule = 0.995
    queue: int = 57600
    alpha: float | Schedule = Schedule("constant", start=0.4, warmup=0.1)  # noqa: RUF009
    matching: float = 1.0
    scale: tuple[float, float] = (0.5, 1.0)
    flip: float = 0.5

    @classmethod
    def tiny(cls) -> "Config":
        return cls(out=6, queue=16, alpha=0.4)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    if "encoder_text" not in spec.towers:
        raise UserError("config.encoder_text", "missing", "add a section with name 'text'")
    image = View(aug=Aug(spec.size, scale=cfg.scale, flip=cfg.flip, **spec.aug))
    slow, text = Ema(cfg.momentum), View("text")
    outputs = ("pooled", "prefix", "tokens") if cfg.matching else ("pooled",)
    return {
        "image": Pass(image, outputs=outputs),
        "text": Pass(text, tower="encoder_text"),
        "image_slow": Pass(image, weights=slow),
        "text_slow": Pass(text, tower="encoder_text", weights=slow),
    }


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    queue.check(cfg.queue, spec.global_batch)
    image, text = spec.towers["encoder"], spec.towers["encoder_text"]
    if cfg.matching and text.context != image.width:
        what = f"texts are shown tokens of {text.context} numbers, the images' have {image.width}"
        raise UserError("config.encoder_text.context", what, f"set it to {image.width}")
    r_project, r_match, *r_queues = jax.random.split(rng, 4)
    projections = _image_text.init(_image_text.Towers(out=cfg.out), r_project, spec)
    params = {**projections, "tau": jnp.float32(cfg.tau)}
    if cfg.matching:
        params["matching"] = dense(2).init(r_match, jnp.zeros((1, text.embed)))["params"]
    queues = {side: queue.create(key, cfg.queue, cfg.out) for side, key in zip(SIDES, r_queues)}
    return Vars(params=params, state=queues, ema={"slow": OwnEma(SIDES, cfg.momentum)})


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    there, tau, alpha = batch["has_text"], params["tau"], ctx.at(cfg.alpha)
    x, y = (_image_text.embedded(params, side, feats[side].pooled) for side in SIDES)
    slow_x, slow_y = (
        _image_text.embedded(ema["slow"], side, feats[f"{side}_slow"].pooled) for side in SIDES
    )
    to_texts = _contrast(x, slow_x, slow_y, state["text"]["rows"], there, tau, alpha)
    to_images = _contrast(y, slow_y, slow_x, state["image"]["rows"], there, tau, alpha)
    count = jnp.sum(there, dtype=jnp.float32)
    terms = {"contrast": Term(jnp.sum(to_texts + to_images) / 2, count)}
    metrics = {
        **_image_text.metrics(x, y, there),
        "tau": Term(tau, jnp.float32(1)),
        "alpha": Term(jnp.asarray(alpha, jnp.float32), jnp.float32(1)),
    }
    if cfg.matching:
        hard_text = negatives.draw(x / tau, slow_y, there, ctx.draw.fold("hard text"))
        hard_image = negatives.draw(y / tau, slow_x, there, ctx.draw.fold("hard image"))
        each, right, counts = _matching(params, feats, batch, ctx, hard_text, hard_image)
        count = jnp.sum(counts, dtype=jnp.float32)
        terms["matching"] = Term(jnp.sum(each), count, cfg.matching)
        metrics["matched"] = Term(jnp.sum(right, dtype=jnp.float32), count)
    entering = {
        side: jnp.where(there[:, None], rows, 0.0) for side, rows in zip(SIDES, (slow_x, slow_y))
    }
    return Loss(terms, stats=entering, metrics=metrics)


def _contrast(q, slow_q, slow_k, rows, there, tau, alpha) -> jax.Array:
    """f32[B]: the cross-entropy of each row with its soft target, 0 of those that are not there."""
    k = jnp.concatenate([slow_k, rows])
    # What a row without a text put in the queue is zero.
    exist = jnp.concatenate([there, jnp.any(rows != 0, axis=1)])
    # Rows own no column, so that each meets all that exist.
    owner = jnp.where(there, -1, logits.ABSENT)
    total = logits.log_totals(q / tau, k, owner, jnp.where(exist, 0, logits.ABSENT)).rows
    judged = logits.mean_column(slow_q / tau, k, exist | ~jnp.any(exist))
    # A cross-entropy is linear in its target, so that of a mean of columns is what is wanted.
    target = alpha * judged + (1 - alpha) * slow_k
    return jnp.where(there, total - jnp.sum(q * target, axis=-1) / tau, 0.0)


def _matching(params, feats, batch, ctx: Ctx, hard_text, hard_image):
    """Losses, right answers and which of them count, of 3B fused texts, [3B] each."""
    if ctx.apply is None:
        what = "hard negatives come from the whole batch"
        raise UserError("config.micro_batch", what, "leave it out")
    ids, there = batch["text"], batch["has_text"]
    tokens = jnp.concatenate([feats["image"].prefix, feats["image"].tokens], axis=1)
    fused = ctx.apply(
        "encoder_text",
        {"text": interleave(ids, ids[hard_text], ids)},
        context=interleave(tokens, tokens, tokens[hard_image]),
    ).pooled
    answer = dense(2).apply({"params": params["matching"]}, fused)
    answer = answer.astype(jnp.promote_types(answer.dtype, jnp.float32))
    logit = answer[:, 1] - answer[:, 0]
    no = jnp.zeros_like(there)
    pair = interleave(~no, no, no)
    others = there & (jnp.sum(there) > 1)
    counts = interleave(there, others, others)
    each = jnp.where(counts, jax.nn.softplus(jnp.where(pair, -logit, logit)), 0.0)
    return each, counts & ((logit > 0) == pair), counts


def update(cfg: Config, params, state, stats, ctx: Ctx):
    params = {**params, "tau": jnp.clip(params["tau"], *TAU)}
    return params, {side: queue.enqueue(state[side], stats[side]) for side in SIDES}


def applied(cfg: Config, spec: Spec) -> dict[str, float]:
    """How often per image the loss itself runs a tower: three fused texts."""
    return {"encoder_text": 3.0} if cfg.matching else {}


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image, with the cross-attention of the fused texts beside their tower's."""
    trained, still = forward_flops(cfg, spec)
    cross = 3 * cross_flops(spec) if cfg.matching else 0.0
    return trained + cross + still / 3  # momentum models have no backward pass


def forward_flops(cfg: Config, spec: Spec) -> tuple[float, float]:
    """Forward FLOPs per image of projections and products: of what is trained, and of the rest."""
    image, text = (spec.towers[key].embed for key in ("encoder", "encoder_text"))
    projections, columns = 2 * cfg.out * (image + text), spec.global_batch + cfg.queue
    products = 2 * 2 * columns * cfg.out
    trained, still = projections + products, projections + 2 * products
    if cfg.matching:
        trained += 3 * 2 * 2 * text
        still += 2 * 2 * 2 * spec.global_batch * cfg.out  # of both draws
    return float(trained), float(still)


def cross_flops(spec: Spec) -> float:
    """Forward FLOPs of the cross-attention of one text to an image."""
    image, text = spec.towers["encoder"], spec.towers["encoder_text"]
    rows, columns = image.grid(spec.size)
    D, L, M = text.width, spec.tokenize([""]).shape[1], image.prefix + rows * columns
    return float(text.depth * (4 * L * D**2 + 4 * M * text.context * D + 4 * L * M * D))


def embed_image(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "image", pooled)


def embed_text(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "text", pooled)


def scale_bias(cfg: Config, params) -> tuple[jax.Array, jax.Array]:
    return 1 / params["tau"], jnp.float32(0)
