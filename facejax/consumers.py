"""What programs that use face embeddings expect of an encoder, and whether one keeps to it.

Widths and forms are from the programs' code (`CONSUMERS`). A program is trained with one encoder:
another encoder that keeps to the same contract can be plugged in, but its embeddings mean something
else, and the program has to be trained again with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from facejax.data.align import COLOUR_ORDER, MEAN_STD
from facejax.errors import UserError, nearest


@dataclass(frozen=True)
class Contract:
    """What a program takes.

    Attributes:
        encoder: the one that it was trained with.
        form: "raw", as the encoder gives it, or "unit", of length one.
        width: D of the embedding.
        size: side of the aligned face in pixels; all normalise RGB to [-1, 1].
        pad: width that it fills up with zeros; 0 for none.
        absent: what stands for "no face": a vector of zeros, or nothing.
    """

    encoder: str
    form: Literal["raw", "unit"]
    width: int = 512
    size: int = 112
    pad: int = 0
    absent: Literal["zeros", "nothing"] = "nothing"


CONSUMERS: Mapping[str, Contract] = {
    "Arc2Face": Contract("ResNet-100, WebFace42M", "unit", pad=768),
    "InstantID": Contract("antelopev2, ResNet-100, Glint360K", "raw", absent="zeros"),
    "ConsistentID": Contract("buffalo_l, ResNet-50", "unit", absent="zeros"),
    "MICA": Contract("ResNet-100, Glint360K", "unit"),
    "Vec2Face": Contract("ResNet-100, Glint360K", "raw"),
}


def contract(consumer: str) -> Contract:
    """The contract of a program.

    Raises:
        UserError: no such program is known.
    """
    if consumer not in CONSUMERS:
        what = f"no contract of '{consumer}' is known"
        raise UserError("consumer", what, nearest(consumer, CONSUMERS))
    return CONSUMERS[consumer]


def vectors(consumer: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The embeddings as a program takes them.

    Args:
        consumer: its name.
        outputs: of `Model.outputs`, or of an export in the format onnx or stablehlo.

    Returns:
        f32[n, D], or f32[n, pad].
    """
    c = contract(consumer)
    found = np.asarray(outputs[c.form])
    return np.pad(found, ((0, 0), (0, max(0, c.pad - found.shape[1]))))


def violations(
    consumer: str, preprocess: Mapping[str, Any], outputs: Mapping[str, np.ndarray]
) -> list[str]:
    """What of a program's contract an encoder breaks; empty if it can be plugged in.

    Args:
        consumer: the program's name.
        preprocess: of the encoder.
        outputs: of several different faces; see `vectors`.
    """
    c = contract(consumer)
    raw, unit, norm = (np.asarray(outputs[k], np.float64) for k in ("raw", "unit", "norm"))
    mean, std = MEAN_STD["half"]
    same = np.allclose([preprocess["mean"], preprocess["std"]], [mean, std], atol=1e-3)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    checks = {
        f"the embedding has {raw.shape[1]} values, not {c.width}": raw.shape[1] == c.width,
        f"images are {preprocess['size']} pixels, not {c.size}": preprocess["size"] == c.size,
        f"colours are {preprocess['color']}, not {COLOUR_ORDER}": preprocess["color"]
        == COLOUR_ORDER,
        f"mean {tuple(preprocess['mean'])} and std {tuple(preprocess['std'])}, not 0.5": same,
        "faces are not aligned to the five points": preprocess["alignment"] != "none",
        "the raw embedding is made of flipped images too": preprocess["flip"] == "none",
        "an embedding is not finite": bool(np.isfinite(raw).all()),
        "an embedding is zero, so that it has no direction": bool((lengths > 0).all()),
        "unit embeddings are not of length one": np.allclose(
            np.linalg.norm(unit, axis=1), 1, 0, 1e-4
        ),
        "norm is not the length of raw": np.allclose(norm, lengths, 1e-4, 0),
        "all faces have one embedding": len(raw) < 2 or float(np.ptp(unit, axis=0).max()) > 1e-4,
    }
    return [what for what, kept in checks.items() if not kept]
