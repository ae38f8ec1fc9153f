"""Pictures of one colour with captions that say it; some have several, some none."""

from dataclasses import dataclass

import numpy as np

from facejax.data.records import Field

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


@dataclass(frozen=True)
class Config:
    n: int = 24
    size: int = 16

    @classmethod
    def tiny(cls, root):
        return cls()


class Pictures:
    fields = {"image": Field(dtype="uint8"), "caption": Field((), "str")}  # noqa: RUF012

    def __init__(self, cfg: Config):
        self.cfg = cfg

    def __len__(self) -> int:
        return self.cfg.n

    def name(self, index: int) -> str:
        return f"picture {index}"

    def read(self, indices):
        return [self._read(index) for index in indices]

    def _read(self, index: int):
        name = list(COLOURS)[index % 3]
        noise = np.random.default_rng(index).integers(-15, 16, (self.cfg.size, self.cfg.size, 3))
        record = {"image": np.uint8(np.clip(np.array(COLOURS[name]) + noise, 0, 255))}
        if index == 3:
            return record
        return record | {"caption": (name, f"a {name} picture") if index % 2 else name}


def open(cfg: Config) -> Pictures:
    return Pictures(cfg)
