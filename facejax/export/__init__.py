"""Exports: a trained encoder as files that other libraries read, and the proof that they agree.

A format module `facejax/export/<format>.py` has

    write(cfg, params, stats, preprocess, out, meta)   writes the folder `out`, all of it or nothing
    read(path) -> (cfg, params, stats, preprocess)     opens it again without the other library

and, where it has models of images and texts,

    write_joint(model, out)   writes both towers with their tokenizer; see `_joint.py`
    read_joint(path) -> (cfg, params, stats, preprocess, space)

where `cfg`, `params` and `stats` are those of one encoder and

    preprocess   what turns a picture into the input: `size` (side in pixels), `mean` and `std` (per
                 channel, of values in [0, 1]), `color` ("RGB"), `alignment` (as `config.data.align`
                 says it; its five points are `template`, where there are some), `flip` (what is
                 done with the mirrored image: "none", "sum"), `embedding` (what is done with the
                 output: "raw", "unit"); more keys are kept
    meta         about the run, for the model card: `step`, `config`, `data` (one line of text per
                 source), `metrics` (name -> number), `versions` (package -> version)

Every folder holds the files of `FILES`. This module has what the formats share.
"""

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from facejax.errors import UserError
from facejax.export import _card

SCHEMA_VERSION = 1
PREPROCESS_KEYS = ("size", "mean", "std", "color", "alignment", "flip", "embedding")
FILES = (
    "model.safetensors",
    "config.json",
    "preprocess.json",
    "fingerprint.json",
    "parity.json",
    "README.md",
    "LICENSE",
)
COLOURS, FLIPS, EMBEDDINGS = ("RGB",), ("none", "sum"), ("raw", "unit")
MAX_REL, MIN_COSINE = 1e-4, 0.99999
"""How far another library may be from us: standard deviations of the embedding, and cosine."""

Embed = Callable[[np.ndarray], np.ndarray]
"""f32[n, S, S, 3] normalised images to f32[n, D]."""


