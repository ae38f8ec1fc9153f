from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_faces import Faces, person

from facejax.errors import UserError
from facejax.evaluators import linear_probe

PEOPLE, EACH = 200, 2
FACTORS = np.random.default_rng(0).normal(size=(PEOPLE, 8))  # what each person looks like


def factors(images):
    return FACTORS[person(images)].astype(np.float32)


def noise(images):
    rng = np.random.default_rng(1)
    return rng.normal(size=(PEOPLE, 8)).astype(np.float32)[person(images)]


@pytest.fixture(scope="module")
def set_up(tmp_path_factory):
    """Pictures, attributes that the factors decide, and one that depends on nothing."""
    faces = Faces(tmp_path_factory.mktemp("faces"), PEOPLE, EACH).write()
    coin = np.random.default_rng(2).choice([-1, 1], PEOPLE)
    lines = ["file,Plain,Rare,Coin"]
    for p in range(PEOPLE):
        plain = 1 if FACTORS[p, 0] + FACTORS[p, 1] > 0 else -1
        rare = 1 if FACTORS[p, 2] > 1 else -1
        lines += [f"{faces.name(p, i)},{plain},{rare},{coin[p]}" for i in range(1, EACH + 1)]
    labels = faces.root / "attributes.csv"
    labels.write_text("\n".join(lines))
    return faces, linear_probe.Config(faces.images, str(labels), bootstrap=100)


def rewritten(cfg, tmp_path, change):
    """The config on a label file whose rows (lists of str) `change` has altered."""
    rows = [line.split(",") for line in Path(cfg.labels).read_text().splitlines()]
    (tmp_path / "labels.csv").write_text("\n".join(",".join(row) for row in change(rows)))
    return replace(cfg, labels=str(tmp_path / "labels.csv"))


def number_of(name: str) -> int:
    """P012/P012_0001.png -> 12"""
    return int(name[1 : name.index("/")])


def names_of(data) -> list[str]:
    return [data.pictures.source.name(row) for row in data.rows]


def evaluate(cfg, embed):
    return linear_probe.run(cfg, linear_probe.prepare(cfg, 8), embed)


def test_recovers_planted_attributes_and_nothing_else(set_up):
    metrics = evaluate(set_up[1], factors).metrics
    assert metrics["balanced_accuracy/Plain"] > 0.93
    assert metrics["balanced_accuracy/Rare"] > 0.85
    assert 0.3 < metrics["balanced_accuracy/Coin"] < 0.7
    each = [metrics[f"balanced_accuracy/{name}"] for name in ("Plain", "Rare", "Coin")]
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(each))
    assert metrics["balanced_accuracy_low"] < metrics["balanced_accuracy"]
    assert metrics["mean_accuracy"] > metrics["mean_accuracy@majority"]


def test_noise_is_at_chance_in_balanced_accuracy_and_at_the_majority_in_accuracy(set_up, tmp_path):
    often = np.where(np.arange(40) % 2, 0.5, 0.2)
    drawn = np.where(np.random.default_rng(3).random((PEOPLE, 40)) < often, "1", "-1")

    def forty(rows):
        return [
            ["file", *(f"A{a}" for a in range(40))],
            *([r[0], *drawn[number_of(r[0])]] for r in rows[1:]),
        ]

    metrics = evaluate(rewritten(set_up[1], tmp_path, forty), noise).metrics
    assert metrics["balanced_accuracy"] == pytest.approx(0.5, abs=0.04)
    assert metrics["mean_accuracy"] == pytest.approx(metrics["mean_accuracy@majority"], abs=0.05)
    assert metrics["mean_accuracy"] > 0.58


def test_constant_embeddings_score_one_half(set_up):
    metrics = evaluate(set_up[1], lambda images: np.ones((len(images), 4), np.float32)).metrics
    assert metrics["balanced_accuracy"] == 0.5
    assert metrics["mean_accuracy"] == metrics["mean_accuracy@majority"]


