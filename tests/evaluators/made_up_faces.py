"""Pictures whose pixels say who they show, so that a test can write any encoder it likes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Faces:
    """`people` x `each` pictures `P03/P03_0001.png`; red is the person, green the number."""

    root: Path
    people: int = 20
    each: int = 10

    @property
    def images(self) -> str:
        return str(self.root / "images")

    def name(self, person: int, number: int) -> str:
        return f"P{person:02d}/P{person:02d}_{number:04d}.png"

    def path(self, person: int, number: int) -> Path:
        return self.root / "images" / self.name(person, number)

    def write(self) -> "Faces":
        for person in range(self.people):
            for number in range(1, self.each + 1):
                path = self.path(person, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (person, number, 0)).save(path)
        return self

    def pairs(self, folds: int, per_kind: int, seed: int = 0) -> str:
        """Writes a View 2 file of random pairs; returns its path."""
        rng = np.random.default_rng(seed)
        lines = [f"{folds}\t{per_kind}"]
        for _ in range(folds):
            for _ in range(per_kind):
                i, j = rng.choice(self.each, 2, replace=False) + 1
                lines.append(f"P{rng.integers(self.people):02d}\t{i}\t{j}")
            for _ in range(per_kind):
                a, b = rng.choice(self.people, 2, replace=False)
                i, j = rng.integers(1, self.each + 1, 2)
                lines.append(f"P{a:02d}\t{i}\tP{b:02d}\t{j}")
        path = self.root / "pairs.txt"
        path.write_text("\n".join(lines) + "\n")
        return str(path)


def person(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 0].astype(int)


def number(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 1].astype(int)


def perfect(images: np.ndarray) -> np.ndarray:
    """One direction per person."""
    return np.eye(64, dtype=np.float32)[person(images)]


def chance(images: np.ndarray) -> np.ndarray:
    """A random direction per picture."""
    seeds = person(images) * 1000 + number(images)
    return np.stack([np.random.default_rng(s).normal(size=16) for s in seeds]).astype(np.float32)


def noisy(images: np.ndarray) -> np.ndarray:
    """The person, somewhat drowned in noise."""
    return perfect(images)[:, :16] + 0.25 * chance(images)


def constant(images: np.ndarray) -> np.ndarray:
    return np.ones((len(images), 4), np.float32)
