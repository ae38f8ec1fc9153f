"""Small sets of made-up pictures, so that every evaluator can be tried without data."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_people(root: Path, people: int, each: int, template: str, seed: int = 0) -> list[str]:
    """Writes `each` noisy pictures of each of `people` random patterns; returns their names.

    Args:
        root: folder, made where it is missing.
        people: number of people, P0, P1, ...
        each: pictures of each, numbered from 1.
        template: file name from `name` and `number`; its ending chooses the format.
        seed: of the patterns.
    """
    rng = np.random.default_rng(seed)
    names = []
    for person in range(people):
        pattern = np.kron(rng.uniform(40, 215, (4, 4, 3)), np.ones((8, 8, 1)))
        for number in range(1, each + 1):
            picture = np.clip(pattern + rng.normal(0, 12, pattern.shape), 0, 255)
            name = template.format(name=f"P{person}", number=number)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(root / name)
            names.append(name)
    return names
