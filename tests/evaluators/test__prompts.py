import numpy as np
import pytest
from made_up_joint import Joint

from facejax.errors import UserError
from facejax.evaluators import _prompts


def test_a_class_is_the_normalised_mean_of_its_unit_texts():
    joint = Joint(lambda images: images, 6)
    phrases = (("a cat", "a tom"), ("a dog",))
    templates = ("a photo of {}.", "{}")
    found = _prompts.embed_phrases(joint, templates, phrases)
    for row, texts in zip(
        found,
        (
            ["a photo of a cat.", "{}".replace("{}", "a cat"), "a photo of a tom.", "a tom"],
            ["a photo of a dog.", "a dog"],
        ),
    ):
        each = np.stack([joint.text([text])[0] for text in texts]).astype(np.float64)
        each /= np.linalg.norm(each, axis=1, keepdims=True)
        mean = each.sum(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-12)


def test_names_make_phrases():
    man, smile, custom = _prompts.of_attributes(
        ("Male", "Smiling", "Odd_Thing"), {"Odd_Thing": (("an odd one",), ("a plain one",))}
    )
    assert man == (("a woman", "a lady"), ("a man", "a guy", "a gentleman"))
    assert smile[0] == ("a person not smiling", "a person without a smile")
    assert smile[1] == ("a person smiling", "a person with a smile")
    assert custom == (("a plain one",), ("an odd one",))
    assert _prompts.of_classes(("anger", "Female"), {}) == (
        ("an angry person",),
        ("a woman", "a lady"),
    )
    assert _prompts.of_classes(("m",), {"m": "a man"}) == (("a man",),)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: _prompts.of_classes(("m", "f"), {"m": "a man"}), "class 'f' has none"),
        (lambda: _prompts.of_classes(("m",), {"mm": "a man", "m": "x"}), "did you mean 'm'"),
        (lambda: _prompts.of_classes(("m",), {"m": ()}), "holds no phrase"),
        (lambda: _prompts.of_attributes(("A",), {"A": "one"}), "give a pair"),
        (lambda: _prompts.check_templates(("a photo",)), "no place for the class"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(make, told):
    with pytest.raises(UserError, match=told):
        make()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It shows a MAN.", 1),
        ("It shows a woman.", 0),
        ("a man and a woman", _prompts.UNPARSED),
        ("a human", _prompts.UNPARSED),
        ("this is not a man", _prompts.UNPARSED),
        ("no lady, but a  guy", 1),
        ("it isn't a man: a lady", 0),
        ("", _prompts.UNPARSED),
    ],
)
def test_an_answer_names_one_class_or_none(text, found):
    phrases = _prompts.bare(_prompts.of_attributes(("Male",), {})[0])
    assert _prompts.parse_answer(text, phrases) == found


def test_the_longest_of_overlapping_phrases_counts():
    smile = _prompts.bare(_prompts.of_attributes(("Smiling",), {})[0])
    assert _prompts.parse_answer("a man not smiling at all", smile) == 0
    assert _prompts.parse_answer("a man smiling", smile) == 1
    classes = (("hair",), ("wavy hair",))
    assert _prompts.parse_answer("she has wavy hair", classes) == 1
