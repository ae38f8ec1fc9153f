"""CAAE's bottleneck: a code of the face that a discriminator cannot tell from a uniform draw.

Source: Zhang et al. 2017, arXiv:1702.08423, and ZZUTK/Face-Aging-CAAE. The code of an embedding is
z = tanh(Linear(embedding)), `dim` numbers in [-1, 1]; p is drawn uniformly from there, and D is the
discriminator's logit that a code is such a draw. Two players move in one optimiser step, each
against the other held fixed (sg):

    discriminator   mean of softplus(-D(p)) + softplus(D(sg z))
    encoder         mean of softplus(-sg(D)(z))

The encoder's term is not the first one reversed but the usual one that does not saturate. So no
gradient of the discriminator's term reaches the encoder, and none of the encoder's reaches D.

Attaches to any encoder beside another objective; alone it asks nothing but a uniform code of the
encoder. Not built: CAAE's image decoder conditioned on age and gender and its image discriminator,
which make the code free of age. Departures: layer norm in place of D's batch norm, which would make
the loss of a face depend on its micro-batch. The weight of this term is 0 in the released code.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.config import Rule
from facejax.contracts import Ctx, Histogram, Loss, Pass, Spec, Term, Vars
from facejax.objectives import _masked

SCOPE = "sample"


@dataclass(frozen=True)
class Config:
    """Options of `adversarial_prior`.

    Attributes:
        dim: width of the code.
        hidden: widths of the discriminator's hidden layers.
        encoder: weight of the encoder's term; the discriminator's is 1.
        lr: the discriminator's multiple of the run's learning rate.
        scale: area range of a random resized crop; 1 to 1 is the whole image.
        flip: probability of a horizontal flip.
        dtype: compute type of the discriminator; follows the run's.
    """

    dim: int = 50
    hidden: tuple[int, ...] = (64, 32, 16)
    encoder: float = 1.0
    lr: float = 1.0
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    dtype: str = "float32"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(dim=4, hidden=(8,))


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    return {"face": Pass(_masked.view(spec, cfg.scale, cfg.flip))}


def _discriminator(cfg: Config) -> layers.MlpHead:
    return layers.MlpHead((*cfg.hidden, 1), norm="layer", dtype=cfg.dtype)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    r_code, r_discriminator = jax.random.split(rng)
    embedding = jnp.zeros((1, spec.towers["encoder"].embed))
    code = jnp.zeros((1, cfg.dim))
    params = {
        "code": layers.dense(cfg.dim).init(r_code, embedding)["params"],
        "discriminator": _discriminator(cfg).init(r_discriminator, code)["params"],
    }
    return Vars(params=params)


def optim(cfg: Config) -> tuple[Rule, ...]:
    return (Rule("discriminator/", lr=cfg.lr, weight_decay=0.0),)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    embedding = feats["face"].pooled
    z = jnp.tanh(layers.dense(cfg.dim).apply({"params": params["code"]}, embedding))
    keys = ctx.draw.fold("prior").keys()
    prior = jax.vmap(lambda key: jax.random.uniform(key, (cfg.dim,), jnp.float32, -1.0, 1.0))(keys)

    def judged(code, discriminator):
        logit = _discriminator(cfg).apply({"params": discriminator}, code)
        return _masked.wide(logit[:, 0])

    theirs = params["discriminator"]
    still, held = jax.lax.stop_gradient((z, theirs))
    drawn, made = judged(prior.astype(z.dtype), theirs), judged(still, theirs)
    told = jax.nn.softplus(-drawn) + jax.nn.softplus(made)
    fooled = jax.nn.softplus(-judged(z, held))
    right = ((drawn > 0).astype(jnp.float32) + (made < 0)) / 2
    return Loss(
        {
            "discriminator": Term.mean(told),
            "encoder": Term.mean(fooled, cfg.encoder),
        },
        metrics={"accuracy": Term.mean(right), "code": Histogram.of(still)},
    )


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: a code, and three judgements."""
    return 2.0 * spec.towers["encoder"].embed * cfg.dim + 3 * _discriminator(cfg).flops(cfg.dim)
