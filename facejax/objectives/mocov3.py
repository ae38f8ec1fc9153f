"""MoCo v3: the predicted query of each view finds the other view's momentum key in the batch.

Source: Chen et al. 2021, arXiv:2104.02057, alg. 1, and facebookresearch/moco-v3. With unit vectors
q_v = predict(project(f(x_v))) and k_v of the momentum encoder and projector, without a predictor,

    loss = 2 tau [ CE(q_1 K_2' / tau) + CE(q_2 K_1' / tau) ],     CE a mean over the batch

with the keys of the whole batch as candidates. The momentum rises to 1 by half a cosine. The
defaults are those of ViTs; for ResNets depth 2, predictor_norm False and tau 1. Freezing the patch
embedding, as the paper does for ViTs, is a rule of `optimizer.rules` in the config.

With V `views` each view's keys are met by the queries of all the others, and the loss is 4 tau
times the mean over all queries, which is the above for V = 2. Modifiers are applied to one view's
keys at a time.

The reference code moves the momentum encoder before its forward pass; here that happens at the end
of the step before, so the momentum is read one step earlier.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Ctx, Ema, Loss, OwnEma, Pairs, Pass, Spec, Term, Vars
from facejax.objectives import _measures, _views
from facejax.ops import similarity
from facejax.schedule import Schedule

SCOPE = "batch"
MOMENTUM = Schedule("cosine", start=0.99, end=1.0)


@dataclass(frozen=True)
class Config(_views.Views):
    """Options of `mocov3`.

    Attributes:
        tau: temperature.
        momentum: of the key encoder and its projector.
        views: views per image.
        hidden: width of the hidden layers of projector and predictor.
        out: width of the projection.
        depth: linear layers of the projector.
        predictor_norm: whether BatchNorm follows the predictor.
    """

    tau: float = 0.2
    momentum: float | Schedule = MOMENTUM
    views: int = 2
    hidden: int = 4096
    out: int = 256
    depth: int = 3
    predictor_norm: bool = True

    @classmethod
    def tiny(cls) -> "Config":
        return cls(hidden=16, out=8, depth=2)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    views, teacher = _views.several(cfg, spec, cfg.views), Ema(cfg.momentum)
    return {
        **{f"query_{name}": Pass(view) for name, view in views.items()},
        **{f"key_{name}": Pass(view, weights=teacher) for name, view in views.items()},
    }


def _projector(cfg: Config) -> layers.MlpHead:
    widths = (cfg.hidden,) * (cfg.depth - 1) + (cfg.out,)
    return layers.MlpHead(widths, norm="batch", final_norm=True)


def _predictor(cfg: Config) -> layers.MlpHead:
    return layers.MlpHead((cfg.hidden, cfg.out), norm="batch", final_norm=cfg.predictor_norm)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    r_projector, r_predictor = jax.random.split(rng)
    features = jnp.zeros((2, spec.towers["encoder"].embed))
    return Vars(
        params={
            "projector": _projector(cfg).init(r_projector, features)["params"],
            "predictor": _predictor(cfg).init(r_predictor, jnp.zeros((2, cfg.out)))["params"],
        },
        ema={"key": OwnEma(("projector",), cfg.momentum)},
        pairs=cfg.out,
    )


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    def project(owner, name):
        return _projector(cfg).apply({"params": owner["projector"]}, feats[name].pooled)

    queries, keys = [], []
    for name in _views.NAMES[: cfg.views]:
        predict = {"params": params["predictor"]}
        q = _predictor(cfg).apply(predict, project(params, f"query_{name}"))
        queries.append(similarity.l2_normalize(q))
        keys.append(similarity.l2_normalize(project(ema["key"], f"key_{name}")))
    image = jnp.arange(len(keys[0]))
    each = []
    for v, k in enumerate(keys):
        q = similarity.interleave(*(q for u, q in enumerate(queries) if u != v))
        A, others = len(q), cfg.views - 1
        pairs = ctx.modify(
            Pairs(
                q=q,
                k=jnp.repeat(k, others, axis=0)[:, None],
                neg=k,
                tau=cfg.tau,
                owner=jnp.repeat(image, others),
                neg_owner=image,
                positive=jnp.ones((A, 1), bool),
                weight=jnp.ones(A),
            )
        )
        each.append(similarity.info_nce(pairs) * pairs.weight)
    return Loss(
        {"info_nce": Term.mean(jnp.concatenate(each), weight=4 * cfg.tau)},
        metrics=_measures.compared(queries[0], keys[1]),
    )


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image; the key heads have no backward pass and count a third."""
    projector, predictor = _projector(cfg), _predictor(cfg).flops(cfg.out)
    heads = cfg.views * (projector.flops(spec.towers["encoder"].embed) * 4 / 3 + predictor)
    return heads + cfg.views * (cfg.views - 1) * 2 * spec.global_batch * cfg.out
