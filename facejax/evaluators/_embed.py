"""Turns pictures into embeddings: one row per picture, and which rows can be trusted."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from facejax.errors import UserError
from facejax.evaluators import Embed
from facejax.evaluators._metrics import unit
from facejax.evaluators._pictures import Pictures

MAP_IMAGES, MAP_PER_PERSON, MAP_MIN = 600, 30, 5

Flip = Literal["none", "sum", "concat"]


def embed_pictures(
    embed: Embed, pictures: Pictures, rows: Sequence[int], size: int, flip: Flip = "none"
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds pictures chunk by chunk, so that only the embeddings are held as a whole.

    Args:
        embed: u8[n, size, size, 3] -> f32[n, D].
        pictures: where they are.
        rows: which ones, N of them.
        size: side in pixels that `embed` takes.
        flip: "sum" adds the raw embeddings of the image and its mirror image (insightface);
            "concat" puts their unit vectors side by side (davidsandberg/facenet).

    Returns:
        f32[N, D] raw embeddings and bool[N]. A row is false where the picture could not be decoded
        or its embedding is not finite; such rows are 0.

    Raises:
        UserError: not one row is usable.
    """
    found, usable = [], []
    for chunk in pictures.read(rows, size):
        values = _with_flip(embed, chunk.arrays["image"], flip)
        finite = np.isfinite(values).all(axis=1) & chunk.arrays["valid"]
        values = np.where(finite[:, None], values, np.float32(0))
        real = chunk.ids >= 0
        found.append(values[real])
        usable.append(finite[real])
    usable = np.concatenate(usable)
    if not usable.any():
        raise unusable(pictures, f"none of {len(rows)} pictures gave a finite embedding")
    return np.concatenate(found), usable


def unusable(pictures: Pictures, what: str) -> UserError:
    """The error of an evaluation that too many pictures failed for."""
    remedy = "check that the pictures open and that the encoder's output is finite"
    return UserError(pictures.where, what, remedy)


def drawn(
    embeddings: np.ndarray,
    people: np.ndarray,
    usable: np.ndarray,
    labels: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """`embeddings` and `labels` of a Result: the rows that the report's map shows, see `map_rows`.

    Args:
        embeddings: [N, D].
        people: [N], person of each row.
        usable: bool[N].
        labels: [N], what to call them; None: `people`.
    """
    rows = map_rows(people, usable)
    shown = people if labels is None else labels
    return {"embeddings": embeddings[rows].astype(np.float32), "labels": shown[rows]}


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
