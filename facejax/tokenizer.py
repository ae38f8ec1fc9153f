"""Texts to token ids, through the `tokenizers` library.

A tokenizer is its `tokenizer.json`, whatever it was read from. Its special tokens are found by the
names that are usual for them; where it says nothing of padding, the end token pads, as in CLIP and
SigLIP of transformers.
"""

import dataclasses
import functools
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facejax.errors import UserError

START = ("<|startoftext|>", "[CLS]", "<s>")
END = ("<|endoftext|>", "[SEP]", "</s>")
PAD = "<pad>"
_AROUND = ("post_processor", "truncation", "padding")
"""Parts of a file that `encode` does without."""
FILE = "tokenizer.json"
"""Its name beside a run or an export."""
SMALLEST = 260
"""Every byte, and the special tokens of `train`, with room for one merge."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer.

    Attributes:
        text: the content of its `tokenizer.json`.
    """

    text: str

    @functools.cached_property
    def _backend(self) -> Any:
        import tokenizers

        backend = tokenizers.Tokenizer.from_str(self.text)
        backend.no_truncation()
        return backend

    @functools.cached_property
    def vocab(self) -> int:
        """Number of tokens: every id is below it."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def start(self) -> int | None:
        """Id of the token before a text, None without one."""
        return next(self._ids(START), None)

    @functools.cached_property
    def end(self) -> int:
        """Id of the token after a text."""
        return next(self._ids(END))

    @functools.cached_property
    def pad(self) -> int:
        """Id that fills what is left."""
        told = self._backend.padding
        return self.end if told is None else int(told["pad_id"])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what it makes of texts here, whatever the spelling of its file."""
        told = json.loads(self.text)
        plain = {k: v for k, v in told.items() if k not in _AROUND} | {"pad": self.pad}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def with_frame(self) -> "Tokenizer":
        """The same whose own file puts start, end and padding around texts, for other programs."""
        from tokenizers import Tokenizer as Backend
        from tokenizers.processors import TemplateProcessing

        backend = Backend.from_str(self.text)
        names = {i: backend.id_to_token(i) for i in (self.start, self.end) if i is not None}
        parts = [names[self.start]] if self.start is not None else []
        backend.post_processor = TemplateProcessing(
            single=[*parts, "$A", names[self.end]],
            special_tokens=[(n, i) for i, n in names.items()],
        )
        backend.enable_padding(pad_id=self.pad, pad_token=backend.id_to_token(self.pad))
        return Tokenizer(backend.to_str())

    def token(self, index: int) -> str:
        """The spelling of a token."""
        return self._backend.id_to_token(index)

    def _ids(self, names: Sequence[str]) -> Iterator[int]:
        found = map(self._backend.token_to_id, names)
        return (i for i in found if i is not None)

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Token ids i32[n, length]: start, the text, end, padding.

        What is too long is cut, and keeps its end token.
        """
        return self.encode_counted(texts, length)[0]

    def encode_counted(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """As `encode`, and bool[n]: whether a text was cut."""
        out = np.full((len(texts), length), self.pad, np.int32)
        cut = np.zeros(len(texts), bool)
        before = [] if self.start is None else [self.start]
        room = length - len(before) - 1
        encoded = self._backend.encode_batch(list(texts), add_special_tokens=False)
        for row, found in enumerate(encoded):
            # The library may have been asked to pad by its file.
            ids = [i for i, real in zip(found.ids, found.attention_mask) if real]
            cut[row] = len(ids) > room
            whole = [*before, *ids[:room], self.end]
            out[row, : len(whole)] = whole
        return out, cut

    def decode(self, ids: Sequence[int]) -> str:
        """The text of one row of ids, without special tokens."""
        special = {self.start, self.end, self.pad}
        return self._backend.decode([int(i) for i in ids if int(i) not in special])

    def save(self, path: str | Path) -> None:
        """Writes `tokenizer.json`."""
        path = Path(path)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(self.text)
        os.replace(temporary, path)


def load(path: str | Path) -> Tokenizer:
    """Reads a `tokenizer.json`, a folder with one, CLIP's two files, or a SentencePiece `.model`.

    Raises:
        UserError: there is none, or it can't be read.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            str(path), "no such tokenizer", "give a tokenizer.json, a folder or a model"
        )
    if path.is_dir():
        if not (path / "tokenizer.json").exists():
            return _clip(path)
        path = path / "tokenizer.json"
    try:
        made = Tokenizer(_of_pieces(path) if path.suffix == ".model" else path.read_text())
        end = next(made._ids(END), None)
    except Exception as e:  # the library raises bare Exceptions
        raise UserError(str(path), f"not a tokenizer ({e})", "give a tokenizer.json") from e
    if end is None:
        raise UserError(str(path), f"no end token ({', '.join(END)})", "give one that has it")
    return made


