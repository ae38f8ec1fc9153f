"""What a source gives: the record, its fields and the contract of a source module.

A source module `facejax/data/sources/<name>.py` has

    Config                  frozen dataclass of its legal keys; `Config.tiny(root)` writes what
                            a test needs beneath the folder `root` and returns a config for it
    open(cfg) -> Source     cheap; checks that the path exists and that label files match

A record is a dict. `image` is always there; whatever else it holds is described by `Source.fields`.

    image        encoded bytes (JPEG, PNG) or u8[H, W, 3] RGB
    identity     int, class number within the source; -1 where unknown
    attributes   i8[A], +1 or -1, 0 where unknown
    regions      PNG bytes or u8[H, W], region numbers in the LaPa scheme (see `data/align.py`)
    landmarks    f32[K, 2], x and y in pixels of this record's image
    generated    encoded bytes or u8[H, W, 3] RGB, another picture of what `image` shows, or the
                 picture that it is once `caption` is done to it
    target       int, number of that picture among all that it is looked for in, a bank
    caption      str, or a tuple of str where it has several
    age          float, years
    expression   int, class number
    units        i8[U], intensity of action units 1 to 5 (FACS A to E), -1 at rest, 0 unknown
    pose         f32[3], pitch, yaw, roll in degrees
    feature      f32[D], a vector that some encoder made of the image earlier
    codes        i32[N], codes of the image's patches, row by row
    faces        f32[r, D], such vectors of the faces in the image, a set
    names        str of each person that the image's caption names, a set
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Record = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """Describes one field of a source's records after decoding.

    Attributes:
        shape: per record, without the batch axis; () for pictures and regions, which are resized.
        dtype: NumPy dtype name of the batch array; "str" stays on the host.
        classes: number of classes for integer labels, 0 otherwise.
        names: names of the classes or of the attributes, where they have names.
        many: the first axis of `shape` is a set, of which a record holds as many as it has. A batch
            pads them to `shape[0]`, leaves out what is beyond, and says by `count_<field>` i32[B]
            how many there are.
    """

    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    classes: int = 0
    names: tuple[str, ...] = ()
    many: bool = False


@dataclass(frozen=True)
class BadRecord:
    """Stands in for a record that could not be read or decoded; counted and named, never raised."""

    reason: str


class Source(Protocol):
    """A random-access set of records; `read` is called from several threads at once.

    One that knows the identity of every record without reading images may say so by a method
    `identities() -> i32[N]` (-1: unknown); samplers read every record of the others.
    """

    fields: dict[str, Field]

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]: ...

    def name(self, index: int) -> str:
        """What a person would call record `index` (a file name, shard:record)."""
        ...
