"""Captions to ids: which of several is a matter of the position; blank ones are no texts."""

import numpy as np
import pytest
from test_pipeline import Numbers, mixture

from facejax import tokenizer
from facejax.data import pipeline
from facejax.data.order import make_order
from facejax.data.records import Field
from facejax.data.texts import Texts

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
        options = {"size": 4, "global_batch": 6, "rows": np.asarray(rows), "steps": 20}
        return list(
            pipeline.batches(mix, order, **options, start=start, fields=("text",), texts=texts)
        )

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
