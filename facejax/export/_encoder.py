"""What the formats do with any encoder, found by its config."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from facejax import export, plugins
from facejax.contracts import Params, TowerSpec
from facejax.errors import UserError
from facejax.export import names
from facejax.typed import build

OUTPUTS = ("raw", "unit", "norm", "map", "pooled_map")
"""What programs that use face embeddings ask for; see `outputs`."""


def module_of(cfg: Any) -> ModuleType:
    """The encoder that a config belongs to."""
    return importlib.import_module(type(cfg).__module__)


def name_of(cfg: Any) -> str:
    """The encoder's name in configs."""
    return type(cfg).__module__.rpartition(".")[2]


def exact(cfg: Any, *, scan: bool) -> Any:
    """The config that computes in float32 and recomputes nothing.

    Args:
        scan: run equal blocks as a loop, where the encoder can.
    """
    wanted = {"dtype": "float32", "attention": "xla", "remat": "none", "scan": scan}
    own = {f.name for f in dataclasses.fields(cfg)}
    return dataclasses.replace(cfg, **{k: v for k, v in wanted.items() if k in own})


def exported(params: Params) -> Params:
    """The parameters that leave: all but the mask token, which only training uses."""
    return {name: value for name, value in params.items() if name != "mask_token"}


def shapes(cfg: Any) -> tuple[Params, Params]:
    """The shapes of params and stats, without the mask token."""
    return jax.eval_shape(lambda: module_of(cfg).init(cfg, jax.random.key(0), TowerSpec()))


def outputs(cfg: Any, params: Params, stats: Params, images: jax.Array) -> dict[str, jax.Array]:
    """All forms of the embedding of normalised images f32[B, S, S, 3].

    Returns:
        raw: f32[B, D], the encoder's output; unit: raw of length one; norm: f32[B, 1], the length;
        map: f32[B, W, h, w], the last feature map (a ViT's patch tokens after the final norm);
        pooled_map: f32[B, W], its mean over h and w. A raw output of zero has a unit of zero.
    """
    wanted = ("pooled", "tokens")
    features, _ = module_of(cfg).apply(
        cfg, params, stats, {"image": images}, train=False, outputs=wanted
    )
    raw, tokens = (x.astype(jnp.float32) for x in (features.pooled, features.tokens))
    square = jnp.sum(raw * raw, axis=-1, keepdims=True)
    side = round(tokens.shape[1] ** 0.5)
    maps = tokens.reshape(tokens.shape[0], side, side, tokens.shape[2])
    return {
        "raw": raw,
        "unit": raw * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)),
        "norm": jnp.sqrt(square),
        "map": maps.transpose(0, 3, 1, 2),
        "pooled_map": tokens.mean(axis=1),
    }


def forward(cfg: Any) -> Callable[[Params, Params, jax.Array], dict[str, jax.Array]]:
    """`outputs` in float32, jitted: (params, stats, images) to arrays by name."""
    cfg = exact(cfg, scan=True)
    return jax.jit(lambda params, stats, images: outputs(cfg, params, stats, images))


def embedder(cfg: Any, params: Params, stats: Params) -> export.Embed:
    """The raw embedding in full float32."""
    run = forward(cfg)

    def embed(images: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("highest"):  # the default is TF32 on GPU, bf16 on TPU
            return np.asarray(run(params, stats, images)["raw"])

    return embed


def described(form: str, cfg: Any) -> dict[str, Any]:
    """Our part of config.json."""
    return {"format": form, "encoder": name_of(cfg), "config": dataclasses.asdict(cfg)}


def read_config(path: Path) -> Any:
    """The encoder's config from config.json.

    Raises:
        UserError: it is missing or not of our making.
    """
    where = str(path / "config.json")
    ours = export.read_json(path / "config.json").get("facejax")
    if not isinstance(ours, Mapping) or not {"encoder", "config"} <= ours.keys():
        raise UserError(where, "not of our making (no 'facejax' with its config)", "export again")
    module = plugins.load("encoder", ours["encoder"], where)
    return build(module.Config, ours["config"], where)


def load_tensors(file: Path) -> dict[str, np.ndarray]:
    """A safetensors file by name.

    Raises:
        UserError: there is none, or it is broken.
    """
    try:
        return load_file(file)
    except FileNotFoundError:
        raise UserError(str(file), "no such file", "give the file of the weights") from None
    except SafetensorError as error:
        raise UserError(str(file), f"not a safetensors file ({error})", "export again") from None


def save_tensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file as torch's libraries do."""
    save_file(dict(tensors), file, metadata={"format": "pt"})


def write_own(file: Path, params: Params, stats: Params) -> None:
    """Params and stats in safetensors under our own names, for any encoder."""
    both = {"params": exported(params), **({"stats": stats} if stats else {})}
    save_file(names.export_tensors(names.own(both), both), file)


def read_foreign(
    path: Path, table: Callable[[Any], list[names.Entry]]
) -> tuple[Any, Params, Params, dict[str, Any]]:
    """An export under foreign names, of an encoder without stats: (cfg, params, {}, preprocess).

    Args:
        path: its folder.
        table: from the encoder's config to its table of names.

    Raises:
        UserError: a file is missing or broken, or the files don't belong together.
    """
    preprocess, cfg = export.read_preprocess(path), read_config(path)
    file = path / "model.safetensors"
    params = names.import_tensors(table(cfg), load_tensors(file), shapes(cfg)[0], str(file))
    _check(path, cfg, params, {}, preprocess)
    return cfg, params, {}, preprocess


def read_own(path: Path) -> tuple[Any, Params, Params, dict[str, Any]]:
    """What `write_own` and a format wrote: (cfg, params, stats, preprocess), fingerprint checked.

    Raises:
        UserError: as `read_foreign`.
    """
    return read_both(path, lambda _, both: names.own(both))


def read_both(
    path: Path, table: Callable[[Any, Params], list[names.Entry]]
) -> tuple[Any, Params, Params, dict[str, Any]]:
    """An export of params and stats: (cfg, params, stats, preprocess), fingerprint checked.

    Args:
        path: its folder.
        table: from the encoder's config and {"params", "stats"} as shapes to the table of names.

    Raises:
        UserError: as `read_foreign`.
    """
    preprocess, cfg = export.read_preprocess(path), read_config(path)
    params, stats = shapes(cfg)
    both = {"params": params, **({"stats": stats} if stats else {})}
    file = path / "model.safetensors"
    found = names.import_tensors(table(cfg, both), load_tensors(file), both, str(file))
    params, stats = found["params"], found.get("stats", {})
    _check(path, cfg, params, stats, preprocess)
    return cfg, params, stats, preprocess


def _check(path: Path, cfg, params: Params, stats: Params, preprocess: Mapping[str, Any]) -> None:
    def explain(then: np.ndarray) -> str:
        from facejax.export import _causes  # which needs this module

        return _causes.cause(cfg, params, stats, preprocess, then)

    embed = embedder(cfg, params, stats)
    export.check_fingerprint(path / "fingerprint.json", embed, preprocess, explain)
