"""What programs that consume face embeddings want of an encoder, and whether one gives it.

    facejax.consumers.problems(facejax.load("exported"), "instantid")      # [] if it fits

That an encoder fits says that its embeddings have the right form. They mean nothing to a program
that was trained on another encoder's: those below were trained on networks of InsightFace, and need
an adapter, or `triplet` with `old` while training.

Sources: the public code of each, as of 2025.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from facejax.errors import UserError, nearest
from facejax.export import fixed_images
from facejax.model import Model


@dataclass(frozen=True)
class Contract:
    """What a consumer takes.

    Attributes:
        form: "raw" embeddings or of "unit" length.
        network: that it was trained on.
        use: what it does with them.
        width: of the embedding.
        padded: width that it is filled up to with zeros; 0: it is not.
        size: side of the aligned picture in pixels.
        mean, std: of the pixels in [0, 1].
        align: as `config.data.align` says it.
    """

    form: str
    network: str
    use: str
    width: int = 512
    padded: int = 0
    size: int = 112
    mean: float = 0.5
    std: float = 0.5
    align: str = "arcface112"


CONSUMERS = {
    "arc2face": Contract("unit", "R100 on WebFace42M", "the token 'id' of a prompt", padded=768),
    "instantid": Contract("raw", "R100 on Glint360K (antelopev2)", "16 tokens of a resampler"),
    "consistentid": Contract("unit", "R50 on WebFace600K (buffalo_l)", "an MLP to 4 tokens"),
    "mica": Contract("unit", "R100 on Glint360K", "an MLP to 300 FLAME shape parameters"),
    "vec2face": Contract("raw", "R100 on Glint360K", "a feature map that images are made from"),
}
"""InstantID and ConsistentID take zeros where there is no face."""


def contract(consumer: str) -> Contract:
    """What a consumer takes.

    Raises:
        UserError: no such consumer is known.
    """
    if consumer not in CONSUMERS:
        raise UserError("consumer", f"no '{consumer}'", nearest(consumer, CONSUMERS))
    return CONSUMERS[consumer]


def vectors(outputs: Mapping[str, np.ndarray], consumer: str) -> np.ndarray:
    """The embeddings in the form and the width that a consumer takes.

    Args:
        outputs: of `Model.outputs`, or of an export in ONNX or StableHLO.

    Returns:
        f32[n, width], or f32[n, padded].
    """
    want = contract(consumer)
    found = np.asarray(outputs[want.form])
    return np.pad(found, ((0, 0), (0, max(0, want.padded - found.shape[1]))))


def problems(model: Model, consumer: str) -> list[str]:
    """What keeps an encoder from a consumer, a line each; none if it fits.

    Both forms are had from every encoder (`Model.outputs`, and exports in ONNX or StableHLO), so
    the form is no problem unless the encoder's own output is of length one and "raw" is wanted.

    Raises:
        UserError: no such consumer is known.
    """
    want, have = contract(consumer), model.preprocess
    size = have["size"]
    outputs = model.outputs(fixed_images(size))
    raw = np.asarray(outputs["raw"], np.float64)
    found = []
    if raw.shape[1] != want.width:
        found.append(f"embeddings are {raw.shape[1]} wide, {consumer} takes {want.width}")
    if size != want.size:
        found.append(f"pictures are {size} px, {consumer} gives {want.size}")
    for key, value in (("mean", want.mean), ("std", want.std)):
        if not np.allclose(have[key], value, atol=1e-3):
            found.append(f"{key} is {tuple(have[key])}, {consumer} normalises by {value}")
    if have["color"] != "RGB":
        found.append(f"pictures are {have['color']}, not RGB")
    if have["alignment"] != want.align:
        what = f"alignment is '{have['alignment']}'"
        found.append(f"{what}, {consumer} aligns by five points ('{want.align}')")
    if have["flip"] != "none":
        found.append(f"flip is '{have['flip']}', {consumer} embeds a picture once")
    return found + _of_numbers(raw, want, consumer)


def _of_numbers(raw: np.ndarray, want: Contract, consumer: str) -> list[str]:
    """Problems of the embeddings f64[n, D] of different pictures; the first one only."""
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    if not np.isfinite(raw).all():
        return ["embeddings are not finite"]
    if not lengths.all():
        return ["an embedding is zero, so that it has no direction"]
    if np.ptp(raw / lengths, axis=0).max() < 1e-5:
        return ["all pictures have one embedding"]
    if want.form == "raw" and np.allclose(lengths, 1, atol=1e-3):
        return [f"embeddings have length 1 by themselves, {consumer} reads their length"]
    return []
