"""Weights in files of other libraries, and what these say about how they are used.

`files/<family>.py` has

    recognise(cfg, tensors) -> Recognised      finds the layout, whatever the geometry
    legal(cfg) -> Facts                        what a file must say if it says anything

for the encoder of that name: tables of names are made for the geometry that the tensors show, not
for that of the run. Changing one into the other is `facejax.starting`'s.
"""

import dataclasses
import importlib.util
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from facejax.errors import UserError, nearest
from facejax.export._encoder import load_tensors
from facejax.export._timm import import_timm

WHERE = "config.init_from"
PICKLES = (".pt", ".pth", ".bin", ".tar", ".ckpt")
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
CONTAINERS = ("teacher", "model_ema", "state_dict", "model", "student")
"""Where training scripts keep the weights in what they pickle, the better ones first."""


@dataclasses.dataclass(frozen=True)
class Recognised:
    """Foreign tensors as our parameters, in the geometry that they came in.

    Attributes:
        layout: what it is, for the report.
        config: of an encoder of that geometry.
        params: flat, "encoder/..." and for the decoder of MAE "mae/...".
        skipped: foreign names that have no place here.
        notes: what was changed on the way.
    """

    layout: str
    config: Any
    params: dict[str, np.ndarray]
    skipped: list[str]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file says about its use that the tensors don't show; None where it says nothing."""

    activation: str | None = None
    heads: int | None = None
    eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    color: str | None = None
    kind: str | None = None
    rope_base: float | None = None
    align: str | None = None


def family(encoder: str) -> ModuleType:
    """The module that recognises foreign layouts of an encoder.

    Raises:
        UserError: no foreign layout of that encoder is known.
    """
    if importlib.util.find_spec(f"{__name__}.{encoder}"):
        return importlib.import_module(f"{__name__}.{encoder}")
    table = f"facejax.export.names.{encoder}"
    if importlib.util.find_spec(table) and hasattr(importlib.import_module(table), "torch"):
        return importlib.import_module(f"{__name__}._arcface")
    what = f"no foreign layout of the encoder '{encoder}' is known"
    raise UserError(WHERE, what, "give a run or an export of facejax")


def open_source(source: str) -> tuple[dict[str, np.ndarray], Facts]:
    """Tensors and facts of `config.init_from`.

    Args:
        source: a safetensors file, a torch pickle, a folder of timm or transformers (timm's
            `local-dir:` may stand before it), or `<timm name>@<file>`: weights of a timm model in
            a local file, whose facts timm knows.

    Raises:
        UserError: nothing there can be read.
    """
    name, at, file = source.rpartition("@")
    if at and not Path(source).exists():
        return read_file(Path(file)), _facts_of_timm(name)
    path = Path(source.removeprefix("local-dir:"))
    if not path.is_dir():
        return read_file(path), Facts()
    found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
    if not found:
        raise UserError(str(path), f"no {' or '.join(FOLDER_FILES)}", "give a file of weights")
    return read_file(found[0]), facts_of_folder(path)


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file or a torch pickle, by name.

    Pickles are read with `weights_only`: they can hold tensors and plain values, and run nothing.

    Raises:
        UserError: no such file, or it holds something else.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)
    if path.suffix not in PICKLES:
        what = f"'{path.suffix}' is no file of weights"
        raise UserError(str(path), what, f"give .safetensors, {', '.join(PICKLES)} or a folder")
    if not path.is_file():
        raise UserError(str(path), "no such file", "give the file of the weights")
    return _tensors(_unpickled(path), path)


def _unpickled(path: Path) -> Any:
    try:
        import argparse

        import torch
    except ImportError:
        remedy = "pip install torch, or convert it to safetensors"
        raise UserError(str(path), "torch is not installed", remedy) from None
    try:
        # Training scripts store their arguments beside the weights; a Namespace runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0][:200]
        what = f"holds more than tensors ({reason})"
        raise UserError(str(path), what, "save its state_dict alone, or as safetensors") from None
    except (RuntimeError, EOFError, OSError) as error:
        what = f"not a torch file ({str(error).strip().splitlines()[0][:200]})"
        raise UserError(str(path), what, "download it again") from None


