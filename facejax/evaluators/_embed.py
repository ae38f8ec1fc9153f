"""Turns named images into embeddings: one row per image, and which rows can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from facejax.errors import UserError
from facejax.evaluators import Embed
from facejax.evaluators._images import read_images
from facejax.evaluators._metrics import unit

MAP_IMAGES, MAP_PER_PERSON, MAP_MIN = 600, 30, 5

Flip = Literal["none", "sum", "concat"]


def embed_images(
    embed: Embed, spec: Mapping, names: Sequence[str], size: int, flip: Flip = "none"
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds the named images chunk by chunk, so that only the embeddings are held as a whole.

    Args:
        embed: u8[n, size, size, 3] -> f32[n, D].
        spec: where the images are, see `_images.read_images`.
        names: of the images.
        size: side in pixels that `embed` takes.
        flip: "sum" adds the raw embeddings of the image and its mirror image (insightface);
            "concat" puts their unit vectors side by side (davidsandberg/facenet).

    Returns:
        f32[N, D] raw embeddings and bool[N]. A row is false where the image could not be read or
        its embedding is not finite; such rows are 0.

    Raises:
        UserError: not one row is usable.
    """
    rows, usable = [], []
    for images, readable in read_images(spec, names, size):
        values = _with_flip(embed, images, flip)
        finite = np.isfinite(values).all(axis=1) & readable
        rows.append(np.where(finite[:, None], values, np.float32(0)))
        usable.append(finite)
    usable = np.concatenate(usable)
    if not usable.any():
        raise UserError(
            str(spec["path"]),
            f"none of {len(names)} images gave a finite embedding",
            "check that the images open and that the encoder's output is finite",
        )
    return np.concatenate(rows), usable


def map_rows(people: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Rows to draw in the report's map: the people with most pictures, a few pictures of each.

    Args:
        people: [N], person of each row.
        usable: bool[N].

    Returns:
        i64[m], m <= 600, person after person in a stable order.
    """
    rows = np.flatnonzero(usable)
    found, counts = np.unique(people[rows], return_counts=True)
    often = found[np.argsort(-counts, kind="stable")][: np.sum(counts >= MAP_MIN)]
    shown = [rows[people[rows] == person][:MAP_PER_PERSON] for person in often]
    return np.concatenate([*shown, rows[:0]])[:MAP_IMAGES]


def _with_flip(embed: Embed, images: np.ndarray, flip: Flip) -> np.ndarray:
    values = np.asarray(embed(images), np.float32)
    if flip == "none":
        return values
    mirrored = np.asarray(embed(np.ascontiguousarray(images[:, :, ::-1])), np.float32)
    if flip == "sum":
        return values + mirrored
    return np.concatenate([unit(values), unit(mirrored)], axis=1).astype(np.float32)
