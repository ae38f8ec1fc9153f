"""Captions of records, and the names in them, to token ids on the host.

Which of several captions a row shows depends on the seed and the row's position alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facejax.data.records import BadRecord, Field, Source
from facejax.data.sampling import seed_of
from facejax.errors import UserError
from facejax.tokenizer import Tokenizer

TEXT, CAPTION, NAMES = "text", "caption", "names"
CHUNK = 256
"""Records read at a time."""


@dataclass(frozen=True)
class Texts:
    """How captions become the batch's field `text`.

    Attributes:
        tokenizer: of the run.
        length: tokens of a row.
        seed: of the choice among several captions.
    """

    tokenizer: Tokenizer
    length: int
    seed: int = 0

    @property
    def field(self) -> Field:
        """What the batch holds: i32[B, length]."""
        return Field((self.length,), "int32")

    def put(self, arrays: dict[str, np.ndarray], positions: Sequence[int]) -> int:
        """Replaces `caption` by `text` and `has_text`, which is false where no caption has words.

        `names`, a set of N, become i32[B, N, length].

        Args:
            arrays: as `fields.collate` makes them.
            positions: of the rows, counted through all global batches.

        Returns:
            How many texts were cut.
        """
        cut = 0
        if CAPTION in arrays:
            cut += self._put_text(arrays, positions)
        if NAMES in arrays:
            names = arrays[NAMES]
            ids, over = self.tokenizer.encode_counted(names.ravel().tolist(), self.length)
            arrays[NAMES] = ids.reshape(*names.shape, self.length)
            cut += int(over.sum())
        return cut

    def _put_text(self, arrays: dict[str, np.ndarray], positions: Sequence[int]) -> int:
        captions, has = arrays.pop(CAPTION), arrays.pop(f"has_{CAPTION}")
        chosen = [
            self.choose(given, position) if there else ""
            for given, there, position in zip(captions, has, positions)
        ]
        arrays[TEXT], cut = self.tokenizer.encode_counted(chosen, self.length)
        arrays[f"has_{TEXT}"] = np.array([bool(text) for text in chosen])
        return int(cut.sum())

    def choose(self, captions: str | Sequence[str], position: int) -> str:
        """One of a record's captions that are not blank; "" if all are."""
        several = [captions] if isinstance(captions, str) else captions
        several = [c for c in several if c.strip()]
        if not several:
            return ""
        return several[seed_of(self.seed, CAPTION, position) % len(several)]


def captions_of(source: Source) -> Iterator[str]:
    """Every caption of a source that has words, in order; broken records have none.

    Raises:
        UserError: the source gives no captions.
    """
    if CAPTION not in source.fields:
        raise UserError("--source", "gives no captions", "name one that does")
    for start in range(0, len(source), CHUNK):
        for record in source.read(range(start, min(start + CHUNK, len(source)))):
            found = () if isinstance(record, BadRecord) else record.get(CAPTION) or ()
            several = (found,) if isinstance(found, str) else found
            yield from (caption for caption in several if caption.strip())


def read_for(names: Sequence[str]) -> list[str]:
    """The fields that are read from records, of those that a step wants."""
    return [CAPTION if name == TEXT else name for name in names]


def tokenized(names: Sequence[str]) -> bool:
    """Whether one of the fields that a step wants holds token ids."""
    return TEXT in names or NAMES in names


def given(fields: Mapping[str, Field], length: int | None) -> dict[str, Field]:
    """Fields of records with what is made of them: `text` where they have captions, and names."""
    out = dict(fields)
    if length is not None and CAPTION in fields:
        out[TEXT] = Field((length,), "int32")
    if length is not None and NAMES in fields:
        out[NAMES] = Field((*fields[NAMES].shape, length), "int32", many=True)
    return out
