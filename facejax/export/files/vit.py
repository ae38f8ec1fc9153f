"""Foreign layouts of the encoder `vit`: timm's, DINOv2's, MAE's and those of transformers."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.encoders._tokens import ROPE_BASE
from facejax.errors import UserError
from facejax.export import names
from facejax.export.files import WHERE, Facts, Recognised
from facejax.export.names import mae as mae_tables
from facejax.export.names import vit as tables

SQUARES = {n * n for n in range(1, 200)}
KINDS, ROPE_KINDS = "vit vit_mae dinov2 dinov2_with_registers", "dinov3_vit"

TIMM_PARTS = (
    *("cls_token", "reg_token", "pos_embed", "blocks", "mlp.fc1.weight", "attn.qkv.bias"),
    "ls1.gamma",
)


@dataclass(frozen=True)
class Layout:
    """One way to name the tensors.

    Attributes:
        name: for the report.
        anchor: the patch projection; what stands before it stands before every name.
        marker: a name that tells the layout from others with this anchor.
        renaming: to the names of the table.
        table: of the encoder.
        parts: names of: class token, registers, positions, blocks, first Linear of the MLP, bias of
            queries, scale of the first LayerScale.
        ignored: regex of names that may be there and mean nothing to us.
        decoder: the table of MAE's decoder, and the names of its first Linear and of its blocks.
        rope: whether its positions are rotary.
    """

    name: str
    anchor: str
    marker: str
    renaming: names.Renaming
    table: Callable[[vit.Config], list[names.Entry]]
    parts: tuple[str, str, str, str, str, str, str]
    ignored: str
    decoder: tuple[Callable[..., list[names.Entry]], str, str]
    rope: bool = False


_TIMM = Layout(
    "timm",
    "patch_embed.proj.weight",
    "blocks.0.attn.qkv.weight",
    tables.META_DINOV2,
    tables.timm_with_prefix,
    TIMM_PARTS,
    r"(head|fc|head_dist|last_layer)\.|mask_token$",
    (mae_tables.official_decoder, "decoder_embed", "decoder_blocks"),
)
_NO_DECODER = (mae_tables.official_decoder, "no decoder", "")
_TOKENS = ("embeddings.cls_token", "embeddings.register_tokens", "embeddings.position_embeddings")
_QUERY = "attention.attention.query.bias"
_PATCHES = "embeddings.patch_embeddings.projection.weight"
_VIT = Layout(
    "transformers ViT",
    _PATCHES,
    "encoder.layer.0.layernorm_before.weight",
    tables.TRANSFORMERS_IN_MEMORY,
    tables.transformers,
    (*_TOKENS, "encoder.layer", "intermediate.dense.weight", _QUERY, "no LayerScale"),
    r"pooler\.|embeddings\.mask_token$",
    (mae_tables.transformers_decoder, "decoder.decoder_embed", "decoder.decoder_layers"),
)
_DINOV2 = Layout(
    "transformers DINOv2",
    _PATCHES,
    "encoder.layer.0.norm1.weight",
    tables.DINOV2_IN_MEMORY,
    tables.dinov2,
    (*_TOKENS, "encoder.layer", "mlp.fc1.weight", _QUERY, "layer_scale1.lambda1"),
    r"embeddings\.mask_token$",
    _NO_DECODER,
)
_TIMM_DINOV3 = Layout(
    "timm DINOv3",
    "patch_embed.proj.weight",
    "blocks.0.gamma_1",
    (),
    tables.timm,
    ("cls_token", "reg_token", "", "blocks", "mlp.fc1.weight", "attn.q_bias", "gamma_1"),
    r"(head|fc_norm)\.|rope\.",
    _NO_DECODER,
    rope=True,
)
_DINOV3 = Layout(
    "transformers DINOv3",
    "embeddings.patch_embeddings.weight",
    "layer.0.layer_scale1.lambda1",
    tables.DINOV3_IN_MEMORY,
    tables.dinov3,
    (
        *("embeddings.cls_token", "embeddings.register_tokens", "", "layer"),
        *("mlp.up_proj.weight", "attention.q_proj.bias", "layer_scale1.lambda1"),
    ),
    r"rope_embeddings\.",
    _NO_DECODER,
    rope=True,
)
LAYOUTS = (_TIMM_DINOV3, _TIMM, _VIT, _DINOV2, _DINOV3)


def legal(cfg: vit.Config) -> Facts:
    """What files must say that this encoder can start from."""
    rope = cfg.positions == "rope"
    kind = ROPE_KINDS if rope else KINDS
    base = ROPE_BASE if rope else None
    return Facts(activation="gelu", heads=cfg.dims.heads, eps=cfg.eps, kind=kind, rope_base=base)


def recognise(cfg: vit.Config, tensors: Mapping[str, np.ndarray]) -> Recognised:
    """Finds the layout of the tensors and names them as ours.

    Raises:
        UserError: no layout fits; or tensors are missing, unexpected, of a wrong shape or stacked.
    """
    for layout in LAYOUTS:
        renamed = names.renamed(tensors, layout.renaming)
        for prefix in _prefixes(renamed, layout.anchor):
            inside = _below(renamed, prefix)
            if layout.marker in inside or _scanned(layout.marker, inside):
                return _named(cfg, layout, prefix, inside, renamed)
    known = ", ".join(layout.name for layout in LAYOUTS)
    some = ", ".join(sorted(tensors)[:3])
    what = f"the names of the tensors are of no known layout ({some}, ...)"
    raise UserError(WHERE, what, f"known: {known}, and what facejax writes")


def _prefixes(tensors: Mapping[str, np.ndarray], anchor: str) -> list[str]:
    """What stands before the anchor, an averaged copy of the weights first."""
    found = [name.removesuffix(anchor) for name in tensors if name.endswith(anchor)]
    found = [p for p in found if p == "" or p.endswith(".")]
    return sorted(found, key=lambda p: ("teacher" not in p and "ema" not in p, p))


def _below(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _scanned(marker: str, tensors: Mapping[str, np.ndarray]) -> bool:
    return marker.replace(".0.", ".") in tensors


def _named(cfg, layout: Layout, prefix: str, inside, everything) -> Recognised:
    geometry, inside, notes = inferred(cfg, layout, inside), dict(inside), []
    cls_token, registers, where, *_ = layout.parts
    before = [name for name in (cls_token, registers) if name in inside]
    if layout is not _TIMM:
        before = before[:1]  # registers have no positions there
    elif where in inside and inside[where].shape[1] in SQUARES:
        inside[where] = np.pad(inside[where], ((0, 0), (geometry.prefix, 0), (0, 0)))
    if where in inside and before:
        moved = names.moved_to_tokens(inside, where, before)
        if any(np.any(moved[name] != inside[name]) for name in before):
            notes.append(f"positions of {', '.join(before)} added to these")
        inside = moved
    table, outer = names.below(layout.table(geometry), "encoder"), {}
    make, embed, blocks = layout.decoder
    # "vit." of transformers is the encoder alone, its decoder stands beside it.
    beside = _below(everything, prefix.removesuffix("vit."))
    if f"{embed}.weight" in beside:
        decoder = make(geometry, beside[f"{embed}.weight"].shape[0], _count(beside, blocks))
        outer = {e.theirs: beside[e.theirs] for e in decoder if e.theirs in beside}
        table += decoder
    shapes = {"encoder": _shapes(geometry), **_decoder_shapes(table, outer)}
    found = names.match(table, inside | outer, shapes)
    odd = found.problems.pop("unexpected")
    ignored = {name for name in odd if re.match(layout.ignored, name)}
    names.complain({**found.problems, "unexpected": sorted({*odd} - ignored)}, WHERE)
    used = {f"{prefix}{name}" for name in inside.keys() - ignored}
    used |= {f"{prefix.removesuffix('vit.')}{name}" for name in outer}
    skipped = sorted(everything.keys() - used)
    return Recognised(layout.name, geometry, found.params, skipped, notes)


def _decoder_shapes(table: Sequence[names.Entry], tensors: Mapping[str, np.ndarray]):
    """Shapes of MAE's own parameters, as these tensors have them."""
    shapes: dict[str, list] = {}
    for e in table:
        if e.ours.startswith("mae/") and e.theirs in tensors:
            shape = list(e.layout.read(tensors[e.theirs]).shape)
            shapes[e.ours] = [*shape[:-1], shape[-1] * e.part[1]]
    sizes = {k: np.broadcast_to(np.float32(0), v) for k, v in shapes.items()}
    return names.unflatten(sizes)


