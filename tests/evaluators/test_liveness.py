"""Zero-shot liveness: a joint space that knows, one that does not, and the rules of the sheet."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from facejax.errors import UserError
from facejax.evaluators import _pad, liveness

KINDS = ("live", "print", "screen")
PROMPTS = {
    "screen": ("screen one", "screen two"),
    "live": ("live one", "live two", "live three"),
    "print": ("print one",),
}
PEOPLE, EACH = 60, 6


@dataclass
class Made:
    """A space with an axis per class; red of a picture is its class, the rest is noise.

    Attributes:
        noise: added to the pictures' axes.
        scale: of the cosines.
    """

    noise: float = 0.0
    scale: float = 20.0
    bias: float = 0.0

    def image(self, images: np.ndarray) -> np.ndarray:
        kind = images[:, 0, 0, 0].astype(int) // 80
        seeds = images[:, 1, 1].astype(int) @ [1, 256, 65536]
        noise = np.stack([np.random.default_rng(s).normal(size=4) for s in seeds])
        x = np.eye(4)[kind] + self.noise * noise
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    def text(self, texts) -> np.ndarray:
        words = {"one": (0, 0, 0, 0), "two": (0, 0, 0, 0.3), "three": (0, 0, 0, -0.6)}
        rows = [np.eye(4)[KINDS.index(t.split()[0])] + words[t.split()[1]] for t in texts]
        return np.stack([r / np.linalg.norm(r) for r in rows]).astype(np.float32)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> liveness.Config:
    """People with live pictures and two attacks; a picture's colour says its class."""
    root, lines = tmp_path_factory.mktemp("faces"), ["file,attack"]
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        for number in range(EACH):
            kind = number % 3
            picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            picture[0, 0, 0] = 80 * kind
            name = f"P{person}/{number}.png"
            (root / "images" / f"P{person}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / "images" / name)
            lines.append(f"{name},{KINDS[kind]}")
    (root / "labels.csv").write_text("\n".join(lines))
    return liveness.Config(
        str(root / "images"), str(root / "labels.csv"), prompts=PROMPTS, bootstrap=200
    )


def evaluate(cfg, joint):
    return liveness.run(cfg, liveness.prepare(cfg, 8), joint)


@pytest.mark.parametrize("pool", ["class", "prompt"])
def test_who_knows_makes_no_error_while_colours_tell_nothing(cfg, pool):
    m = evaluate(replace(cfg, pool=pool), Made()).metrics
    assert m["auc"] == m["accuracy"] == m["tpr@fpr=1e-1"] == 1
    assert m["acer"] == m["hter"] == m["eer"] == m["acer_argmax"] == m["apcer/screen"] == 0
    assert 0.3 < m["auc@histogram"] < 0.7
    assert m["auc@histogram_diff"] == pytest.approx(1 - m["auc@histogram"])
    assert m["auc@histogram_diff_low"] > 0.2


def test_numbers_follow_from_the_items_by_their_definitions(cfg):
    result = evaluate(cfg, Made(noise=0.8))
    m, items = result.metrics, result.items
    kind, accepted = items["kind"], items["accepted"]
    each = [accepted[kind == k].mean() for k in (1, 2)]
    # Classes are numbered live first, then as in the prompts.
    assert (m["apcer/screen"], m["apcer/print"]) == pytest.approx(tuple(each))
    assert 0 < m["apcer"] == max(each)
    assert m["bpcer"] == pytest.approx((~accepted[kind == 0]).mean())
    assert m["acer"] == pytest.approx((max(each) + m["bpcer"]) / 2)
    assert m["hter"] == pytest.approx((accepted[kind > 0].mean() + m["bpcer"]) / 2)
    assert m["hter_low"] < m["hter"] < m["hter_high"]
    assert m["auc_low"] < m["auc"] < m["auc_high"]
    assert m["hter_optimistic"] <= m["hter"] + 0.02
    cut = np.log(m["threshold"] / (1 - m["threshold"]))
    np.testing.assert_array_equal(accepted, items["score"] > cut)


def test_the_score_is_the_mass_of_the_live_texts(cfg):
    joint, data = Made(noise=0.8), liveness.prepare(cfg, 8)
    images = np.concatenate([c.arrays["image"] for c in data.test.pictures.read([0, 1, 2], 8)])
    x = joint.image(images[:3]).astype(np.float64)
    texts = [t for name in ("live", "screen", "print") for t in PROMPTS[name]]
    logits = 20 * x @ joint.text(texts).astype(np.float64).T
    mass = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    live = mass[:, :3].sum(1)
    got, found = liveness._judged(
        joint, x, *liveness._texts(replace(cfg, pool="prompt"), data.classes, joint)
    )
    np.testing.assert_allclose(got, np.log(live / (1 - live)), atol=1e-6)
    np.testing.assert_array_equal(found, np.array([0, 0, 0, 1, 1, 2])[logits.argmax(1)])


def test_the_threshold_comes_from_other_people_than_those_it_judges(cfg):
    data = liveness.prepare(cfg, 8)
    assert not set(data.dev.people) & set(data.test.people)
    assert set(data.dev.people) | set(data.test.people) == {f"P{i}" for i in range(PEOPLE)}
    result = evaluate(cfg, Made(noise=0.8))
    x, _, _ = liveness._seen(Made(noise=0.8), data.dev, 8)
    score, _ = liveness._judged(Made(), x, *liveness._texts(cfg, data.classes, Made()))
    cut = _pad.eer_threshold(score, data.dev.kind)
    assert result.metrics["threshold"] == pytest.approx(1 / (1 + np.exp(-cut)))


def test_a_dev_source_of_its_own():
    def faces(first, **more):
        source = {"name": "synthetic", "n": 80, "identities": 40, "size": 16, "live": 0.4}
        return {**source, "first_identity": first, "attacks": ("print", "dark"), **more}

    cfg = liveness.Config(source=faces(100, looks="unseen"), dev_source=faces(0, looks="seen"))
    data = liveness.prepare(cfg, 16)
    assert len(data.dev.rows) == len(data.test.rows) == 80
    assert set(data.test.kind) == {0, 1, 5}
    classes = [data.classes[k] for k in data.test.kind]
    names = data.test.pictures.source.fields["attack"].names
    records = data.test.pictures.source.read(range(80))
    assert classes == [names[r["attack"]] for r in records]


def test_failed_pictures_are_counted_and_left_out(cfg):
    class Broken(Made):
        def image(self, images):
            x = super().image(images)
            x[images[:, 2, 2, 0] < 40] = np.nan
            return x

    result = evaluate(cfg, Broken(noise=0.8))
    m = result.metrics
    assert m["failed"] == np.sum(~result.items["valid"]) > 5
    assert m["n"] + m["failed"] == len(result.items["valid"])


def test_errors(cfg):
    for change, where, told in (
        ({"prompts": {k: PROMPTS[k] for k in ("live", "print")}}, "prompts", "'screen'"),
        ({"prompts": {**PROMPTS, "print": ()}}, "prompts", "of attacks"),
        ({"live": "alive"}, "prompts", "no texts of 'alive'"),
        ({"pool": "mean"}, "pool", "not one of"),
        ({"fpr": (0.0,)}, "fpr", "not a share"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            liveness.prepare(replace(cfg, **change), 8)
        assert caught.value.where == where
    with pytest.raises(UserError, match="no live pictures or no attacks"):
        liveness.prepare(replace(cfg, dev=1e-6), 8)
