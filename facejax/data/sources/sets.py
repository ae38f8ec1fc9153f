"""Pictures of several people: the faces of each as a set of vectors, and the names in its caption.

    {'name': 'sets', 'faces': 'embeddings', 'names': 'captions.csv',
     'source': {'name': 'folder', 'path': 'crops.zip', 'labels': 'crops.csv',
                'classes': ('picture',)}}

`source` holds the faces, one a record, and a field of classes that says which picture each is in;
`facejax.embed` of that source makes their vectors. Record i is picture i, in the order of the
pictures' names: `image` is its first face, `faces` and `names` are the sets. The evaluator
`face_naming` reads the same source and list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from facejax.data import labels as tables
from facejax.data.arrays import Rows, open_rows
from facejax.data.mixture import open_source
from facejax.data.records import BadRecord, Field, Record, Source
from facejax.data.sampling import numbers_of
from facejax.errors import UserError, nearest


@dataclass(frozen=True)
class Config:
    """Whose faces, and which names.

    Attributes:
        source: the faces, like an entry of `config.data.sources`.
        faces: their vectors: a directory that `facejax.embed` wrote for `source`, or a `.npy` file
            of one row per face in the order of `source`.
        picture: field of classes: the picture that a face is in; faces in none are left out.
        names: a CSV with the columns `picture` and `name`, a line for each name in a caption; ""
            takes the names of a picture's own faces.
        person: field of classes with those names; unknown where a caption can't name them.
        null: a text that is one of every picture's names, for faces whom the caption doesn't name;
            "" without.
    """

    # A mapping has no hash; equality still compares it.
    source: Mapping[str, Any] = field(hash=False)
    faces: str
    picture: str = "picture"
    names: str = ""
    person: str = "name"
    null: str = ""

    @classmethod
    def tiny(cls, root: Path) -> "Config":
        """Ten pictures of up to four synthetic people, whose vectors are noise."""
        source = {"name": "synthetic", "n": 25, "identities": 6, "size": 16, "crowd": 4}
        path = Path(root) / "faces.npy"
        np.save(path, np.random.default_rng(0).normal(size=(25, 8)).astype(np.float32))
        return cls(source, str(path), null="NONAME")


def open(cfg: Config) -> "Sets":
    """Sorts faces and names by picture.

    Raises:
        UserError: `source` lacks a field or refuses its keys, vectors of other faces, or a list
            that can't be read or names an unknown picture.
    """
    entry = open_source(cfg.source, "source")
    if entry.crop != 1:
        raise UserError("source.crop", "pictures are cropped, not faces", "leave it out")
    source = entry.source
    pictures = _classes(source, cfg.picture, "picture")
    vectors = open_rows(cfg.faces, [source.name(i) for i in range(len(source))])
    if len(vectors.field.shape) != 1:
        what = f"{cfg.faces} holds {list(vectors.field.shape)} of each face"
        raise UserError("faces", what, "give one vector of each")
    numbers = numbers_of(source, cfg.picture)
    order = np.argsort(numbers, kind="stable")[int(np.sum(numbers < 0)) :]
    found, starts = np.unique(numbers[order], return_index=True)
    if not len(found):
        raise UserError("picture", f"no face has a '{cfg.picture}'", "label the faces")
    groups = np.split(order, starts[1:])
    titles = [pictures.names[p] if pictures.names else str(p) for p in found.tolist()]
    if cfg.names:
        names = tables.names_by_picture(cfg.names, titles, "the source")
    else:
        people = _classes(source, cfg.person, "person")
        who = numbers_of(source, cfg.person)
        known = people.names or tuple(map(str, range(people.classes)))
        names = [tuple(sorted({known[who[i]] for i in own if who[i] >= 0})) for own in groups]
    if cfg.null:
        names = [(cfg.null, *own) for own in names]
    return Sets(source, vectors, titles, [own.tolist() for own in groups], names)


def easy(cfg: Config) -> tuple[np.ndarray, np.ndarray]:
    """Faces f32[E, D] and names str[E] of the pictures that have one of each: who is who is known.

    Raises:
        UserError: what `open` refuses, or no such picture.
    """
    source = open(replace(cfg, null=""))
    records = [r for r in source.read(range(len(source))) if not isinstance(r, BadRecord)]
    found = [r for r in records if len(r["faces"]) == len(r["names"]) == 1]
    if not found:
        raise UserError("names", "no picture has one face and one name", "add some")
    return np.concatenate([r["faces"] for r in found]), np.array([r["names"][0] for r in found])


class Sets:
    """The pictures. See `facejax.data.records.Source`."""

    def __init__(
        self,
        faces: Source,
        vectors: Rows,
        titles: Sequence[str],
        groups: Sequence[Sequence[int]],
        names: Sequence[tuple[str, ...]],
    ):
        self._faces, self._vectors = faces, vectors
        self._titles, self._groups, self._names = titles, groups, names
        most = max(map(len, groups)), max(1, *map(len, names), 1)
        self.fields = {
            "image": Field(dtype="uint8"),
            "faces": Field((most[0], *vectors.field.shape), "float32", many=True),
            "names": Field((most[1],), "str", many=True),
        }

    def __len__(self) -> int:
        return len(self._groups)

    def name(self, index: int) -> str:
        return f"picture {self._titles[index]}"

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        shown = self._faces.read([self._groups[index][0] for index in indices])
        return [self._read(index, first) for index, first in zip(indices, shown)]

    def _read(self, index: int, first: Record | BadRecord) -> Record | BadRecord:
        if isinstance(first, BadRecord):
            return first
        vectors = [self._vectors[face] for face in self._groups[index]]
        there = [v for v in vectors if v is not None]
        faces = np.array(there, np.float32).reshape(len(there), *self._vectors.field.shape)
        return {"image": first["image"], "faces": faces, "names": self._names[index]}


def _classes(source: Source, name: str, key: str) -> Field:
    fields = {k: f for k, f in source.fields.items() if f.classes}
    if name not in fields:
        raise UserError(key, f"no classes called '{name}' in the source", nearest(name, fields))
    return fields[name]