def _tensors(held: Any, path: Path) -> dict[str, np.ndarray]:
    """The tensors of a pickle, whether they lie at the top or in a container."""
    while isinstance(held, Mapping):
        found = {k: v for k, v in held.items() if hasattr(v, "numpy")}
        if found:
            return {k: v.detach().float().numpy() for k, v in found.items()}
        inner = next((held[k] for k in CONTAINERS if k in held), None)
        if inner is None:
            break
        held = inner
    raise UserError(str(path), "no tensors in it", f"they are looked for in {CONTAINERS}")


# -------------------------------------------------------------------------------------- facts


def facts_of_folder(path: Path) -> Facts:
    """What config.json and the preprocessor's config of timm or transformers say."""
    config = config_of(path)
    pixels = _json(path / "preprocessor_config.json")
    timm = config.get("pretrained_cfg", {})
    args = config.get("model_args", {})
    mean, std = pixels.get("image_mean", timm.get("mean")), pixels.get("image_std", timm.get("std"))
    activation = config.get("hidden_act", args.get("act_layer"))
    return Facts(
        activation=str(activation) if activation else None,
        heads=config.get("num_attention_heads", args.get("num_heads")),
        eps=config.get("layer_norm_eps"),
        mean=tuple(mean) if mean else None,
        std=tuple(std) if std else None,
        color="BGR" if pixels.get("do_flip_channel_order") else None,
        kind=config.get("model_type"),
        rope_base=config.get("rope_theta"),
    )


def config_of(path: Path) -> dict[str, Any]:
    """config.json of a folder, or nothing."""
    return _json(path / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(str(path), f"not JSON ({error})", "download it again") from None


def _facts_of_timm(name: str) -> Facts:
    try:
        torch, timm = import_timm()
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            WHERE, f"timm cannot be imported ({reason})", "give the file alone"
        ) from None
    if not timm.is_model(name):
        raise UserError(WHERE, f"timm has no model '{name}'", nearest(name, timm.list_models()))
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    settings, block = timm.get_pretrained_cfg(name), model.blocks[0]
    return Facts(
        activation=type(block.mlp.act).__name__.lower(),
        heads=block.attn.num_heads,
        eps=block.norm1.eps,
        mean=tuple(settings.mean),
        std=tuple(settings.std),
    )


def check_facts(
    facts: Facts, legal: Facts, data: Any, where: str = WHERE, tower: str = "encoder"
) -> list[str]:
    """Refuses weights that would be used otherwise than they were made.

    Args:
        facts: of the file.
        legal: of our encoder; its `kind` is a list of names with spaces between.
        data: `config.data` of the run.
        tower: key of the encoder in the config.

    Returns:
        Notes about what differs and only costs some training.

    Raises:
        UserError: all that cannot be right, together.
    """
    wrong, notes, mean, std = [], [], data.mean, data.std
    if facts.kind and legal.kind and facts.kind not in legal.kind.split():
        wrong.append(f"it is a '{facts.kind}', not {legal.kind.replace(' ', ' or ')}")
    if facts.activation and facts.activation.lower() != legal.activation:
        wrong.append(f"its activation is {facts.activation}, ours is {legal.activation}")
    if facts.heads and facts.heads != legal.heads:
        wrong.append(f"it has {facts.heads} attention heads, config.{tower} has {legal.heads}")
    if facts.rope_base and legal.rope_base and facts.rope_base != legal.rope_base:
        wrong.append(f"its rotary base is {facts.rope_base}, ours is {legal.rope_base}")
    if facts.color:
        wrong.append(f"its images are {facts.color}, ours are RGB")
    if facts.mean and facts.std:
        swapped = np.allclose([facts.mean, facts.std], [std, mean], atol=1e-3)
        same = np.allclose([facts.mean, facts.std], [mean, std], atol=1e-3)
        if swapped and not same:
            wrong.append(
                f"config.data.mean and config.data.std are swapped (its mean is {facts.mean})"
            )
        elif not same:
            notes.append(
                f"normalisation: its mean is {facts.mean} and its std {facts.std}, the run has "
                f"{tuple(mean)} and {tuple(std)}"
            )
    if facts.eps and facts.eps != legal.eps:
        remedy = f"config.{tower}.{'norm_eps' if tower == 'encoder' else 'eps'} takes it"
        notes.append(f"eps of the norms: {facts.eps} there, {legal.eps} here; {remedy}")
    if facts.align and facts.align != data.align:
        notes.append(f"alignment: '{facts.align}' there, '{data.align}' here")
    if wrong:
        raise UserError(where, "; ".join(wrong), "give weights of this architecture")
    return notes
