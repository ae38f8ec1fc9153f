import csv
from dataclasses import dataclass, replace

import numpy as np
import pytest
from made_up_faces import Faces, constant, number, person
from made_up_joint import Joint, unit

from facejax.errors import UserError
from facejax.evaluators import composed_retrieval


def corners(images):
    """Person and number, each a direction of its own, and noise."""
    both = np.concatenate([np.eye(8)[person(images)], np.eye(8)[number(images)]], axis=1)
    seeds = person(images) * 100 + number(images)
    return both + [np.random.default_rng(s).normal(0, 0.05, 16) for s in seeds]


@dataclass(frozen=True)
class Composer(Joint):
    """Keeps the person and takes the number from the text, as far as `share` goes."""

    share: float = 1.0

    def compose(self, images, texts):
        person_part = corners(images) * (np.arange(16) < 8)
        wanted = np.zeros((len(texts), 16))
        wanted[np.arange(len(texts)), [8 + int(t.split()[-1]) for t in texts]] = 1
        return unit((1 - self.share) * corners(images) + self.share * (person_part + wanted))


@pytest.fixture
def faces(tmp_path) -> Faces:
    return Faces(tmp_path, people=6, each=5).write()


def write(path, rows) -> str:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


@pytest.fixture
def cfg(faces, tmp_path) -> composed_retrieval.Config:
    """Each person's pictures 1 become 2 and 3; the first three people are a category."""
    rows = [["reference", "text", "target", "category", "subset"]]
    for p in range(6):
        for n in (2, 3):
            subset = "|".join(faces.name(p, m) for m in (1, 2, 3, 4))
            rows.append([faces.name(p, 1), f"as number {n}", faces.name(p, n), "xy"[p < 3], subset])
    path = write(tmp_path / "queries.csv", rows)
    return composed_retrieval.Config(
        path, faces.images, identity="parent", k=(1, 5), subset_k=(1, 2), bootstrap=50
    )


def evaluate(cfg, joint):
    return composed_retrieval.run(cfg, composed_retrieval.prepare(cfg, 8), joint)


def test_good_and_collapsed_spaces(cfg):
    right = evaluate(cfg, Composer(corners, 16)).metrics
    assert right["r@1"] == right["subset_r@1"] == right["cirr_mean"] == right["median_rank"] == 1
    assert (right["n"], right["gallery"]) == (12, 30)
    assert right["chance/r@1"] == pytest.approx(1 / 29)  # without the reference
    assert right["chance/subset_r@2"] == pytest.approx(2 / 3)
    nothing = evaluate(cfg, Joint(constant, 4)).metrics
    assert nothing["r@5"] == nothing["subset_r@2"] == 0
    assert nothing["median_rank"] == 29


def test_the_reference_is_no_answer(cfg):
    """A query that stays with its reference would find it first; it is as good without it."""
    metrics = evaluate(cfg, Composer(corners, 16, share=0.45)).metrics
    assert metrics["r@1"] == 1


def test_by_brute_force(cfg, faces):
    joint = Composer(lambda images: corners(images), 16, share=0.1)
    metrics = evaluate(cfg, joint).metrics
    pictures = np.zeros((30, 8, 8, 3), np.uint8)
    pictures[..., 0] = np.repeat(np.arange(6), 5)[:, None, None]
    pictures[..., 1] = np.tile(np.arange(1, 6), 6)[:, None, None]
    x = joint.image(pictures).astype(float)
    ranks, subset_ranks = [], []
    for p in range(6):
        for n in (2, 3):
            own = 5 * p
            query = joint.compose(pictures[own : own + 1], [f"to {n}"])[0].astype(float)
            order = [i for i in sorted(range(30), key=lambda i: -x[i] @ query) if i != own]
            ranks.append(order.index(own + n - 1) + 1)
            subset = [i for i in order if i in range(own, own + 4)]
            subset_ranks.append(subset.index(own + n - 1) + 1)
    ranks, subset_ranks = np.array(ranks), np.array(subset_ranks)
    assert ranks.max() > 1
    for k in (1, 5):
        assert metrics[f"r@{k}"] == pytest.approx(np.mean(ranks <= k))  # categories of one size
        assert metrics[f"r@{k}/y"] == pytest.approx(np.mean(ranks[:6] <= k))
    for k in (1, 2):
        assert metrics[f"subset_r@{k}"] == pytest.approx(np.mean(subset_ranks <= k))
    assert metrics["cirr_mean"] == (metrics["r@5"] + metrics["subset_r@1"]) / 2


def test_categories_weigh_the_same_and_any_target_will_do(cfg, faces, tmp_path):
    rows = [["reference", "text", "target", "category"]]
    rows += [[faces.name(0, 1), "as number 2", faces.name(0, 2), "a"]] * 3
    both = f"{faces.name(1, 5)} | {faces.name(1, 2)}"
    rows += [[faces.name(1, 1), "as number 2", both, "b"]]
    rows += [[faces.name(1, 1), "as number 2", faces.name(2, 5), "b"]]
    cfg = replace(cfg, queries=write(tmp_path / "other.csv", rows))
    metrics = evaluate(cfg, Composer(corners, 16)).metrics
    assert metrics["r@1"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["r@1/b"] == 0.5
    assert "subset_r@1" not in metrics


def test_broken_pictures(cfg, faces):
    faces.path(0, 1).write_bytes(b"none")  # a reference of two queries
    faces.path(1, 2).write_bytes(b"none")  # a target
    metrics = evaluate(cfg, Composer(corners, 16)).metrics
    assert (metrics["n"], metrics["failed"], metrics["gallery"]) == (9, 3, 28)
    assert metrics["r@1"] == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (["P00/P00_0001.png", "x", "P9.png", ""], r"q\.csv:2: no picture 'P9\.png'"),
        (["P00/P00_0001.png", "x", "P00_0001.png", ""], "the target is the reference"),
        (["P00/P00_0001.png", "", "P00_0002.png", ""], "without reference, text or target"),
        (["P00/P00_0001.png", "x", "P00_0002.png", "P00_0003.png"], "not in the subset"),
    ],
)
def test_queries_that_do_not_fit_are_refused(cfg, tmp_path, row, told):
    path = write(tmp_path / "q.csv", [["reference", "text", "target", "subset"], row])
    with pytest.raises(UserError, match=told):
        composed_retrieval.prepare(replace(cfg, queries=path), 8)


def test_a_source_may_tell_its_own_changes():
    source = {"name": "synthetic", "n": 8, "identities": 2, "size": 16, "changes": True}
    source |= {"move": {"glasses": (0, 1), "age": (20, 70)}, "hold": ("glasses",)}
    cfg = composed_retrieval.Config(source=source, k=(1,), bootstrap=0)
    data = composed_retrieval.prepare(cfg, 16)
    assert data.reference.tolist() == [0, 2, 4, 6]
    assert data.targets == ((1,), (3,), (5,), (7,))
    assert "eyeglasses" in data.texts[0]
    with pytest.raises(UserError, match="queries: source tells no changes"):
        composed_retrieval.prepare(replace(cfg, source={"name": "synthetic", "n": 2}), 16)
