"""Procedural faces, one of which is never read to its end."""

import time
from dataclasses import dataclass

from facejax.data.sources import synthetic


@dataclass(frozen=True)
class Config(synthetic.Config):
    at: int = -1

    @classmethod
    def tiny(cls, root):
        return cls(n=12, identities=4, size=32)


class _Stuck:
    def __init__(self, cfg):
        self._source, self._at = synthetic.open(cfg), cfg.at
        self.fields, self.name = self._source.fields, self._source.name

    def __len__(self):
        return len(self._source)

    def read(self, indices):
        return [self._one(index) for index in indices]

    def _one(self, index):
        while index == self._at:
            time.sleep(1)
        return self._source.read([index])[0]


def open(cfg):
    return _Stuck(cfg)
