"""Draws the pictures of the documentation, from procedural faces alone.

    python -m docs.make_pictures

writes docs/faces.png (each row is one person, each column one of that person's pictures),
docs/masks.png (each row is one kind of mask; grey is removed, red removed as the covered region)
and docs/attacks.png (each row is one presentation attack, each column one person and variant).
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from facejax.contracts import Draw
from facejax.data import align
from facejax.data.sources import _synthetic_attacks as attacks
from facejax.data.sources import synthetic
from facejax.ops.masking import Block, Cells, Random
from facejax.ops.regions import COVERED, Fasking, Regions

PEOPLE, SHOTS, SIZE, GAP = 4, 8, 96, 4
GRID = 14, 14
FACES, SIDE, MARGIN = 6, 84, 96
SMALL = 64
MASKS = {
    "Random": Random(),
    "Cells": Cells(cell=12),
    "Block": Block(),
    "Regions: FRP": Regions(cover=False),
    "Regions: CRFR-R": Regions(proportional=False, region_group=1),
    "Regions: CRFR-P": Regions(region_group=1),
    "Fasking": Fasking(),
}
GREY, RED = np.array([150, 150, 150]), np.array([200, 60, 60])


def sheet_of(rows: list[list[np.ndarray]], side: int, margin: int = 0) -> Image.Image:
    """Rows of square pictures on a white ground, `margin` pixels on the left left free."""
    step = side + GAP
    shape = len(rows) * step - GAP, margin + len(rows[0]) * step - GAP, 3
    sheet = np.full(shape, 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            sheet[i * step :, margin + j * step :][:side, :side] = picture
    return Image.fromarray(sheet)


def contact_sheet() -> Image.Image:
    """One row per person."""
    cfg = synthetic.Config(n=PEOPLE * SHOTS, identities=PEOPLE, size=SIZE)
    faces = synthetic.render(cfg, range(cfg.n))["image"]
    return sheet_of([list(faces[person::PEOPLE]) for person in range(PEOPLE)], SIZE)


def mask_sheet() -> Image.Image:
    """One row per kind of mask, below the faces and their regions."""
    found = synthetic.render(synthetic.Config(n=FACES, identities=FACES, size=SIDE), range(FACES))
    hues = np.arange(len(align.LAPA)) * 23 % 255
    hsv = np.stack([hues, np.full_like(hues, 150), 90 + 15 * np.arange(len(hues)) % 165], -1)
    palette = np.asarray(Image.fromarray(np.uint8(hsv[None]), "HSV").convert("RGB"))[0]
    rows = {"image": found["image"], "regions": palette[found["regions"]]}
    fields = {"image": jnp.asarray(found["image"]), "regions": jnp.asarray(found["regions"])}
    for name, sampler in MASKS.items():
        mask = np.asarray(sampler(fields, GRID, Draw(jax.random.key(5), jnp.arange(FACES))).mask)
        mask = mask.reshape(FACES, *GRID).repeat(SIDE // 14, 1).repeat(SIDE // 14, 2)[..., None]
        shown = np.where(mask != 0, 0.25 * found["image"] + 0.75 * GREY, found["image"])
        covered = 0.25 * found["image"] + 0.75 * RED
        rows[name] = np.uint8(np.where(mask & COVERED != 0, covered, shown))
    sheet = sheet_of([list(row) for row in rows.values()], SIDE, MARGIN)
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(rows):
        pen.text((2, i * (SIDE + GAP) + SIDE // 2 - 6), name, fill=(0, 0, 0))
    return sheet


def attack_sheet() -> Image.Image:
    """One row per class, all on the same faces."""
    people = attacks.VARIANTS
    cfg = synthetic.Config(n=people, identities=people, size=SMALL, attacks=attacks.ATTACKS)
    faces = synthetic.render(dataclasses.replace(cfg, attacks=()), range(people))
    numbers = np.arange(people)
    drawn = attacks.draw(0, numbers, np.zeros(people, int), cfg.attacks, cfg.live, cfg.looks)
    rows = []
    for kind in range(len(attacks.CLASSES)):
        shown = drawn | {"attack": np.full(people, kind), "variant": numbers}
        rows.append(list(attacks.present(faces["image"], faces["landmarks"], shown)))
    sheet = sheet_of(rows, SMALL, MARGIN)
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(attacks.CLASSES):
        pen.text((2, i * (SMALL + GAP) + SMALL // 2 - 6), name, fill=(0, 0, 0))
    return sheet


if __name__ == "__main__":
    # 128 colours look the same and take a third of the bytes.
    sheets = {"faces": contact_sheet, "masks": mask_sheet, "attacks": attack_sheet}
    for name, draw in sheets.items():
        draw().quantize(128).save(Path(__file__).with_name(f"{name}.png"), optimize=True)
