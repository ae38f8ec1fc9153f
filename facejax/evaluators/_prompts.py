"""Texts that stand for classes, and the classes that a text names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from facejax.data import caption_words as say
from facejax.errors import UserError, nearest
from facejax.evaluators import Joint
from facejax.evaluators._metrics import unit

TEMPLATES = ("a photo of {}.", "a portrait of {}.", "a picture of {}.", "{}.")
UNPARSED = -1

_NEGATION = re.compile(r"(?:\b(?:not|no|never|without)|n't)(?: (?:a|an|the))? $")

Phrases = tuple[tuple[str, ...], ...]
"""What says each class of a target."""


def check_templates(templates: Sequence[str]) -> None:
    """Raises UserError unless each template holds one {}."""
    if not templates:
        raise UserError("templates", "are none", "give one or more, such as 'a photo of {}.'")
    for template in templates:
        if template.count("{}") != 1:
            told = f"'{template}' has no place for the class"
            raise UserError("templates", told, "write {} there, once")


def of_classes(names: Sequence[str], given: Mapping[str, Any]) -> Phrases:
    """Phrases of the classes of one field, in their order.

    Args:
        given: name -> a phrase or several; {}: by the names' words.

    Raises:
        UserError: a name that is no class, a class left out, or without a phrase.
    """
    _check_names(given, names)
    for name in names:
        if given and name not in given:
            raise UserError("prompts", f"class '{name}' has none", "give every class a phrase")
    return tuple(_phrases(f"prompts.{n}", given[n]) if given else _of_class(n) for n in names)


def of_attributes(names: Sequence[str], given: Mapping[str, Any]) -> tuple[Phrases, ...]:
    """Phrases of absence and of presence of each attribute.

    Args:
        given: name -> (phrases of presence, of absence); others are said by their names' words.

    Raises:
        UserError: a name that is no attribute, or one without both.
    """
    _check_names(given, names)
    found = []
    for name in names:
        if name not in given:
            found.append(tuple(_of_attribute(name, value) for value in (-1, 1)))
            continue
        both = given[name]
        if isinstance(both, str) or len(both) != 2:
            told = f"'{name}' needs phrases of presence and phrases of absence"
            raise UserError(f"prompts.{name}", told, "give a pair")
        found.append(tuple(_phrases(f"prompts.{name}", side) for side in both[::-1]))
    return tuple(found)


def embed_texts(joint: Joint, texts: Sequence[str]) -> np.ndarray:
    """Unit rows f64[n, D].

    Raises:
        UserError: a text has no finite embedding.
    """
    rows = np.asarray(joint.text(texts), np.float64)
    lost = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if lost.size:
        told = f"{lost.size} of {len(texts)} have no finite embedding, such as '{texts[lost[0]]}'"
        raise UserError("texts", told, "check the text tower's weights")
    return unit(rows)


def embed_phrases(joint: Joint, templates: Sequence[str], phrases: Phrases) -> np.ndarray:
    """One unit row f64[C, D] for each class: normalise, mean over its texts, normalise."""
    texts = [[t.replace("{}", p) for p in several for t in templates] for several in phrases]
    ends = np.cumsum([len(several) for several in texts])
    rows = embed_texts(joint, [text for several in texts for text in several])
    return unit(np.stack([part.mean(axis=0) for part in np.split(rows, ends[:-1])]))


def parse_answer(text: str, phrases: Phrases) -> int:
    """The class that a generated text names, or UNPARSED where it names none or several.

    Of phrases that overlap the first and longest counts, as whole words: "not smiling" is no
    "smiling", where both are phrases. A phrase after "no", "not", "never" or "without" names
    nothing.
    """
    owner = {phrase.lower(): k for k, several in enumerate(phrases) for phrase in several}
    longest = sorted(owner, key=len, reverse=True)
    pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)"
    text = " ".join(text.lower().split())
    named = {
        owner[m[0]] for m in re.finditer(pattern, text) if not _NEGATION.search(text[: m.start()])
    }
    return named.pop() if len(named) == 1 else UNPARSED


def bare(phrases: Phrases) -> Phrases:
    """The phrases without articles and "person", as answers may hold them."""
    return tuple(tuple(dict.fromkeys(_short(several))) for several in phrases)


def _short(several: Sequence[str]) -> Iterator[str]:
    for phrase in several:
        yield re.sub(r"^(?:an?|the) (?:person )?| person$", "", phrase)


def _of_class(name: str) -> tuple[str, ...]:
    plain = say.words(name)
    part, sign = say.SUBJECTS.get(plain, ("", 0))
    if part == say.SEX:
        return tuple(map(say.with_article, say.NOUNS[sign]))
    return (say.with_article(f"{say.EXPRESSIONS.get(plain, plain)} person"),)


def _of_attribute(name: str, value: int) -> tuple[str, ...]:
    part, sign = say.SUBJECTS.get(say.words(name), ("", 0))
    if part:
        sex, youth = (sign * value, 0) if part == say.SEX else (0, sign * value)
        pairs = product(say.ADJECTIVES[youth], say.NOUNS[sex] if sex else ("person",))
        return tuple(say.with_article(" ".join(pair).strip()) for pair in pairs)
    clauses, plain = say.of_attribute(name)
    clauses = clauses or (plain,)
    return tuple(f"a person {c if value > 0 else say.negated(c)}" for c in clauses)


def _check_names(given: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            raise UserError(f"prompts.{name}", "no such label", nearest(name, names))


def _phrases(where: str, given: str | Sequence[str]) -> tuple[str, ...]:
    several = (given,) if isinstance(given, str) else tuple(given)
    if not several or not all(isinstance(p, str) and p.strip() for p in several):
        raise UserError(where, "holds no phrase", "give one or more")
    return several