def train(texts: Iterable[str], vocab: int = 4096) -> Tokenizer:
    """A byte-level BPE of lower-cased texts, learned from them; every text can be encoded.

    Args:
        vocab: number of tokens at most.

    Raises:
        UserError: `vocab` leaves no room for the bytes.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    if vocab < SMALLEST:
        raise UserError("vocab", f"{vocab} tokens", f"give {SMALLEST} or more")
    backend = Backend(models.BPE())
    backend.normalizer = _lower(normalizers)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        # CLIP of transformers takes an end token of id 2 for that of its first files.
        special_tokens=[START[0], END[0], PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.enable_padding(pad_id=2, pad_token=PAD)
    return Tokenizer(backend.to_str())


def _lower(normalizers) -> Any:
    from tokenizers import Regex

    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    return normalizers.Sequence(steps)


# ------------------------------------------------------------------------------------- formats

# What CLIP takes for a word (Radford et al. 2021, arXiv:2103.00020, their released code).
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def _clip(folder: Path) -> Tokenizer:
    """CLIP's BPE: merges within words, whose last piece ends in `</w>`."""
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    files = folder / "vocab.json", folder / "merges.txt"
    for file in files:
        if not file.exists():
            raise UserError(str(file), "not there", "give CLIP's vocab.json and merges.txt")
    try:
        model = models.BPE.from_file(
            *map(str, files), unk_token=END[0], end_of_word_suffix="</w>", fuse_unk=False
        )
    except Exception as e:  # as above
        raise UserError(str(folder), f"no CLIP tokenizer ({e})", "restore its files") from e
    backend = Backend(model)
    backend.normalizer = _lower(normalizers)
    split = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in (START[0], END[0])])
    return Tokenizer(backend.to_str())


@dataclass
class _Pieces:
    """What a SentencePiece model says: (piece, log probability), and how texts are normalised."""

    pieces: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    kinds: list[int] = dataclasses.field(default_factory=list)
    bpe: bool = False
    charsmap: bytes = b""
    prefix: bool = True


def _of_pieces(path: Path) -> str:
    """`tokenizer.json` of a SentencePiece unigram model; its end token pads, as in SigLIP."""
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    found = _read_pieces(path.read_bytes())
    if found.bpe:
        raise ValueError("a SentencePiece BPE model; unigram ones are read")
    unknown = found.kinds.index(2)  # UNKNOWN
    backend = Backend(models.Unigram(found.pieces, unknown, byte_fallback=6 in found.kinds))
    steps = [normalizers.Precompiled(found.charsmap)] if found.charsmap else []
    steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if found.prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    control = [p for (p, _), kind in zip(found.pieces, found.kinds) if kind in (2, 3)]
    backend.add_special_tokens([AddedToken(p, normalized=False, special=True) for p in control])
    return backend.to_str()


def _read_pieces(data: bytes) -> _Pieces:
    """Reads sentencepiece_model.proto: pieces (1), trainer (2), normaliser (3)."""
    found = _Pieces()
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            found.pieces.append((piece[1].decode(), score))
            found.kinds.append(piece.get(3, 1))
        elif number == 2:
            found.bpe = dict(_fields(value)).get(3, 1) != 1
        elif number == 3:
            own = dict(_fields(value))
            found.charsmap, found.prefix = own.get(2, b""), bool(own.get(3, 1))
    return found


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message of protocol buffers: number, and an int or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield key >> 3, data[at : at + size]
        at += size
