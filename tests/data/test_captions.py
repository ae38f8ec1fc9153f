"""Every label that a caption mentions is read back from it, whatever it is called."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pipeline import Numbers

from facejax.data.caption_words import words
from facejax.data.captions import MOST, Captioned, Labels, Writer
from facejax.data.mixture import open_source
from facejax.data.records import Field
from facejax.errors import UserError

_NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)
CELEBA = _NAMES.split()
AWKWARD = (
    "male", "Man", "Female", "beard", "hat", "Hat", "Black", "White", "Black_and_White", "and",
    "Not_Smiling", "with", "smiling (2)", "Smiling_2", "aged 30", "***", "***!", "Ärmel", "a, b",
)  # fmt: skip
UNITS = (1, 12, 99)
KEYS = st.tuples(*[st.integers(0, 2**40)] * 3)


def some_labels(names, units=()):
    signs = st.sampled_from((-1, 1))
    return st.builds(
        Labels,
        st.dictionaries(st.sampled_from(names), signs) if names else st.just({}),
        st.none() | st.integers(0, 120),
        st.sampled_from((None, "happiness", "happy", "Joy", "neutral", "7")),
        st.dictionaries(st.sampled_from(units), st.sampled_from((-1, 1, 2, 3, 4, 5)))
        if units
        else st.just({}),
    )


WRITER = Writer((*CELEBA, *AWKWARD), ("happiness", "happy", "Joy", "neutral", "7"), UNITS)


@given(some_labels((*CELEBA, *AWKWARD), UNITS), KEYS)
@settings(max_examples=400)
def test_reading_gives_what_was_mentioned(labels, key):
    mentioned = WRITER.choose(labels, *key)
    text = WRITER.write(labels, *key)
    assert WRITER.read(text) == mentioned
    assert set(mentioned.facts) <= set(labels.facts)
    assert min(len(labels.facts), 1) <= len(mentioned.facts) <= MOST
    assert WRITER.write(labels, *key) == text


@given(st.data(), st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=6), KEYS)
@settings(max_examples=300)
def test_names_may_be_anything(data, names, key):
    writer = Writer(names, ("happy", "happiness", "Joy", "neutral", "7"))
    labels = data.draw(some_labels(names))
    assert writer.read(writer.write(labels, *key)) == writer.choose(labels, *key)


def test_celeba_in_sentences_that_vary():
    labels = Labels({name: 1 if name in ("Male", "Wavy_Hair") else -1 for name in CELEBA}, 34)
    writer = Writer(CELEBA)
    texts = [writer.write(labels, 0, 0, n) for n in range(400)]
    assert len(set(texts)) > 390
    assert all("_" not in t and t == t.lower() and "  " not in t for t in texts)
    told = Counter(f[:2] for n in range(400) for f in writer.choose(labels, 0, 0, n).facts)
    assert len(told) == 41  # each is mentioned some time
    assert told["attribute", "Wavy_Hair"] > 2 * told["attribute", "Straight_Hair"]
    assert any(" man" in t for t in texts)
    assert not any("woman" in t for t in texts)
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert writer.write(labels, *other) != texts[0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("BagsUnderEyes", "bags under eyes"),
        ("5_o_Clock_Shadow", "5 o clock shadow"),
        ("Ärmel-länge", "ärmel länge"),
        ("**", "something"),
    ],
)
def test_the_words_of_a_name(name, told):
    assert words(name) == told


def test_intensities_have_words_of_their_own():
    writer = Writer((), (), (12,))
    seen = {}
    for value in (-1, 1, 2, 3, 4, 5):
        for n in range(40):
            text = writer.write(Labels(units={12: value}), 0, 0, n)
            assert seen.setdefault(text, value) == value
    assert any("a trace of pulling of the lip corners" in text for text in seen)


@pytest.mark.parametrize(
    "text", ["", "a photo of", "a man, with a sail", "the moon", "a mandolin", "a man, aged x"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"says of nobody|no label"):
        WRITER.read(text)


class Labelled(Numbers):
    """Records with attributes, of which the fourth's are unknown."""

    def __init__(self):
        fields = {
            "attributes": Field((2,), "int8", names=("Male", "Bald")),
            "age": Field(),
            "caption": Field((), "str"),
        }
        super().__init__(4, fields=fields)

    def read(self, indices):
        found = []
        for i, record in zip(indices, super().read(indices)):
            values = np.array([[1, -1], [-1, -1], [0, 1], [0, 0]][i], np.int8)
            record |= {"attributes": values, "caption": "old"}
            found.append(record | ({"age": 30.6} if i == 0 else {}))
        return found


def test_a_set_of_attributes_becomes_one_of_captions():
    source = Captioned(Labelled(), 4, seed=1)
    assert source.fields["caption"] == Field(dtype="str")
    a, b, c, nothing = source.read(range(4))
    assert "caption" not in nothing
    assert len(a["caption"]) == 4
    for text in (*a["caption"], *b["caption"], *c["caption"]):
        assert source.writer.read(text).attributes.keys() <= {"Male", "Bald"}
    ages = {source.writer.read(text).age for text in a["caption"]}
    assert ages <= {None, 31}
    assert {source.writer.read(t).attributes["Bald"] for t in c["caption"]} == {1}
    assert source.read([2])[0]["caption"] == c["caption"]
    assert Captioned(Labelled(), 4, seed=2).read([2])[0]["caption"] != c["caption"]
    assert Captioned(Labelled(), 6, seed=1).read([2])[0]["caption"][:4] == c["caption"]


def test_any_source_by_a_key_of_its_dict():
    made = {"name": "synthetic", "n": 4, "identities": 2, "size": 16}
    entry = open_source({**made, "caption_from": "attributes", "caption_count": 2}, "x")
    (record,) = entry.source.read([3])
    assert len(record["caption"]) == 2
    entry.source.writer.read(record["caption"][1])
    assert entry.source.identities().tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError, match=r"x\.caption_count: 0 captions"):
        open_source({**made, "caption_from": "attributes", "caption_count": 0}, "x")


def test_a_set_without_attributes_is_refused(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    spec = {"name": "folder", "path": str(tmp_path), "caption_from": "attributes"}
    with pytest.raises(UserError, match=r"x\.caption_from: 'plain' gives no attributes"):
        open_source({**spec, "label": "plain"}, "x")
