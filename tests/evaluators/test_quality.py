"""evaluators/quality.py against its definition, one pair at a time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_faces import chance, number, perfect, person

from facejax.errors import UserError
from facejax.evaluators import quality
from facejax.evaluators._metrics import unit

TEMPLATE = "{name}/{name}_{number:04d}.png"


def honest(images):
    """High numbers are noisy, and the shorter for it."""
    noise = 0.08 * number(images)[:, None]
    rows = perfect(images)[:, :24] + noise * np.pad(chance(images), ((0, 0), (0, 8)))
    return unit(rows) * (3 - 2 * noise)


def lying(images):
    """The same directions, the noisy ones longer; no two pictures are alike."""
    return unit(honest(images)) * (1 + 0.1 * number(images) + 0.002 * person(images))[:, None]


@pytest.fixture
def cfg(faces):
    return quality.Config(
        faces.images,
        faces.pairs(5, 40),
        template=TEMPLATE,
        far=0.02,
        reject=(0.0, 0.25),
        bootstrap=50,
    )


def evaluate(cfg, embed):
    return quality.run(cfg, quality.prepare(cfg, 8), embed)


def scored(data, embed):
    """Cosine, worse length and kind of each pair."""
    names = [data.pictures.source.name(row) for row in data.compared.rows]
    images = np.array([[[[int(n[1:3]), int(n[-8:-4]), 0]]] for n in names])
    raw = embed(images)
    found = []
    for (a, b), same in zip(data.compared.pairs, data.compared.same):
        lengths = np.linalg.norm(raw[a]), np.linalg.norm(raw[b])
        found.append((raw[a] @ raw[b] / np.prod(lengths), min(lengths), same))
    return found


@pytest.mark.parametrize("embed", [honest, lying])
def test_the_worst_genuine_pairs_are_rejected_at_a_fixed_threshold(cfg, embed):
    data = quality.prepare(cfg, 8)
    result, pairs = quality.run(cfg, data, embed), scored(data, embed)
    impostors = sorted((s for s, _, same in pairs if not same), reverse=True)
    threshold = impostors[int(0.02 * 200)]
    genuine = sorted(((round(q, 5), s) for s, q, same in pairs if same), key=lambda pair: pair[0])
    assert result.metrics["threshold"] == pytest.approx(threshold)
    for share in cfg.reject:
        kept = genuine[int(share * 200) :]
        expected = np.mean([s <= threshold for _, s in kept])
        assert result.metrics[f"fnmr@reject={share:g}"] == pytest.approx(expected)
    assert (result.metrics["n"], result.metrics["failed"]) == (400, 0)


def test_a_length_that_knows_gains_and_one_that_lies_loses(cfg):
    knows, lies = (evaluate(cfg, embed).metrics for embed in (honest, lying))
    assert knows["fnmr@reject=0"] == lies["fnmr@reject=0"] > 0.05
    assert knows["fnmr@reject=0.25"] < knows["fnmr@reject=0"] < lies["fnmr@reject=0.25"]
    assert lies["gain"] < -0.1 < 0.3 < knows["gain"] < 1
    assert knows["fnmr@reject=0_low"] <= knows["fnmr@reject=0"] <= knows["fnmr@reject=0_high"]


def test_quality_may_come_from_a_list(faces, cfg, tmp_path):
    lines = ["file,score"]
    lines += [f"{faces.name(p, i)},{-i}" for p in range(20) for i in range(1, 11)]
    (tmp_path / "quality.csv").write_text("\n".join(lines))
    listed = evaluate(replace(cfg, quality=str(tmp_path / "quality.csv")), lying).metrics
    assert listed["gain"] > 0.3
    assert listed["fnmr@reject=0.25"] < listed["fnmr@reject=0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,value\na,1\n", "no column called 'score'"),
        ("file,score\na,x\n", "'x' of a is no score"),
        ("file,score\na,nan\n", "'nan' of a is no score"),
        ("file,score\nP00/P00_0001.png,1\n", "no score of 'P"),
    ],
)
def test_lists_are_checked(cfg, tmp_path, text, message):
    (tmp_path / "quality.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        quality.prepare(replace(cfg, quality=str(tmp_path / "quality.csv")), 8)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=20).filter(any), st.floats(0.1, 1))
def test_gain_is_0_at_random_and_1_at_best(missed, most):
    missed = np.array(missed, np.float64)
    ideal = np.sort(missed)[::-1]
    share, rate = quality.curve(missed)
    assert rate[0] == missed.mean()
    assert rate[-1] == missed[-1]
    assert share[-1] == (len(missed) - 1) / len(missed)
    assert quality.gain(missed, most) <= quality.gain(ideal, most) + 1e-12
    if quality.gain(ideal, most):
        assert quality.gain(ideal, most) == pytest.approx(1)


def test_the_area_of_a_curve_by_hand():
    # FNMR 1/2, 1/3, 1/2, 0 as none, one, two and three of four are rejected.
    missed = np.array([1.0, 0, 1, 0])
    np.testing.assert_allclose(quality.curve(missed)[1], [1 / 2, 1 / 3, 1 / 2, 0])
    flat, ideal, area = 1 / 2, (1 / 2 + 1 / 3 + 0) / 3, (1 / 2 + 1 / 3 + 1 / 2) / 3
    assert quality.gain(missed, 0.5) == pytest.approx((flat - area) / (flat - ideal))


def test_perfect_embeddings_leave_nothing_to_gain(cfg):
    metrics = evaluate(cfg, perfect).metrics
    assert metrics["fnmr@reject=0"] == metrics["fnmr@reject=0.25"] == 0
    assert "gain" not in metrics


def test_what_fails_is_left_out(cfg):
    def broken(images):
        rows = np.asarray(honest(images), np.float32)
        rows[person(images) == 3] = np.nan
        return rows

    result, whole = evaluate(cfg, broken), evaluate(cfg, lying)
    failed = np.isnan(result.items["quality"])
    assert 0 < failed.sum() < result.metrics["failed"]
    for name, (value, low, high) in quality.difference(result, whole, n=50).items():
        sides = [np.nanmean(r.items[name][~failed]) for r in (result, whole)]
        assert value == pytest.approx(sides[0] - sides[1])
        assert low <= value <= high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"far": 1e-3}, "far: 0.001 of 200 impostor pairs is less than one"),
        ({"reject": (1.0,)}, "reject"),
        ({"reject": ()}, "reject"),
        ({"most": 0.0}, "most"),
        ({"flip": "both"}, "flip"),
        ({"quality": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_illegal_options_are_user_errors(cfg, options, message):
    with pytest.raises(UserError, match=message):
        quality.prepare(replace(cfg, **options), 8)
