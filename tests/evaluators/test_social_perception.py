"""Social perception on synthetic faces: what is planted is found, and a confounded sample lies."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from made_up_joint import Joint
from PIL import Image

from facejax.data.sources import synthetic
from facejax.errors import UserError
from facejax.evaluators import social_perception as social

FACES, SIZE, WIDTH = 60, 16, 24
LEVELS = {"age": (20.0, 50.0, 80.0), "yaw": (-20.0, 20.0), "melanin": (0.1, 0.9)}
SOURCE = {
    "name": "synthetic",
    "n": 7 * FACES,
    "identities": FACES,
    "size": SIZE,
    "move": LEVELS,
}
CFG = social.Config(source=SOURCE, bootstrap=300, permutations=100)


def blind(images: np.ndarray) -> np.ndarray:
    """Noise of the picture's own: it sees nothing in it."""
    seeds = images.reshape(len(images), -1).astype(np.int64).sum(1)
    return np.stack([np.random.default_rng(s).normal(size=WIDTH) for s in seeds])


def evaluate(cfg, embed=blind):
    return social.run(cfg, social.prepare(cfg, SIZE), Joint(embed, WIDTH))


def interval(metrics: dict, name: str) -> tuple[float, float, float]:
    return metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"]


@pytest.fixture(scope="module")
def untouched():
    return evaluate(CFG)


@pytest.mark.parametrize(("level", "size"), [(2, 0.3), (0, 0.3), (2, -0.3)])
def test_a_planted_bias_is_found_with_its_sign_and_size_and_nowhere_else(untouched, level, size):
    plant = social.Plant("age", level, "warm", size)
    m = evaluate(replace(CFG, plant=plant)).metrics
    value, low, high = interval(m, "effect/age/warm")
    planted = size if level == 2 else -size  # of the highest level less the lowest
    assert value == pytest.approx(untouched.metrics["effect/age/warm"] + planted, abs=1e-9)
    assert low <= planted <= high
    assert not low <= 0 <= high
    assert np.sign(m["weat/age/warm"]) == np.sign(planted)
    assert m["weat_p/age/warm"] < 0.02 < m["weat_p/melanin/warm"]
    assert m["ndkl/age/warm"] > 2 * untouched.metrics["ndkl/age/warm"]
    for factor in ("yaw", "melanin"):
        _, low, high = interval(m, f"effect/{factor}/warm")
        assert low <= 0 <= high
        assert m[f"effect/{factor}/warm"] == untouched.metrics[f"effect/{factor}/warm"]


def test_delta_is_its_definition(untouched):
    data, joint = social.prepare(CFG, SIZE), Joint(blind, WIDTH)
    images = next(data.pictures.read(range(8), SIZE)).arrays["image"]
    x = joint.image(images).astype(np.float64)

    def cosine(word: str) -> np.ndarray:
        texts = (
            f"A photo of a {word}person.",
            f"A {word}person.",
            f"This is a {word}person.",
            f"cropped face photo of a {word}person",
        )
        return (x @ joint.text(texts).astype(np.float64).T).mean(1)

    def dimension(*words: str) -> np.ndarray:
        return np.mean([cosine(f"{w} ") - cosine("") for w in words], axis=0)

    names, _ = social._directions(CFG, joint)
    delta = untouched.items["delta"][:8]
    modern = dimension("science-oriented", "alternative", "liberal", "modern")
    old = dimension("religious", "conventional", "conservative", "traditional")
    np.testing.assert_allclose(delta[:, names.index("belief+")], modern, atol=1e-6)
    np.testing.assert_allclose(delta[:, names.index("belief")], modern - old, atol=1e-6)


def test_effects_are_the_faces_own_differences(untouched):
    delta, level = untouched.items["delta"], untouched.items["level"]
    yaw = delta[level[:, 1] >= 0].reshape(FACES, 2, -1)
    names, _ = social._directions(CFG, Joint(blind, WIDTH))
    for d, name in enumerate(names):
        want = (yaw[:, 1] - yaw[:, 0])[:, d]
        assert untouched.metrics[f"effect/yaw/{name}"] == pytest.approx(want.mean(), abs=1e-12)
        assert untouched.metrics[f"spread/yaw/{name}"] == pytest.approx(np.abs(want).mean())
    largest = max(abs(v) for k, v in untouched.metrics.items() if is_effect(k))
    assert untouched.metrics["effect_max"] == pytest.approx(largest)


def is_effect(name: str) -> bool:
    return name.startswith("effect/") and not name.endswith(("_low", "_high"))


def test_a_confounded_sample_misleads_and_moving_one_factor_does_not(tmp_path):
    """The space likes a bright background; where old people have one, it seems to like age."""
    warm = social._directions(CFG, Joint(blind, WIDTH))[1][:, 0]

    def likes_bright(images: np.ndarray) -> np.ndarray:
        bright = images[:, :2, :2].mean((1, 2, 3)) / 255 - 0.5  # a corner: no face is there
        return 0.3 * blind(images) + 20 * bright[:, None] * warm / np.linalg.norm(warm)

    rng = np.random.default_rng(0)
    old = np.arange(240) % 2
    bright = np.where(rng.random(240) < 0.9, old, 1 - old)
    cfg = synthetic.Config(n=240, identities=240, size=SIZE)
    values = synthetic.factors(cfg, range(240)) | {"age": np.where(old, 70.0, 25.0)}
    grey = np.where(bright, 0.8, 0.2)
    values |= {f"back_{c}": grey for c in "rgb"}
    images = synthetic.render_factors(values, SIZE)["image"]
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "age_group"])
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{i}.png")
            rows.writerow([f"{i}.png", "old" if old[i] else "a young one"])
    sample = social.Config(
        path=str(tmp_path),
        labels=str(tmp_path / "labels.csv"),
        identity="none",
        groups=("age_group",),
        bootstrap=300,
        permutations=100,
    )
    found = evaluate(sample, likes_bright).metrics
    value, low, high = interval(found, "effect/age_group/warm")
    assert 0 < low < value < high  # an effect of age, although there is none
    moved = evaluate(replace(CFG, source={**SOURCE, "move": {"age": (25.0, 70.0)}}), likes_bright)
    own, low, high = interval(moved.metrics, "effect/age/warm")
    assert low <= 0 <= high
    assert abs(own) < value / 4


def test_a_failed_picture_takes_its_face_out_of_the_factor():
    def broken(images):
        x = blind(images)
        x[np.arange(len(images)) == 3] = np.nan  # of each chunk; face 0, yaw -20
        return x

    m = evaluate(replace(CFG, bootstrap=0), broken)
    assert m.metrics["failed"] == 2
    ages, melanin = [[0, -1, -1], [1, -1, -1], [2, -1, -1]], [[-1, -1, 0], [-1, -1, 1]]
    assert m.items["level"][:7].tolist() == [*ages, [-1] * 3, [-1] * 3, *melanin]


def test_errors():
    for change, where, told in (
        ({"source": {"name": "synthetic", "n": 9}}, "groups", "nothing to compare"),
        ({"groups": ("atack",)}, "groups", "no classes called"),
        ({"plant": social.Plant("ag", 0, "warm", 1.0)}, "plant.factor", "did you mean 'age'"),
        ({"plant": social.Plant("age", 0, "worm", 1.0)}, "plant.dimension", "did you mean 'warm'"),
        ({"plant": social.Plant("age", 3, "warm", 1.0)}, "plant.level", "no picture shows level 3"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            social.prepare(replace(CFG, **change), SIZE)
        assert caught.value.where == where or told in str(caught.value)
