"""Low-rank adapters on the Linear layers of any encoder, and PETALface's pair of them.

    config.encoder.lora = {"pattern": "attn/qkv", "rank": 8}

The encoder's parameters stand still, unless a rule of the config's optimizer says otherwise, and
every Linear whose path matches `pattern` adds a product of two thin matrices that start at zero:

    y = W x + b + scale up (down x)

With `quality` it has two of them, weighted by alpha = clip(1/2 + quality - threshold, 0, 1) of each
image, which passes no gradient:

    y = W x + b + scale ( up_low down_low ((1 - alpha) x) + up_high down_high (alpha x) )

Sources: Hu et al. 2022, arXiv:2106.09685 (LoRA); Narayan et al. 2025, arXiv:2412.07771 (PETALface)
and its authors' code. Departures: alpha is clipped, quality is in [0, 1], and in place of a BRISQUE
or CNN score, whose weights are not here, it is the sharpness of the view.

The matrices lie beside the layer's kernel in the encoder's own tree, at <layer>/lora/<name>/{down
[in, r], up [r, out]}, so checkpoints, averages and the optimizer know nothing of them. `Adapted`
stands for the encoder's module wherever that is called.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Draw, Params, Tower, TowerSpec
from facejax.errors import UserError

BLUR = 0.01
"""Mean squared Laplacian, of pixels with mean and std applied, at which an image is half sharp."""


@dataclass(frozen=True)
class Lora:
    """Options of the adapters.

    Attributes:
        pattern: regex of the paths of Linear layers, such as "blocks_00/attn/qkv".
        rank: width of the thin matrices.
        scale: of what they add.
        dropout: of what goes into them, in training.
        quality: None for one pair of matrices; "sharpness" or a fixed number in [0, 1] for two.
        threshold: the quality at which both count alike.
        plain: regex of layers that have one pair even so.
    """

    pattern: str = r"attn/qkv$"
    rank: int = 8
    scale: float = 1.0
    dropout: float = 0.0
    quality: Literal["sharpness"] | float | None = None
    threshold: float = 0.5
    plain: str = r"$^"

    def __post_init__(self):
        for key in ("pattern", "plain"):
            try:
                re.compile(getattr(self, key))
            except re.error as error:
                what = f"'{getattr(self, key)}' is no regular expression ({error})"
                raise UserError(f"config.encoder.lora.{key}", what, "mend it") from error
        if self.rank < 1:
            raise UserError("config.encoder.lora.rank", f"{self.rank}", "give at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(
                "config.encoder.lora.dropout", f"{self.dropout}", "give a share below 1"
            )


@dataclass(frozen=True)
class Adapted:
    """An encoder's module with adapters; its functions are those of the module.

    Attributes:
        base: the encoder's module.
        lora: the options.
    """

    base: ModuleType
    lora: Lora

    def tower(self, cfg: Any) -> Tower:
        return self.base.tower(cfg)

    def init(self, cfg: Any, rng: jax.Array, spec: TowerSpec) -> tuple[Params, Params]:
        """The encoder's own parameters, and the adapters beside them.

        Raises:
            UserError: no Linear layer has such a path.
        """
        params, stats = self.base.init(cfg, rng, spec)
        return with_adapters(self.lora, params, jax.random.fold_in(rng, 1)), stats

    def apply(self, cfg: Any, params: Params, stats: Params, inputs, *, draw=None, **keys):
        """The encoder, whose adapted layers add what their matrices make."""
        weights, drops = _weights(self.lora, inputs["image"]), None
        if draw is not None and keys.get("train") and self.lora.dropout:
            params, drops = _numbered(params), draw.fold("lora")
        with nn.intercept_methods(_Adding(self.lora, weights, drops)):
            return self.base.apply(cfg, params, stats, inputs, draw=draw, **keys)

    def flops(self, cfg: Any, size: int | None = None, keep: int | None = None) -> float:
        """As the encoder's: the thin matrices are not counted."""
        return self.base.flops(cfg, size, keep)


def with_adapters(lora: Lora, params: Params, rng: jax.Array) -> Params:
    """Parameters with fresh adapters: down from N(0, 1 / rank^2), up zero."""
    layers = [p for p in _linear(params) if re.search(lora.pattern, p)]
    if not layers:
        paths = list(_linear(params))
        remedy = f"paths look like '{paths[-1]}'" if paths else "this encoder has none"
        raise UserError("config.encoder.lora.pattern", f"'{lora.pattern}' finds no Linear", remedy)
    out = jax.tree.map(lambda x: x, params)
    for number, path in enumerate(sorted(layers)):
        node = _at(out, path)
        inputs, outputs = node["kernel"].shape
        names = ("one",) if not _two(lora, path) else ("low", "high")
        keys = jax.random.split(jax.random.fold_in(rng, number), len(names))
        node["lora"] = {
            name: {
                "down": jax.random.normal(key, (inputs, lora.rank)) / lora.rank,
                "up": jnp.zeros((lora.rank, outputs)),
            }
            for name, key in zip(names, keys)
        }
    return out