def _shapes(cfg: vit.Config):
    return jax.eval_shape(lambda: vit.init(cfg, jax.random.key(0), TowerSpec())[0])


def _count(tensors: Mapping[str, np.ndarray], blocks: str) -> int:
    found = [re.match(rf"{re.escape(blocks)}\.(\d+)\.", name) for name in tensors]
    return 1 + max((int(m[1]) for m in found if m), default=-1)


def inferred(cfg: vit.Config, layout: Layout, tensors: Mapping[str, np.ndarray]) -> vit.Config:
    """The config of an encoder with the geometry of the tensors; the rest is `cfg`'s."""
    cls_token, registers, where, blocks, fc1, query_bias, scale = layout.parts
    width, _, patch, _ = tensors[layout.anchor].shape
    depth = _count(tensors, blocks) or cfg.dims.depth
    hidden = tensors.get(f"{blocks}.0.{fc1}")
    has_class = cls_token in tensors
    count = tensors[registers].shape[1] if registers in tensors else 0
    positions = tensors[where].shape[1] if where in tensors else 0
    if layout is _TIMM and positions in SQUARES:
        patches = positions
    else:
        patches = positions - has_class - (count if layout is _TIMM else 0)
    side = round(patches**0.5) if positions else cfg.size // cfg.patch
    if positions and (side * side != patches or patches <= 0):
        what = f"{where} has {positions} rows, which is no square and prefix tokens"
        raise UserError(WHERE, what, "give weights of a square grid of patches")
    kept = "sincos" if cfg.positions == "rope" else cfg.positions
    pool = "attention" if "attn_pool.latent" in tensors else "mean"
    ratio = hidden.shape[0] / width if hidden is not None else cfg.dims.mlp_ratio
    if hidden is not None and int(width * ratio) != hidden.shape[0]:
        ratio = np.nextafter(ratio, np.inf)
    head = tensors.get("head.weight") if cfg.neck == "linear" else None
    embed = 0 if head is None else head.shape[0]
    heads = cfg.dims.heads if width % cfg.dims.heads == 0 else 1
    return dataclasses.replace(
        cfg,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=float(ratio),
        patch=patch,
        size=side * patch,
        pool=pool,
        class_token=has_class,
        positions="rope" if layout.rope else "learned" if positions else kept,
        registers=count,
        layer_scale=1.0 if f"{blocks}.0.{scale}" in tensors else None,
        qkv_bias=f"{blocks}.0.{query_bias}" in tensors or f"{blocks}.{query_bias}" in tensors,
        neck="linear" if embed else "none",
        embed=embed,
    )
