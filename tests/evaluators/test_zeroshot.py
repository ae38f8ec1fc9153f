import csv
from dataclasses import replace

import numpy as np
import pytest
from made_up_faces import perfect
from made_up_joint import Joint, unit

from facejax.errors import UserError
from facejax.evaluators import zeroshot


class Told(Joint):
    """Texts lie on the mean image of the people whom `who(text)` names."""

    def __init__(self, who, embed=perfect):
        super().__init__(embed, 64)
        object.__setattr__(self, "who", who)

    def text(self, texts):
        rows = np.zeros((len(texts), 64)) + 1e-3 * super().text(texts)
        for row, text in zip(rows, texts):
            row[self.who(text)] += 1
        return unit(rows)


def by_sex(text):
    return slice(0, 8) if "woman" in text or "lady" in text else slice(8, 20)


@pytest.fixture
def cfg(faces, tmp_path) -> zeroshot.Config:
    """People 0 to 7 are women; smiles are those of even numbers; everybody is young."""
    rows = [["file", "sex", "Male", "Smiling", "Young", "Odd"]]
    for p in range(20):
        for n in range(1, 11):
            smiles = "" if n == 10 else (1 if p % 2 == 0 else -1)
            rows.append([faces.name(p, n), "mf"[p < 8], 1 if p >= 8 else -1, smiles, 1, 0])
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return zeroshot.Config(faces.images, str(tmp_path / "labels.csv"), bootstrap=50)


def evaluate(cfg, joint):
    return zeroshot.run(cfg, zeroshot.prepare(cfg, 8), joint)


def test_classes_of_a_field(cfg):
    cfg = replace(cfg, column="sex", prompts={"m": "a man", "f": ("a woman", "a lady")})
    right = evaluate(cfg, Told(by_sex)).metrics
    assert right["accuracy"] == right["balanced_accuracy"] == right["recall/f"] == 1
    assert right["chance"] == 0.5
    assert right["accuracy@majority"] == 0.6
    assert right["n"] == 200

    women = evaluate(cfg, Told(lambda text: slice(0, 8) if "a man" in text else slice(8, 20)))
    assert women.metrics["accuracy"] == 0  # every prompt points at the others
    with pytest.raises(UserError, match="class 'f' has none"):
        zeroshot.prepare(replace(cfg, prompts={"m": "a man"}), 8)


def test_what_is_undecided_is_wrong_and_told(cfg):
    cfg = replace(cfg, column="sex", prompts={"m": "a man", "f": "a man"})
    metrics = evaluate(cfg, Told(by_sex)).metrics
    assert metrics["undecided"] == 1
    assert metrics["accuracy"] == 0


def test_attributes_by_brute_force(cfg):
    def who(text):
        if "smil" in text:  # recognises the smile of the first ten only
            no = "not smiling" in text or "without" in text
            return list(range(1, 20, 2)) if no else list(range(0, 10, 2))
        return by_sex(text)

    joint = Told(who)
    result = evaluate(cfg, joint)
    metrics = result.metrics
    assert metrics["balanced_accuracy/Male"] == 1
    assert metrics["skipped/Young"] == metrics["skipped/Odd"] == 1

    pictures = np.zeros((20, 1, 1, 3), np.uint8)
    pictures[:, 0, 0, 0] = np.arange(20)
    x = joint.image(pictures).astype(np.float64)
    sides = []
    for clauses in (("smiling", "with a smile"), ("not smiling", "without a smile")):
        texts = [t.format(f"a person {c}") for c in clauses for t in cfg.templates]
        mean = joint.text(texts).astype(np.float64).mean(0)
        sides.append(x @ mean / np.linalg.norm(mean))
    says = sides[0] > sides[1]
    tpr, tnr = says[::2].mean(), 1 - says[1::2].mean()
    assert 0.5 <= tpr < 1
    unknown = result.items["label"][:, 1] < 0
    assert np.sum(unknown) == 20
    assert not result.items["correct"][unknown, 1].any()
    assert metrics["balanced_accuracy/Smiling"] == pytest.approx((tpr + tnr) / 2)
    assert metrics["balanced_accuracy"] == pytest.approx((1 + (tpr + tnr) / 2) / 2)
    assert metrics["mean_accuracy"] == pytest.approx((1 + (tpr + tnr) / 2) / 2)


def test_only_the_people_of_the_probes_test_part(cfg):
    data = zeroshot.prepare(replace(cfg, part="test"), 8)
    assert 0 < len(set(data.people)) < 10
    shares = zeroshot.split_people(sorted(set(data.people)), zeroshot.PARTS)
    assert set(shares.tolist()) == {zeroshot.TEST}


def test_generated_answers(cfg, faces, tmp_path):
    rows = [["file", "answer"]]
    for p in range(20):
        for n in range(1, 11):
            text = "a man" if p >= 8 else "a lady, smiling" if n > 5 else "somebody"
            rows.append([faces.name(p, n), text])
    with open(tmp_path / "answers.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    answers = str(tmp_path / "answers.csv")
    prompts = {"m": "a man", "f": ("a woman", "a lady")}
    found = evaluate(replace(cfg, column="sex", prompts=prompts, answers=answers), Told(by_sex))
    assert found.metrics["unparsed"] == 40 / 200
    assert found.metrics["answers_accuracy"] == 160 / 200
    assert found.metrics["answers_balanced_accuracy"] == (1 + 0.5) / 2
    assert found.metrics["accuracy"] == 1
    with pytest.raises(UserError, match="no column 'answer'"):
        zeroshot.prepare(replace(cfg, answers=cfg.labels), 8)


def test_broken_pictures_are_left_out_and_counted(cfg, faces):
    faces.path(0, 1).write_bytes(b"no picture")
    found = evaluate(
        replace(cfg, column="sex", prompts={"m": "a man", "f": "a woman"}), Told(by_sex)
    )
    assert (found.metrics["n"], found.metrics["failed"]) == (199, 1)
    assert found.metrics["accuracy"] == 1
    assert len(found.items["valid"]) == 200
