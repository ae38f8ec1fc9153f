"""GEMINI: a predicted smooth deformation says which pixels of two faces belong together.

Source: He et al. 2025, arXiv:2502.05282, and its code for self-supervised pretraining in 2-D. Two
images A and B of the same anatomy, here of two well-framed faces, have dense features f; a deformer
makes a flow psi from both features, in both directions. With w = warp(., psi), m the warp of ones
and d = 1 - sum m cos / sum m over pixels,

    smooth    mean squared difference of neighbouring displacements
    visual    1 - sum m c / sum m, c the squared local correlation (window 9) of w(A) and B
    semantic  .1 d(warp(f_A, sg psi), f_B) + d(w(sg f_A), sg f_B)
    restore   squared error of the image restored from a corrupted one
    loss = .4 smooth + .8 semantic + 1 visual + 100 restore

summed over both directions. The first part of `semantic` trains the features and the second the
flow; negatives are implicit, in the pull of the flow away from wrong matches. `restore` keeps the
features from collapsing, which nothing else here forbids.

Departures: the paper's U-Net at full resolution is the encoder with a small convolutional decoder
of its patch tokens, at one pixel in `stride`; images are averaged to that. The corruption is
in-painting alone (patches replaced by the mask token) instead of Models Genesis' set, and restores
within the same step, not in one of its own. Displacements are bounded to `reach`. The window of the
local correlation is cut at the border instead of padded with zeros; d is a mean over pairs of
images. A face is paired with that of the next global row.
"""

import dataclasses
import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax import layers
from facejax.contracts import Aug, Ctx, Loss, Params, Pass, Spec, Term, Vars, View
from facejax.errors import UserError
from facejax.ops import masking, warping
from facejax.ops.similarity import l2_normalize

SCOPE = "batch"  # faces are compared in pairs
PREVIEW = ("moved", "warped", "fixed", "restored")


@dataclass(frozen=True)
class Config:
    """Options of `gemini`.

    Attributes:
        stride: pixels of the image for one of the feature map; divides the encoder's patch.
        width: channels of the feature map.
        reach: the largest displacement along each axis, in pixels of the feature map.
        window: side of the local correlation, in pixels of the feature map.
        smooth: weight of the flow's roughness.
        semantic: weight of the features' match.
        follow: within `semantic`, weight of the part that trains the features.
        visual: weight of the images' match.
        restore: weight of the restoration.
        corrupt: share of the patches that is hidden for it.
        scale: area range of the random resized crop.
        flip: probability of a horizontal flip.
        dtype: compute type of the convolutions; follows the run's.
    """

    stride: int = 4
    width: int = 32
    reach: int = 4
    window: int = 9
    smooth: float = 0.4
    semantic: float = 0.8
    follow: float = 0.1
    visual: float = 1.0
    restore: float = 100.0
    corrupt: float = 0.5
    scale: tuple[float, float] = (0.7, 1.0)
    flip: float = 0.5
    dtype: str = "float32"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(stride=2, width=4, reach=1, window=3)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    patch = spec.towers["encoder"].patch
    if not patch or patch % cfg.stride:
        what = f"{cfg.stride} does not divide the encoder's patch of {patch}"
        raise UserError("stride", what, "give a divisor, and an encoder with patches")
    view = View(aug=Aug(spec.size, scale=cfg.scale, flip=cfg.flip, **spec.aug))
    hidden = masking.Random(cfg.corrupt, drop=False)
    return {
        "clean": Pass(view, outputs=("tokens", "view")),
        "corrupted": Pass(view, hidden, outputs=("tokens",)),
    }


# ------------------------------------------------------------------------------------ networks


