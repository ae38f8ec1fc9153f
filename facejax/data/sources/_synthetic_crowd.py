"""Pictures of several people as crops of their faces, one record after the other.

Pictures of one face, of two, ... of `most` follow each other again and again. Who is in a picture
is drawn for it alone, nobody twice.
"""

from typing import NamedTuple

import numpy as np

_WHO = 2  # stream of the people, beside those of the factors
_SYLLABLES = 60
_TURN = 7919  # a prime, so that people with neighbouring numbers aren't called alike


class Place(NamedTuple):
    """Where records are, i64[n] each.

    Attributes:
        picture: number of the picture.
        face: number within the picture.
        person: who it is, from 0.
    """

    picture: np.ndarray
    face: np.ndarray
    person: np.ndarray


def places(seed: int, most: int, identities: int, indices: np.ndarray) -> Place:
    """Picture, face and person of records i64[n]."""
    starts = np.arange(most) * np.arange(1, most + 1) // 2
    turn, rest = np.divmod(indices, most * (most + 1) // 2)
    which = np.searchsorted(starts, rest, side="right") - 1
    picture, face = turn * most + which, rest - starts[which]
    people = {p: _people(seed, int(p), most, identities) for p in np.unique(picture)}
    person = [people[p][f] for p, f in zip(picture, face)]
    return Place(picture, face, np.array(person, np.int64))


def _people(seed: int, picture: int, most: int, identities: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, _WHO, picture))))
    return rng.choice(identities, most, replace=False)


def known(identities: int, strangers: float) -> int:
    """How many people, the first ones, are ever named."""
    return round(identities * (1 - strangers))


def name(person: int) -> str:
    """What a person is called; no two of 12 million alike."""
    parts = divmod(person * _TURN % _SYLLABLES**4, _SYLLABLES**2)
    return " ".join(_word(part) for part in parts)


def _word(number: int) -> str:
    syllables = ["bdfghklmnprs"[s % 12] + "aeiou"[s // 12] for s in divmod(number, _SYLLABLES)]
    return "".join(syllables).capitalize()
