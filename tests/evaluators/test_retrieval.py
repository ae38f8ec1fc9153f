import csv
import statistics
from dataclasses import replace

import numpy as np
import pytest
from made_up_faces import Faces, chance, constant, perfect
from made_up_joint import Joint, unit

from facejax.errors import UserError
from facejax.evaluators import retrieval


class Named(Joint):
    """The text "person 3 ..." lies on person 3, with noise of its own."""

    def __init__(self, embed=perfect, noise=0.3):
        super().__init__(embed, 64)
        object.__setattr__(self, "noise", noise)

    def text(self, texts):
        rows = self.noise * super().text(texts)
        for row, text in zip(rows, texts):
            row[int(text.split()[1])] += 1
        return unit(rows)


def evaluate(cfg, joint):
    return retrieval.run(cfg, retrieval.prepare(cfg, 8), joint)


@pytest.fixture
def cfg(tmp_path) -> retrieval.Config:
    """Twelve people with one picture each; a text file has two captions of each."""
    faces = Faces(tmp_path, people=12, each=1).write()
    for p in range(12):
        path = faces.path(p, 1).with_suffix(".txt")
        path.write_text(f"person {p} in colour\nperson {p} from the front\n")
    where = "{parent}/{stem}.txt"
    return retrieval.Config(faces.images, where, k=(1, 3), bootstrap=50)


def test_perfect_and_collapsed_spaces(cfg):
    right = evaluate(cfg, Named()).metrics
    assert right["t2i_r@1"] == right["i2t_r@1"] == right["t2i_median_rank"] == 1
    assert right["rsum"] == 400
    assert (right["n"], right["captions"], right["shared_captions"]) == (12, 24, 0)
    assert right["chance/t2i_r@1"] == pytest.approx(1 / 12)
    assert right["chance/i2t_r@1"] == pytest.approx(2 / 24)
    nothing = evaluate(cfg, Joint(constant, 4)).metrics  # all pictures alike: every rank is a tie
    assert nothing["t2i_r@1"] == nothing["t2i_r@3"] == 0
    assert nothing["t2i_median_rank"] == 12


def test_by_brute_force(cfg):
    joint = Named(lambda images: perfect(images)[:, :64] + 0.2 * np.tile(chance(images), 4), 2.5)
    data = retrieval.prepare(cfg, 8)
    result = retrieval.run(cfg, data, joint)
    pictures = np.zeros((12, 8, 8, 3), np.uint8)
    pictures[..., 0], pictures[..., 1] = np.arange(12)[:, None, None], 1
    x, t = joint.image(pictures).astype(float), joint.text(data.texts).astype(float)
    owner = [int(text.split()[1]) for text in data.texts]
    t2i = [sorted(range(12), key=lambda i: -x[i] @ t[j]).index(owner[j]) + 1 for j in range(24)]
    i2t = []
    for i in range(12):
        order = sorted(range(24), key=lambda j: -x[i] @ t[j])
        i2t.append(min(order.index(j) for j in range(24) if owner[j] == i) + 1)
    assert 1 < np.mean(t2i) < 12
    metrics = result.metrics
    for k in (1, 3):
        assert metrics[f"t2i_r@{k}"] == pytest.approx(np.mean(np.array(t2i) <= k))
        assert metrics[f"i2t_r@{k}"] == pytest.approx(np.mean(np.array(i2t) <= k))
    assert metrics["t2i_median_rank"] == statistics.median(t2i)
    assert metrics["i2t_median_rank"] == statistics.median(i2t)
    assert metrics["t2i_r@1_low"] <= metrics["t2i_r@1"] <= metrics["t2i_r@1_high"]


def test_a_caption_that_pictures_share_is_right_for_each(cfg, tmp_path):
    for p in (0, 1):
        path = tmp_path / f"images/P{p:02d}/P{p:02d}_0001.txt"
        path.write_text(f"person 0  of two \n\nperson {p} alone\nperson {p} alone\n")
    metrics = evaluate(cfg, Named()).metrics
    assert metrics["shared_captions"] == 1
    assert metrics["captions"] == 24  # the repeated one counts once
    assert metrics["t2i_r@1"] == metrics["i2t_r@1"] == 1
    assert metrics["chance/t2i_r@1"] == pytest.approx((22 + 2 * 2) / 24 / 12)


def test_pictures_without_a_caption_and_broken_ones(cfg, tmp_path):
    (tmp_path / "images/P03/P03_0001.txt").write_text(" \n")
    (tmp_path / "images/P04/P04_0001.txt").unlink()
    (tmp_path / "images/P05/P05_0001.png").write_bytes(b"none")
    result = evaluate(cfg, Named())
    assert result.metrics["without_caption"] == 2
    assert result.metrics["failed"] == 1
    assert (result.metrics["n"], result.metrics["captions"]) == (9, 18)
    assert result.metrics["rsum"] == 400
    assert evaluate(replace(cfg, per_image=1), Named()).metrics["captions"] == 9


def test_what_can_not_be_searched_is_refused(cfg, tmp_path):
    with pytest.raises(UserError, match="gives no captions"):
        retrieval.prepare(replace(cfg, captions=""), 8)
    with pytest.raises(UserError, match="holds no ranks"):
        retrieval.prepare(replace(cfg, k=(0,)), 8)
    with open(tmp_path / "one.csv", "w", newline="") as file:
        rows = [[f"P{p:02d}/P{p:02d}_0001.png", "a face"] for p in range(12)]
        csv.writer(file).writerows([["file", "caption"], *rows])
    with pytest.raises(UserError, match="1 captions to tell apart"):
        retrieval.prepare(replace(cfg, captions=str(tmp_path / "one.csv")), 8)
    broken = type("Broken", (Joint,), {"text": lambda self, t: np.full((len(t), 64), np.nan)})
    with pytest.raises(UserError, match="24 of 24 have no finite embedding"):
        retrieval.run(cfg, retrieval.prepare(cfg, 8), broken(perfect, 64))