class Convolutions(nn.Module):
    """3 x 3 convolutions with leaky ReLU between them: [B, H, W, C] -> f32[B, H, W, D].

    Attributes:
        widths: output channels of each.
        scale: of the last kernel's initial values, against He's.
        dtype: compute dtype.
    """

    widths: tuple[int, ...]
    dtype: str
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        last = len(self.widths) - 1
        for i, width in enumerate(self.widths):
            init = nn.initializers.variance_scaling(
                2.0 * (self.scale**2 if i == last else 1.0), "fan_in", "normal"
            )
            x = nn.Conv(width, (3, 3), dtype=self.dtype, kernel_init=init, name=f"conv_{i}")(x)
            if i < last:
                x = nn.leaky_relu(layers.layer_norm(x, f"norm_{i}"), 0.2)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _networks(cfg: Config, spec: Spec) -> dict[str, nn.Module]:
    w, cell = cfg.width, spec.towers["encoder"].patch // cfg.stride
    return {
        "spread": layers.dense(cell * cell * w, dtype=cfg.dtype),
        "decoder": Convolutions((w, w), cfg.dtype),
        "deformer": Convolutions((w, w, 2), cfg.dtype, scale=1e-2),
        "restorer": Convolutions((16, 3), cfg.dtype),
    }


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    tower = spec.towers["encoder"]
    side = spec.size // cfg.stride
    inputs = {
        "spread": (1, 1, tower.width),
        "decoder": (1, side, side, cfg.width),
        "deformer": (1, side, side, 2 * cfg.width),
        "restorer": (1, side, side, cfg.width),
    }
    keys = dict(zip(inputs, jax.random.split(rng, len(inputs))))
    params = {
        name: net.init(keys[name], jnp.zeros(inputs[name]))["params"]
        for name, net in _networks(cfg, spec).items()
    }
    return Vars(params=params)


