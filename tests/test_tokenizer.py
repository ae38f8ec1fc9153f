"""Texts to ids: what is learned, CLIP's files, SentencePiece models, what is cut and refused."""

import io
import json
import struct

import numpy as np
import pytest

from facejax import tokenizer
from facejax.errors import UserError

TEXTS = ["A young woman with long, wavy hair.", "an old man who smiles", "  TWO   spaces", "né ☺"]


@pytest.fixture(scope="module")
def learned():
    return tokenizer.train(TEXTS * 3, vocab=320)


def test_what_is_learned_reads_back_every_text(learned, tmp_path):
    ids = learned.encode([*TEXTS, "", "日本"], 60)
    assert ids.dtype == np.int32
    assert (ids[:, 0] == learned.start).all()
    assert ((ids == learned.end).sum(1) == 1).all()
    for text, row in zip([*TEXTS, "", "日本"], ids):
        assert learned.decode(row).strip() == " ".join(text.lower().split())
    assert ids.max() < learned.vocab <= 320
    assert (learned.start, learned.end, learned.pad) == (0, 1, 2)
    learned.save(tmp_path / "tokenizer.json")
    again = tokenizer.load(tmp_path / "tokenizer.json")
    assert again.digest == learned.digest == tokenizer.load(tmp_path).digest
    np.testing.assert_array_equal(again.encode(TEXTS, 60), learned.encode(TEXTS, 60))
    assert tokenizer.train(TEXTS, vocab=300).digest != learned.digest
    framed = learned.with_frame()
    assert framed.digest == learned.digest
    assert framed._backend.encode(TEXTS[1]).ids == ids[1][ids[1] != learned.pad].tolist()


def test_what_is_too_long_is_cut_and_counted(learned):
    ids, cut = learned.encode_counted(["an old man " * 9, "an old man"], 8)
    assert cut.tolist() == [True, False]
    assert ids[0, -1] == learned.end
    np.testing.assert_array_equal(ids[0, :3], ids[1, :3])
    assert learned.encode([], 8).shape == (0, 8)


def clip_files(folder):
    """A small BPE in CLIP's two files: bytes, bytes that end a word, a few merges."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "n</w>"), ("m", "an</w>"), ("o", "l"), ("ol", "d</w>")]
    vocab = [*letters, *(c + "</w>" for c in letters), *map("".join, merges)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}))
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return vocab


def test_files_of_clip(tmp_path):
    vocab = clip_files(tmp_path)
    read = tokenizer.load(tmp_path)
    (row,) = read.encode(["An OLD man's"], 10)
    want = ["<|startoftext|>", "an</w>", "old</w>", "man</w>", "'", "s</w>"]
    want += ["<|endoftext|>"] * 4
    assert [vocab[i] for i in row] == want


@pytest.mark.torch
def test_files_of_clip_read_as_transformers_reads_them(tmp_path):
    transformers = pytest.importorskip("transformers")
    clip_files(tmp_path)
    theirs = transformers.CLIPTokenizerFast.from_pretrained(str(tmp_path))
    texts = [*TEXTS, "it's 2 o'clock!!", "<|endoftext|> within"]
    found = theirs(texts, padding="max_length", max_length=40, truncation=True)["input_ids"]
    np.testing.assert_array_equal(tokenizer.load(tmp_path).encode(texts, 40), found)


def message(*fields) -> bytes:
    """Protocol buffers by hand: (number, int, float, str or bytes)."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += bytes([number << 3, value])
        elif isinstance(value, float):
            out += bytes([number << 3 | 5]) + struct.pack("<f", value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += bytes([number << 3 | 2, len(data)]) + data
    return out


def test_sentencepiece_takes_the_likeliest_pieces(tmp_path):
    pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("▁old", -2.0, 1)]
    pieces += [("▁o", -3.0, 1), ("ld", -3.0, 1), ("▁man", -2.5, 1), ("s", -4.0, 1)]
    data = b"".join(message((1, message((1, p), (2, s), (3, k)))) for p, s, k in pieces)
    path = tmp_path / "spiece.model"
    path.write_bytes(data + message((2, message((3, 1)))) + message((3, message((3, 1)))))
    read = tokenizer.load(path)
    np.testing.assert_array_equal(read.encode(["old  mans", "x"], 6)[0], [3, 6, 7, 1, 1, 1])
    assert read.encode(["old", "☺"], 6)[1].tolist()[-3:] == [1, 1, 1]
    assert (read.start, read.end, read.pad, read.vocab) == (None, 1, 1, 8)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    for path, content, what in (
        ("absent.json", None, "no such tokenizer"),
        ("broken.json", "{", "not a tokenizer"),
        ("broken.model", "\x0a\xff", "not a tokenizer"),
    ):
        if content is not None:
            (tmp_path / path).write_text(content)
        with pytest.raises(UserError, match=what):
            tokenizer.load(tmp_path / path)
    with pytest.raises(UserError, match=r"vocab\.json: not there"):
        tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="give 260 or more"):
        tokenizer.train(["a"], vocab=100)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byte_fallback": True, "vocab_size": 330},
        {"add_dummy_prefix": False},
        {"normalization_rule_name": "nmt_nfkc_cf"},
        {"normalization_rule_name": "identity"},
    ],
)
def test_unigram_pieces_are_those_of_sentencepiece(options, tmp_path):
    pieces = pytest.importorskip("sentencepiece")
    texts = ["a young woman with wavy hair", "an old man who smiles", "a café; the man's red hat"]
    written = io.BytesIO()
    pieces.SentencePieceTrainer.train(
        **{"sentence_iterator": iter(texts * 20), "model_writer": written, "minloglevel": 2},
        **{"model_type": "unigram", "hard_vocab_limit": False, "vocab_size": 60, **options},
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    )
    (tmp_path / "spiece.model").write_bytes(written.getvalue())
    read = tokenizer.load(tmp_path / "spiece.model")
    theirs = pieces.SentencePieceProcessor(model_proto=written.getvalue())
    for text in ("An OLD man", "  two  spaces \t tab ", "", "unknown Ж é ﬁ", "ＡＢ the woman's"):
        row = read.encode([text], 64)[0].tolist()
        assert row[: row.index(read.end)] == theirs.encode(text), text
