"""Captions written from labels, and the labels read back from them.

What is written is a function of the seed, the record and the caption's number alone: a random part
of the labels in a random order, in one of several ways of saying each. `Writer.read` gives exactly
the labels that a caption mentions, whatever the attributes are called.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from facejax.data import caption_words as say
from facejax.data.records import BadRecord, Field, Record, Source
from facejax.data.sampling import seed_of

MOST = 8
"""Labels of a caption at most."""
_WEIGHTS = {-1: 0.15, 0: 1.0, 1: 1.0}
_SUBJECT_WEIGHT = 3.0

Fact = tuple[str, Any, int]
"""One label: ("attribute", name, +1 or -1), ("age", None, years), ("expression", name, 1) or
("unit", number, -1 or 1 to 5)."""


@dataclass(frozen=True)
class Labels:
    """What is known of a face.

    Attributes:
        attributes: name -> +1 or -1.
        age: in whole years.
        expression: name of its class.
        units: number of the action unit -> intensity 1 to 5 (A to E), -1 where it is at rest.
    """

    attributes: Mapping[str, int] = field(default_factory=dict)
    age: int | None = None
    expression: str | None = None
    units: Mapping[int, int] = field(default_factory=dict)

    @property
    def facts(self) -> list[Fact]:
        found: list[Fact] = [("attribute", name, value) for name, value in self.attributes.items()]
        found += [] if self.age is None else [("age", None, self.age)]
        found += [] if self.expression is None else [("expression", self.expression, 1)]
        return found + [("unit", number, value) for number, value in self.units.items()]

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> "Labels":
        """The labels that these facts are."""
        kinds: dict[str, dict] = {"attribute": {}, "age": {}, "expression": {}, "unit": {}}
        for kind, name, value in facts:
            kinds[kind][name] = value
        age, expression = kinds["age"].get(None), next(iter(kinds["expression"]), None)
        return cls(kinds["attribute"], age, expression, kinds["unit"])


class Writer:
    """Writes and reads captions of the labels of one set.

    No two labels share a clause: where their names read alike, the later one is numbered.

    Args:
        attributes: their names.
        expressions: names of the expression classes.
        units: numbers of the action units.
    """

    def __init__(
        self,
        attributes: Sequence[str],
        expressions: Sequence[str] = (),
        units: Sequence[int] = (),
    ):
        self._clauses: dict[Fact, tuple[str, ...]] = {}
        self._meaning: dict[str, Fact] = {}
        self._subject: dict[str, tuple[str, int]] = {}
        for name in attributes:
            part, sign = say.SUBJECTS.get(say.words(name), (None, 0))
            if part and part not in {p for p, _ in self._subject.values()}:
                self._subject[name] = part, sign
        for name in attributes:
            if name not in self._subject:
                good, plain = say.of_attribute(name)
                self._claim(("attribute", name, 1), good, plain)
                opposite = tuple(map(say.negated, good)), say.negated(plain)
                self._claim(("attribute", name, -1), *opposite)
        for name in expressions:
            self._claim(("expression", name, 1), *say.of_expression(name))
        for number, value in product(units, (-1, *say.INTENSITIES)):
            clauses = say.of_unit(number, value)
            self._claim(("unit", number, value), clauses, clauses[0])
        self._subjects = {
            say.with_article(f"{adjective} {noun}".strip()): {say.SEX: sex, say.YOUTH: youth}
            for sex, youth in product(say.NOUNS, say.ADJECTIVES)
            for noun, adjective in product(say.NOUNS[sex], say.ADJECTIVES[youth])
        }

    def _claim(self, fact: Fact, clauses: tuple[str, ...], plain: str) -> None:
        taken = self._meaning.keys()
        free = tuple(c for c in clauses if c not in taken) or tuple({plain} - taken)
        number = 2
        while not free:  # words hold no brackets, so that a numbered clause is nobody's name
            free = tuple({f"{plain} ({number})"} - taken)
            number += 1
        self._clauses[fact] = free
        self._meaning |= dict.fromkeys(free, fact)

    def choose(self, labels: Labels, *key: int) -> Labels:
        """The labels that `write` mentions; one or more, `MOST` at most, if any is known.

        What a face does not have is mentioned more rarely than what it has, for most attributes of
        a face are absent.
        """
        return Labels.of(self._chosen(labels, _random(key)))

    def write(self, labels: Labels, *key: int) -> str:
        """A caption.

        Args:
            labels: of the attributes, expressions and units that the writer was made for.
            key: what it depends on: seed, record, number of the caption.
        """
        draw = _random(key)
        subject, clauses = {say.SEX: 0, say.YOUTH: 0}, []
        for kind, name, value in self._chosen(labels, draw):
            if kind == "attribute" and name in self._subject:
                part, sign = self._subject[name]
                subject[part] = sign * value
            elif kind == "age":
                clauses.append(_pick(draw, say.AGES).format(value))
            else:
                clauses.append(_pick(draw, self._clauses[kind, name, value]))
        adjective = _pick(draw, say.ADJECTIVES[subject[say.YOUTH]])
        noun = _pick(draw, say.NOUNS[subject[say.SEX]])
        text = f"{_pick(draw, say.OPENINGS)} {say.with_article(f'{adjective} {noun}'.strip())}"
        if clauses:
            last = _pick(draw, ("", "and ")) if clauses[1:] else ""
            text += _pick(draw, (" ", ", ")) + ", ".join([*clauses[:-1], last + clauses[-1]])
        return text.strip() + _pick(draw, ("", "."))

    def read(self, text: str) -> Labels:
        """The labels that a caption mentions.

        Raises:
            ValueError: it holds what `write` doesn't write.
        """
        rest = text.strip().lower().removesuffix(".")
        openings = (o for o in say.OPENINGS if rest.startswith(f"{o} ") or not o)
        rest = rest.removeprefix(next(openings)).strip()
        subjects = [s for s in self._subjects if re.match(rf"{re.escape(s)}(?![^ ,])", rest)]
        if not subjects:
            raise ValueError(f"says of nobody what it says: '{text}'")
        subject = max(subjects, key=len)
        said = self._subjects[subject]
        facts: list[Fact] = [
            ("attribute", name, sign * said[part])
            for name, (part, sign) in self._subject.items()
            if said[part]
        ]
        clauses = [c for c in rest.removeprefix(subject).strip(" ,").split(", ") if c]
        return Labels.of(facts + [self._fact(clause) for clause in clauses])

    def _fact(self, clause: str) -> Fact:
        clause = clause.removeprefix("and ")
        if clause in self._meaning:
            return self._meaning[clause]
        for template in say.AGES:
            if told := re.fullmatch(template.format(r"(\d+)"), clause, re.ASCII):
                return "age", None, int(told[1])
        raise ValueError(f"no label is called '{clause}'")

    def _chosen(self, labels: Labels, draw: random.Random) -> list[Fact]:
        facts = labels.facts
        count = 1 + int(draw.random() * min(MOST, len(facts)))
        # The largest of u ** (1 / w): weighted, without replacement (Efraimidis & Spirakis 2006).
        keys = [draw.random() ** (1 / self._weight(fact)) for fact in facts]
        order = sorted(range(len(facts)), key=keys.__getitem__, reverse=True)
        shown = sorted(order[:count], key=lambda _: draw.random())
        return [facts[i] for i in shown]

    def _weight(self, fact: Fact) -> float:
        kind, name, value = fact
        if kind == "attribute" and name in self._subject:
            return _SUBJECT_WEIGHT
        return _WEIGHTS[min(value, 1)]


def _random(key: Sequence[int]) -> random.Random:
    return random.Random(seed_of("captions", *key))


def _pick(draw: random.Random, options: Sequence[str]) -> str:
    return options[int(draw.random() * len(options))]


class Captioned:
    """A source with captions written from its labels, in place of any that it has.

    Args:
        source: with attributes; its age, expression and action units are told too.
        count: captions of each record.
        seed: other captions.
    """

    def __init__(self, source: Source, count: int, seed: int):
        self._source, self._count, self._seed = source, count, seed
        self.fields = source.fields | {"caption": Field(dtype="str")}
        fields = source.fields
        self._attributes = _names(fields["attributes"], fields["attributes"].shape[0])
        expression = fields.get("expression", Field())
        self._expressions = _names(expression, expression.classes)
        units = fields.get("units", Field()).names
        self._units = [int(name.removeprefix("AU")) for name in units]
        self.writer = Writer(self._attributes, self._expressions, self._units)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)  # what only some sources offer

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        records = self._source.read(indices)
        return [self._with_captions(int(i), r) for i, r in zip(indices, records)]

    def labels(self, record: Record) -> Labels:
        """What a record's captions may mention; ages are rounded to whole years."""
        values = record.get("attributes", ())
        expression, age = record.get("expression", -1), record.get("age")
        return Labels(
            {name: int(v) for name, v in zip(self._attributes, values) if v},
            None if age is None else round(float(age)),
            None if expression < 0 else self._expressions[expression],
            {number: int(v) for number, v in zip(self._units, record.get("units", ())) if v},
        )

    def _with_captions(self, index: int, record: Record | BadRecord) -> Record | BadRecord:
        if isinstance(record, BadRecord):
            return record
        rest = {name: value for name, value in record.items() if name != "caption"}
        labels = self.labels(record)
        if not labels.facts:
            return rest
        numbers = range(self._count)
        written = tuple(self.writer.write(labels, self._seed, index, n) for n in numbers)
        return rest | {"caption": written}


def _names(field: Field, count: int) -> tuple[str, ...]:
    return field.names or tuple(map(str, range(count)))