def _numbered(params: Params) -> Params:
    """Beside the matrices of each adapter its number, which a scan over blocks carries along."""
    out = jax.tree.map(lambda x: x, params)
    adapted = [p for p in _linear(params) if "lora" in _at(params, p)]
    for number, path in enumerate(sorted(adapted)):
        _at(out, path)["lora"]["number"] = jnp.uint32(number)
    return out


def _at(params: Params, path: str) -> Params:
    for part in path.split("/"):
        params = params[part]
    return params


def around(params: Params, base: Params) -> Params:
    """The adapters of `params` around the parameters of a plain encoder."""
    out = {}
    for name, value in params.items():
        if name == "lora":
            out[name] = value
        elif isinstance(value, Mapping):
            out[name] = around(value, base[name])
        else:
            out[name] = base[name]
    return out


def without(params: Params) -> Params:
    """The parameters without adapters."""
    return {
        name: without(value) if isinstance(value, Mapping) else value
        for name, value in params.items()
        if name != "lora"
    }


def merge(lora: Lora, params: Params) -> Params:
    """Plain parameters of an encoder that computes the same.

    Raises:
        UserError: two matrices are weighted by each image, which no single one can do.
    """
    alpha = None
    if lora.quality is not None:
        if lora.quality == "sharpness":
            what = "adapters that are weighted by an image's quality cannot be merged"
            raise UserError(
                "config.encoder.lora.quality", what, "export with a fixed quality, such as 0.5"
            )
        alpha = _alpha(lora, jnp.float32(lora.quality))
    share = {"one": 1.0, "low": None if alpha is None else 1 - alpha, "high": alpha}

    def merged(node: Params) -> Params:
        if not isinstance(node, Mapping):
            return node
        out = {name: merged(value) for name, value in node.items() if name != "lora"}
        for name, pair in node.get("lora", {}).items():
            product = jnp.matmul(pair["down"], pair["up"], precision="highest")
            out["kernel"] = out["kernel"] + lora.scale * share[name] * product
        return out

    return merged(params)


def _linear(params: Params, prefix: str = ""):
    """Paths of the layers with a kernel of two axes."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            if getattr(value.get("kernel"), "ndim", 0) == 2:
                yield prefix + name
            yield from _linear(value, f"{prefix}{name}/")


def _two(lora: Lora, path: str) -> bool:
    return lora.quality is not None and not re.search(lora.plain, path)


def _alpha(lora: Lora, quality: jax.Array) -> jax.Array:
    return jnp.clip(0.5 + quality - lora.threshold, 0.0, 1.0)


def _weights(lora: Lora, image: jax.Array) -> jax.Array | None:
    """alpha f32[B], or None without a pair of matrices."""
    if lora.quality is None:
        return None
    if lora.quality == "sharpness":
        return jax.lax.stop_gradient(_alpha(lora, sharpness(image)))
    return jnp.broadcast_to(_alpha(lora, jnp.float32(lora.quality)), image.shape[:1])


def sharpness(image: jax.Array) -> jax.Array:
    """f32[B] in [0, 1) of images [B, S, S, 3]: v / (v + `BLUR`), v the mean squared Laplacian."""
    gray = jnp.mean(image.astype(jnp.float32), axis=-1)
    inner = gray[:, 1:-1, 1:-1]
    around = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    v = jnp.mean(jnp.square(around - 4 * inner), axis=(1, 2))
    return v / (v + BLUR)


@dataclasses.dataclass
class _Adding:
    """Intercepts Linear layers that have adapters; each has a stream of dropout of its own."""

    lora: Lora
    alpha: jax.Array | None
    draw: Draw | None
    inside: bool = False  # a layer that calls its parent class comes by twice

    def __call__(self, next_function, args, kwargs, context):
        module = context.module
        adapted = (
            not self.inside
            and isinstance(module, nn.Dense)
            and context.method_name == "__call__"
            and module.has_variable("params", "lora")
        )
        self.inside = self.inside or adapted
        found = next_function(*args, **kwargs)
        if not adapted:
            return found
        self.inside = False
        x, pairs = args[0].astype(found.dtype), dict(module.get_variable("params", "lora"))
        x = self._dropped(x, pairs.pop("number", None))
        for name, pair in pairs.items():
            weighted = x if name == "one" else x * self._share(name, x)
            thin = weighted @ pair["down"].astype(x.dtype)
            found = found + self.lora.scale * (thin @ pair["up"].astype(x.dtype))
        return found

    def _share(self, name: str, x: jax.Array) -> jax.Array:
        share = self.alpha if name == "high" else 1 - self.alpha
        return share.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)

    def _dropped(self, x: jax.Array, number: jax.Array | None) -> jax.Array:
        if self.draw is None:
            return x
        draw = Draw(jax.random.fold_in(self.draw.key, number), self.draw.rows)
        stay = 1 - self.lora.dropout
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, stay, x.shape[1:]))(draw.keys())
        return jnp.where(keep, x / stay, 0).astype(x.dtype)