def test_numbers_follow_from_the_items_by_their_definitions(set_up):
    result = evaluate(set_up[1], factors)
    label, balanced = result.items["label"], result.items["balanced"]
    for a, name in enumerate(("Plain", "Rare", "Coin")):
        positive = label[:, a] == 1
        expected = (balanced[positive, a].mean() + balanced[~positive, a].mean()) / 2
        assert result.metrics[f"balanced_accuracy/{name}"] == pytest.approx(expected)
    accuracy = result.items["correct"].mean(axis=0).mean()
    assert result.metrics["mean_accuracy"] == pytest.approx(accuracy)


def test_nobody_in_the_test_part_is_in_another(set_up):
    data = linear_probe.prepare(set_up[1], 8)
    parts = [set(data.people[data.part == p]) for p in range(3)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == PEOPLE
    assert [len(p) / PEOPLE for p in parts] == pytest.approx([0.6, 0.2, 0.2], abs=0.1)


def test_the_test_part_never_reaches_the_fit(set_up, tmp_path):
    data = linear_probe.prepare(set_up[1], 8)
    test = {name for name, part in zip(names_of(data), data.part) if part == linear_probe.TEST}

    def flipped(rows):
        return [r[:1] + [str(-int(v)) for v in r[1:]] if r[0] in test else r for r in rows]

    right = evaluate(set_up[1], factors).items["correct"]
    wrong = evaluate(rewritten(set_up[1], tmp_path, flipped), factors).items["correct"]
    np.testing.assert_array_equal(right, ~wrong)


@pytest.mark.parametrize("part", [linear_probe.TRAIN, linear_probe.TEST])
def test_an_attribute_of_one_class_is_named_and_in_no_mean(set_up, tmp_path, part):
    data = linear_probe.prepare(set_up[1], 8)
    there = {name for name, p in zip(names_of(data), data.part) if p == part}

    def one_class(rows):
        return [[r[0], r[1], "-1", r[3]] if r[0] in there else r for r in rows]

    metrics = evaluate(rewritten(set_up[1], tmp_path, one_class), factors).metrics
    assert metrics["skipped/Rare"] == 1
    assert "balanced_accuracy/Rare" not in metrics
    each = [metrics["balanced_accuracy/Plain"], metrics["balanced_accuracy/Coin"]]
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(each))


def test_unknown_values_are_left_out(set_up, tmp_path):
    def unknown(rows):
        return [[r[0], r[1], "0" if i % 3 else r[2], r[3]] for i, r in enumerate(rows)]

    result = evaluate(rewritten(set_up[1], tmp_path, unknown), factors)
    label, balanced = result.items["label"], result.items["balanced"]
    assert (label[:, 1] == -1).mean() > 0.5
    recall = [balanced[label[:, 1] == c, 1].mean() for c in (0, 1)]
    assert result.metrics["balanced_accuracy/Rare"] == pytest.approx(np.mean(recall))


def test_classes_by_softmax(set_up, tmp_path):
    def kind(name):
        factor = FACTORS[number_of(name), 3]
        return "middle" if abs(factor) < 0.4 else "high" if factor > 0 else "low"

    def kinds(rows):
        return [["file", "kind"], *([r[0], kind(r[0])] for r in rows[1:])]

    cfg = replace(rewritten(set_up[1], tmp_path, kinds), column="kind")
    result = evaluate(cfg, factors)
    label, balanced = result.items["label"][:, 0], result.items["balanced"][:, 0]
    assert result.metrics["accuracy"] > result.metrics["accuracy@majority"] + 0.1
    recall = [balanced[label == c].mean() for c in range(3)]
    assert min(recall) > 0.5
    assert result.metrics["balanced_accuracy"] == pytest.approx(np.mean(recall))
    assert set(linear_probe.difference(result, result, n=5)) == {"accuracy", "balanced_accuracy"}
    with pytest.raises(UserError, match="did you mean 'kind'"):
        linear_probe.prepare(replace(cfg, column="kinds"), 8)