def _features(cfg: Config, params: Params, tokens: jax.Array, spec: Spec) -> jax.Array:
    """f32[B, S, S, width] of patch tokens [B, N, D]; S is the side of the image over `stride`."""
    nets, tower = _networks(cfg, spec), spec.towers["encoder"]
    x = nets["spread"].apply({"params": params["spread"]}, tokens)
    x = masking.unpatchify(x, tower.patch // cfg.stride, tower.grid(spec.size))
    return nets["decoder"].apply({"params": params["decoder"]}, x)


def _shrunk(cfg: Config, image: jax.Array) -> jax.Array:
    """f32[B, S, S, 3], the mean of each `stride` x `stride` pixels."""
    B, S, _, C = image.shape
    cells = image.reshape(B, S // cfg.stride, cfg.stride, S // cfg.stride, cfg.stride, C)
    return cells.mean((2, 4), dtype=jnp.promote_types(image.dtype, jnp.float32))


def _partner(rows: jax.Array) -> jax.Array:
    """i32[B], the place of the next global row; after the last comes the first."""
    order = jnp.argsort(rows)
    return order[(jnp.argsort(order) + 1) % len(rows)]


def _flow(cfg: Config, params: Params, moved: jax.Array, fixed: jax.Array, spec: Spec) -> jax.Array:
    net = _networks(cfg, spec)["deformer"]
    raw = net.apply({"params": params["deformer"]}, jnp.concatenate([moved, fixed], -1))
    return cfg.reach * jnp.tanh(raw)


# ---------------------------------------------------------------------------------------- loss


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """[B], the mean of [B, S, S] over pixels, weighted by the mask."""
    return jnp.sum(values * mask, (1, 2)) / jnp.maximum(jnp.sum(mask, (1, 2)), 1e-6)


def correspondence(
    cfg: Config, flow: jax.Array, f: tuple[jax.Array, jax.Array], image: tuple[jax.Array, jax.Array]
) -> dict[str, jax.Array]:
    """`smooth`, `visual` and `semantic` of each pair in one direction, [B].

    Args:
        flow: [B, S, S, 2].
        f: features of the moved and of the fixed faces, [B, S, S, width] each.
        image: the same faces, grey, [B, S, S] each.
    """
    stop = jax.lax.stop_gradient
    moved, fixed = f
    ones = jnp.ones((*flow.shape[:3], 1), flow.dtype)
    carried = jnp.concatenate([stop(moved), image[0][..., None], ones], -1)
    carried = warping.warp(carried, flow, cfg.reach)
    warped, seen, mask = carried[..., :-2], carried[..., -2], stop(carried[..., -1])

    def apart(a, b):
        return 1 - _mean(jnp.sum(l2_normalize(a) * l2_normalize(b), -1), mask)

    following = apart(warping.warp(moved, stop(flow), cfg.reach), fixed)
    match = warping.local_correlation(seen, image[1], cfg.window)
    return {
        "smooth": warping.roughness(flow),
        "visual": 1 - _mean(match, mask),
        "semantic": cfg.follow * following + apart(warped, stop(fixed)),
    }


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    spec, small = ctx.spec, _shrunk(cfg, feats["clean"].view["image"])
    f, grey = _features(cfg, params, feats["clean"].tokens, spec), small.mean(-1)
    B, partner = len(f), _partner(ctx.draw.rows)
    # Both directions of every pair.
    moved, fixed = jnp.concatenate([f, f[partner]]), jnp.concatenate([f[partner], f])
    images = jnp.concatenate([grey, grey[partner]]), jnp.concatenate([grey[partner], grey])
    flow = _flow(cfg, params, moved, fixed, spec)
    each = correspondence(cfg, flow, (moved, fixed), images)

    restorer = _networks(cfg, spec)["restorer"]
    corrupted = _features(cfg, params, feats["corrupted"].tokens, spec)
    restored = restorer.apply({"params": params["restorer"]}, corrupted)
    weights = {"smooth": cfg.smooth, "visual": cfg.visual, "semantic": cfg.semantic}
    terms = {
        name: Term(jnp.sum(values), jnp.float32(B), weights[name]) for name, values in each.items()
    }
    terms["restore"] = dataclasses.replace(Term.mean((restored - small) ** 2), weight=cfg.restore)
    metrics = {
        "folded": Term.mean(warping.folded(flow).astype(jnp.float32)),
        "shift": Term.mean(jnp.abs(flow)),
    }
    return Loss(terms, metrics=metrics)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: decoder twice, deformer and warps both ways, restorer."""
    tower, w = spec.towers["encoder"], cfg.width
    rows, columns = tower.grid(spec.size)
    cell, pixels = tower.patch // cfg.stride, (spec.size // cfg.stride) ** 2
    spread = 2 * rows * columns * tower.width * cell**2 * w

    def convolutions(*widths):
        return sum(2 * 9 * pixels * a * b for a, b in itertools.pairwise(widths))

    shifts = (2 * cfg.reach + 1) ** 2
    warps = shifts * pixels * 2 * (2 * w + 2)
    both = spread + convolutions(w, w, w) + convolutions(2 * w, w, w, 2) + warps
    return 2 * both + convolutions(w, 16, 3)


def preview(cfg: Config, params, feats, ctx: Ctx) -> dict[str, jax.Array]:
    """Columns of f32[B, S, S, 3]: a face, warped to the next, the next, and the face restored."""
    spec, small = ctx.spec, _shrunk(cfg, feats["clean"].view["image"])
    f, partner = _features(cfg, params, feats["clean"].tokens, spec), _partner(ctx.draw.rows)
    flow = _flow(cfg, params, f, f[partner], spec)
    corrupted = _features(cfg, params, feats["corrupted"].tokens, spec)
    restorer = _networks(cfg, spec)["restorer"]
    shown = {
        "moved": small,
        "warped": warping.warp(small, flow, cfg.reach),
        "fixed": small[partner],
        "restored": restorer.apply({"params": params["restorer"]}, corrupted),
    }
    return {
        name: jnp.repeat(jnp.repeat(x, cfg.stride, 1), cfg.stride, 2) for name, x in shown.items()
    }