def check_out(out: Path) -> None:
    """Refuses to write over something.

    Raises:
        UserError: `out` is a file or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(str(out), "already there", "choose another folder or remove this one")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when the block ends well, and is removed if not."""
    check_out(out)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for file in draft.iterdir():
            file.chmod(0o644)  # safetensors writes for the owner alone
        os.replace(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an object with its schema version; non-finite numbers are refused."""
    value = {"schema_version": SCHEMA_VERSION, **value}
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads what `write_json` wrote, without the schema version.

    Raises:
        UserError: no such file, no JSON object, or a schema version that we can't read.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(str(path), "no such file", "give the folder of an export") from None
    except ValueError as error:
        raise UserError(str(path), f"not JSON ({error})", "export again") from None
    version = value.pop("schema_version", None) if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        what = f"schema version {version}, not {SCHEMA_VERSION}"
        raise UserError(str(path), what, "export again with this version of facejax")
    return value


def check_preprocess(preprocess: Mapping[str, Any], where: str) -> None:
    """Holds a preprocessing to `PREPROCESS_KEYS` and to what they may be.

    Raises:
        UserError: at `where`: a key is absent, so that nobody could use such an export, or a value
            cannot be right.
    """
    absent = [key for key in PREPROCESS_KEYS if key not in preprocess]
    if absent:
        raise UserError(where, f"lacks {', '.join(absent)}", "export again")
    legal = {"color": COLOURS, "flip": FLIPS, "embedding": EMBEDDINGS}
    for key, values in legal.items():
        if preprocess[key] not in values:
            what = f"{key} '{preprocess[key]}', not {' or '.join(values)}"
            raise UserError(where, what, "convert the weights to what facejax uses")
    if min(preprocess["std"]) <= 0:
        raise UserError(where, f"std {preprocess['std']} is not positive", "export again")


def read_preprocess(path: Path) -> dict[str, Any]:
    """preprocess.json of an export, checked."""
    file = path / "preprocess.json"
    preprocess = read_json(file)
    check_preprocess(preprocess, str(file))
    return preprocess


def fixed_images(size: int, count: int = 4) -> np.ndarray:
    """Pictures that any version on any machine makes alike: squares of hashed colours.

    Returns:
        u8[count, size, size, 3].
    """
    i, y, x, c = np.ogrid[:count, :size, :size, :3]
    cells = 4 + 3 * i
    cell = ((i * 64 + y * cells // size) * 64 + x * cells // size) * 3 + c
    return ((cell.astype(np.uint64) * np.uint64(2654435761) >> np.uint64(16)) & 255).astype("uint8")


def normalise(images: np.ndarray, preprocess: Mapping[str, Any]) -> np.ndarray:
    """u8[n, S, S, 3] to f32[n, S, S, 3], with the mean and std of `preprocess`."""
    mean, std = (np.asarray(preprocess[key], np.float32) for key in ("mean", "std"))
    return (images.astype(np.float32) / 255 - mean) / std


def fingerprint(embed: Embed, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """The embeddings of `fixed_images`, to be written beside the weights."""
    images = normalise(fixed_images(preprocess["size"]), preprocess)
    return {"inputs": "facejax.export.fixed_images", "embeddings": embed(images).tolist()}


def check_fingerprint(
    path: Path,
    embed: Embed,
    preprocess: Mapping[str, Any],
    cause: Callable[[np.ndarray], str] = lambda then: "",
) -> None:
    """Embeds the fixed images again and compares.

    The tolerance is that of other hardware, a thousandth of the embedding's standard deviation.

    Args:
        path: fingerprint.json.
        embed: the raw embedding.
        preprocess: see the module.
        cause: from the embeddings of the fingerprint to the mistake that explains them, or "".

    Raises:
        UserError: weights, config or preprocessing are not those that were exported.
    """
    then = np.asarray(read_json(path)["embeddings"], np.float32)
    now = np.asarray(fingerprint(embed, preprocess)["embeddings"], np.float32)
    if then.shape == now.shape and agreement(then, now)["max_rel"] <= 1e-3:
        return
    what, reason = "the weights give other embeddings than when they were exported", cause(then)
    if reason:
        what += f": these come from {reason}"
    raise UserError(str(path), what, "restore the files of the export or export again")


def agreement(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """How far two sets of embeddings f32[n, D] are apart, in float64.

    Returns:
        max_abs: largest absolute difference; max_rel: the same in standard deviations of `ours`;
        min_cosine: smallest cosine of a pair of rows.
    """
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    max_abs = np.abs(a - b).max()
    return {
        "max_abs": float(max_abs),
        "max_rel": float(max_abs / a.std()),
        "min_cosine": float(((a * b).sum(1) / lengths).min()),
    }


def verdict(
    ours: np.ndarray, theirs: np.ndarray, packages: Sequence[str], library: str
) -> dict[str, Any]:
    """The content of parity.json, from two libraries' embeddings of the same images.

    Raises:
        RuntimeError: they are further apart than `MAX_REL` and `MIN_COSINE` allow.
    """
    found = agreement(ours, theirs)
    if not (found["max_rel"] <= MAX_REL and found["min_cosine"] >= MIN_COSINE):
        raise RuntimeError(f"{library} disagrees with the exported weights: {found}")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"status": "ok", **found, "images": len(ours), "versions": versions}


def not_checked(error: Exception, remedy: str) -> dict[str, Any]:
    """The content of parity.json where the other library cannot be imported."""
    return {"status": "not checked", "reason": str(error).splitlines()[0], "remedy": remedy}


def finish(
    draft: Path,
    cfg: Any,
    embed: Embed,
    preprocess: Mapping[str, Any],
    meta: Mapping[str, Any],
    usage: str,
    parity: Mapping[str, Any],
) -> None:
    """Writes the files that don't depend on the format into the folder of an export.

    Args:
        draft: the folder.
        cfg: of the encoder.
        embed: its raw embedding.
        preprocess, meta: see the module.
        usage: Python lines that load the export.
        parity: of `verdict` or `not_checked`.
    """
    check_preprocess(preprocess, str(draft))
    write_json(draft / "preprocess.json", preprocess)
    write_json(draft / "fingerprint.json", fingerprint(embed, preprocess))
    write_json(draft / "parity.json", parity)
    (draft / "README.md").write_text(_card.text(cfg, usage, preprocess, meta, parity))
    (draft / "LICENSE").write_text(_card.terms(meta))