def test_people_from_a_column_a_file_or_nobody(set_up, tmp_path):
    cfg = set_up[1]
    by_folder = linear_probe.prepare(cfg, 8)

    def with_person(rows):
        return [[*rows[0], "who"], *([*r, r[0][: r[0].index("/")]] for r in rows[1:])]

    by_column = linear_probe.prepare(
        replace(rewritten(cfg, tmp_path, with_person), identity="who"), 8
    )
    lines = [f"{n},{p}" for n, p in zip(names_of(by_folder), by_folder.people)]
    (tmp_path / "people.csv").write_text("\n".join(["file,identity", *lines]))
    two = replace(cfg, identity=str(tmp_path / "people.csv"))
    by_file = linear_probe.prepare(two, 8)
    for data in (by_column, by_file):
        assert data.targets == by_folder.targets
        np.testing.assert_array_equal(data.part, by_folder.part)
    assert len(set(linear_probe.prepare(replace(cfg, identity="none"), 8).people)) == PEOPLE * EACH
    (tmp_path / "people.csv").write_text("\n".join(["file,identity", *lines[:-2]]))
    without = linear_probe.prepare(two, 8)
    assert without.people[:-2].tolist() == by_file.people[:-2].tolist()
    assert without.people[-2:].tolist() == names_of(without)[-2:]  # each a person of its own
    with pytest.raises(UserError, match=r"no column 'nowhere\.csv'"):
        linear_probe.prepare(replace(cfg, identity="nowhere.csv"), 8)


def test_a_source_brings_its_own_labels():
    source = {"name": "synthetic", "n": 90, "identities": 30, "size": 16, "first_identity": 7}
    cfg = linear_probe.Config(source=source, l2=(0.1,), bootstrap=0)
    data = linear_probe.prepare(cfg, 16)
    records = data.pictures.source.read(range(90))
    names = data.pictures.source.fields["attributes"].names
    shown = [names.index(target) for target in data.targets]
    expected = np.array([r["attributes"] for r in records])[:, shown]
    np.testing.assert_array_equal(2 * data.labels - 1, expected)
    assert {*data.targets, *data.skipped} == {*names}
    assert data.people.tolist() == [str(r["identity"]) for r in records]
    classes = linear_probe.prepare(replace(cfg, column="expression"), 16)
    np.testing.assert_array_equal(classes.labels[:, 0], [r["expression"] for r in records])
    for column, told in (("expresion", "did you mean 'expression'"), ("identity", "knn")):
        with pytest.raises(UserError, match=told):
            linear_probe.prepare(replace(cfg, column=column), 16)


def test_failed_pictures_are_counted_in_every_part(set_up):
    def lossy(images):
        rows = factors(images)
        rows[person(images) % 10 == 0] = np.nan
        return rows

    result = evaluate(set_up[1], lossy)
    assert result.metrics["failed"] == PEOPLE * EACH / 10
    assert result.metrics["n"] == result.items["valid"].sum() < len(result.items["valid"])
    assert result.metrics["balanced_accuracy/Plain"] > 0.9


def test_difference_of_good_and_bad(set_up):
    good, bad = evaluate(set_up[1], factors), evaluate(set_up[1], noise)
    for name, (value, low, high) in linear_probe.difference(good, bad, n=200).items():
        assert value == pytest.approx(good.metrics[name] - bad.metrics[name])
        assert low < value < high
    assert linear_probe.difference(good, bad, n=200)["balanced_accuracy"][1] > 0


def test_errors(set_up, tmp_path):
    cfg = set_up[1]
    with pytest.raises(UserError, match="2 labelled people don't fill three parts"):
        linear_probe.prepare(rewritten(cfg, tmp_path, lambda rows: rows[:5]), 8)
    with pytest.raises(UserError, match="images: no attributes"):
        linear_probe.prepare(replace(cfg, labels=()), 8)
    for options in (
        {"l2": ()},
        {"l2": (0.0,)},
        {"crop": 2.0},
        {"flip": "yes"},
        {"path": ""},
        {"source": {"name": "synthetic"}},
    ):
        with pytest.raises(UserError):
            linear_probe.prepare(replace(cfg, **options), 8)
