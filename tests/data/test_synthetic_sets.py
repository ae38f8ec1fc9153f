"""Synthetic pictures of several people, and changes told from one picture to the next."""

import dataclasses

import numpy as np
import pytest

from facejax.data.sources import _synthetic_words as words
from facejax.data.sources import synthetic
from facejax.data.sources._synthetic_crowd import name
from facejax.data.sources._synthetic_factors import PARAMS
from facejax.errors import UserError

CROWD = synthetic.Config(n=60, identities=10, size=16, crowd=3, strangers=0.3)
MOVE = {"glasses": (0.0, 1.0), "expression": (0.0, 1.0, 2.0)}
CHANGES = synthetic.Config(n=12, identities=2, size=16, move=MOVE, changes=True, hold=("glasses",))


def test_pictures_of_one_two_and_three_people_all_different():
    source = synthetic.open(CROWD)
    records = source.read(range(60))
    pictures = [[r["identity"] for r in records if r["picture"] == p] for p in range(30)]
    assert [len(people) for people in pictures] == [1, 2, 3] * 10
    assert all(len(set(people)) == len(people) for people in pictures)
    assert len({tuple(people) for people in pictures}) > 15
    assert source.fields["picture"].classes == 30
    assert source.identities().tolist() == [r["identity"] for r in records]
    for record in records:
        assert record["name"] == (record["identity"] if record["identity"] < 7 else -1)
    # A person looks otherwise in another picture.
    shown = [r["image"] for r in records if r["identity"] == 0]
    assert len(shown) > 1
    assert (shown[0] != shown[1]).any()


def test_people_have_names_of_their_own():
    names = [name(person) for person in range(3000)]
    assert len(set(names)) == 3000
    assert synthetic.open(CROWD).fields["name"].names == tuple(names[:7])
    others = dataclasses.replace(CROWD, first_identity=100)
    assert synthetic.open(others).fields["name"].names[0] == name(100)


def test_captions_tell_the_next_level_and_generated_shows_it():
    records = synthetic.open(CHANGES).read(range(12))
    # Two levels, then three, then the same of the next face, and a first level without a second.
    assert [r["target"] for r in records] == [1, -1, 3, 4, -1, 6, -1, 8, 9, -1, 11, -1]
    for record in records:
        if record["target"] < 0:
            assert record["caption"] == ""
            continue
        target = records[record["target"]]
        assert (target["face"], target["factor"]) == (record["face"], record["factor"])
        np.testing.assert_array_equal(record["generated"], target["image"])
        assert (record["image"] != target["image"]).any()
    assert "with eyeglasses" in records[0]["caption"]
    assert "sadness" in records[3]["caption"]


def test_every_parameter_has_words_for_both_ways():
    told = set()
    for parameter, param in PARAMS.items():
        low, high = (0, param.classes - 1) if param.classes else (param.low, param.high)
        both = [words.change(parameter, *ends, 2) for ends in ((low, high), (high, low))]
        assert len({*both, *told}) == len(told) + 2, parameter
        told |= {*both}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"crowd": 11}, "crowd: 11 people of 10"),
        ({"clip": 2}, "crowd: beside clips"),
        ({"strangers": 1.0}, "strangers: .* nobody with a name"),
        ({"crowd": 0, "changes": True}, "changes: nothing moves"),
    ],
)
def test_mistakes_are_user_errors(keys, told):
    with pytest.raises(UserError, match=told):
        synthetic.open(dataclasses.replace(CROWD, **keys))
