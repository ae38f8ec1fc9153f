"""Captions to ids: which of several is a matter of the position; blank ones are no texts."""

import numpy as np
import pytest
from test_pipeline import Numbers, mixture

from facejax import tokenizer
from facejax.data import pipeline
from facejax.data.order import make_order
from facejax.data.pipeline import BatchSpec
from facejax.data.records import Field
from facejax.data.texts import Texts, given

CAPTIONS = [("a man", "an old man", " "), "a woman", "", ("", "  "), None, "a very long text " * 9]


class Captioned(Numbers):
    """Its record `i` has the caption `i`."""

    def __init__(self):
        super().__init__(len(CAPTIONS), fields={"caption": Field((), "str")})

    def read(self, indices):
        found = super().read(indices)
        return [
            r if CAPTIONS[i] is None else r | {"caption": CAPTIONS[i]}
            for i, r in zip(indices, found)
        ]


@pytest.fixture(scope="module")
def texts():
    return Texts(tokenizer.train(["a man", "an old man", "a woman"], vocab=300), 12, seed=7)


def test_rows_get_one_of_their_captions_wherever_they_are_read(texts):
    mix = mixture(Captioned())
    order = make_order(mix, 0, "sequential")

    def read(rows, start=0):
        wanted = BatchSpec(4, 6, np.asarray(rows), ("text",), texts)
        return list(pipeline.batches(mix, order, wanted, start=start, steps=20))

    whole = read(range(6))
    first = {texts.tokenizer.decode(batch.arrays["text"][0]).strip() for batch in whole}
    assert first == {"a man", "an old man"}
    for batch in whole:
        assert batch.arrays.keys() == {"image", "text", "has_text"}
        assert batch.arrays["text"].dtype == np.int32
        assert batch.arrays["has_text"].tolist() == [True, True, False, False, False, True]
        assert batch.cut == 1
        assert batch.arrays["text"][5, -1] == texts.tokenizer.end
    for n, batch in enumerate(read([0, 3], start=9), start=9):
        np.testing.assert_array_equal(batch.arrays["text"], whole[n].arrays["text"][[0, 3]])


class Named(Numbers):
    """Its record `i` names `i` people, of two at most."""

    def __init__(self):
        super().__init__(3, fields={"names": Field((2,), "str", many=True)})

    def read(self, indices):
        people = ("a man", "a very long woman " * 3)
        return [r | {"names": people[:i]} for i, r in zip(indices, super().read(indices))]


def test_names_of_a_picture_become_rows_of_ids(texts):
    mix = mixture(Named())
    wanted = BatchSpec(4, 3, np.arange(3), ("names",), texts)
    (batch,) = pipeline.batches(mix, make_order(mix, 0, "sequential"), wanted, steps=1)
    ids = batch.arrays["names"]
    assert (ids.shape, ids.dtype) == ((3, 2, 12), np.int32)
    assert batch.arrays["count_names"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(ids[1, 0], texts.tokenizer.encode(["a man"], 12)[0])
    np.testing.assert_array_equal(ids[2, 0], ids[1, 0])
    assert batch.cut == 1
    shape = given(mix.fields, 12)["names"]
    assert (shape.shape, shape.dtype, shape.many) == ((2, 12), "int32", True)
