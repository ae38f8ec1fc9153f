"""What programs that consume face embeddings want of an encoder, and whether one gives it.

    facejax.consumers.problems(facejax.load("exported"), "instantid")      # [] if it fits

That an encoder fits says that its embeddings have the right form. They mean nothing to a program
that was trained on another encoder's: those below were trained on networks of InsightFace, and need
an adapter, or `triplet` with `old` while training.

Sources: the public code of each, as of 2025.
"""

from dataclasses import dataclass

import numpy as np

from facejax.errors import UserError, nearest
from facejax.model import Model


@dataclass(frozen=True)
class Contract:
    """What a consumer takes.

    Attributes:
        form: "raw" embeddings or of "unit" length.
        network: that it was trained on.
        use: what it does with them.
        width: of the embedding.
        size: side of the aligned picture in pixels.
        mean, std: of the pixels in [0, 1].
    """

    form: str
    network: str
    use: str
    width: int = 512
    size: int = 112
    mean: float = 0.5
    std: float = 0.5


CONSUMERS = {
    "arc2face": Contract("unit", "R100 on WebFace42M", "zero-padded to 768, the token 'id'"),
    "instantid": Contract("raw", "R100 on Glint360K (antelopev2)", "16 tokens of a resampler"),
    "consistentid": Contract("unit", "R50 on WebFace600K (buffalo_l)", "an MLP to 4 tokens"),
    "mica": Contract("unit", "R100 on Glint360K", "an MLP to 300 FLAME shape parameters"),
}


def problems(model: Model, consumer: str) -> list[str]:
    """What keeps an encoder from a consumer, a line each; none if it fits.

    Both forms are had from every encoder (`raw`, and `unit` in an export of ONNX or StableHLO), so
    the form is no problem unless the encoder's own output is of length one and `raw` is wanted.

    Raises:
        UserError: no such consumer is known.
    """
    if consumer not in CONSUMERS:
        raise UserError("consumer", f"no '{consumer}'", nearest(consumer, CONSUMERS))
    want, have = CONSUMERS[consumer], model.preprocess
    size = have["size"]
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    embeddings = model.embed(images)
    found = []
    if embeddings.shape[1] != want.width:
        found.append(f"embeddings are {embeddings.shape[1]} wide, {consumer} takes {want.width}")
    if size != want.size:
        found.append(f"pictures are {size} px, {consumer} gives {want.size}")
    for key, value in (("mean", want.mean), ("std", want.std)):
        if not np.allclose(have[key], value, atol=1e-3):
            found.append(f"{key} is {tuple(have[key])}, {consumer} normalises by {value}")
    if have["color"] != "RGB":
        found.append(f"pictures are {have['color']}, not RGB")
    if "arcface" not in have["alignment"]:
        what = f"alignment is '{have['alignment']}'"
        found.append(f"{what}, {consumer} aligns by five points onto the template of ArcFace")
    if not np.isfinite(embeddings).all():
        found.append("embeddings are not finite")
    elif want.form == "raw" and np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3):
        found.append(f"embeddings have length 1 by themselves, {consumer} reads their length")
    return found
