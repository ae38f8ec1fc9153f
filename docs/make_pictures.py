"""Draws the pictures of the documentation, from procedural faces alone.

    python -m docs.make_pictures

writes docs/faces.png: each row is one person, each column one of that person's pictures.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from facejax.data.sources import synthetic

PEOPLE, SHOTS, SIZE, GAP = 4, 8, 96, 4


def contact_sheet() -> Image.Image:
    """One row per person on a white ground."""
    cfg = synthetic.Config(n=PEOPLE * SHOTS, identities=PEOPLE, size=SIZE)
    faces = synthetic.render(cfg, range(cfg.n))["image"]
    side = SIZE + GAP
    sheet = np.full((PEOPLE * side - GAP, SHOTS * side - GAP, 3), 255, np.uint8)
    for i, face in enumerate(faces):
        shot, person = divmod(i, PEOPLE)
        sheet[person * side :, shot * side :][:SIZE, :SIZE] = face
    return Image.fromarray(sheet)


if __name__ == "__main__":
    # 128 colours look the same and take a third of the bytes.
    sheet = contact_sheet().quantize(128)
    sheet.save(Path(__file__).with_name("faces.png"), optimize=True)
