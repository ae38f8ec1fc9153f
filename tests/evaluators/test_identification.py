"""Identification against its rules spelled out, one probe and one picture at a time."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_faces import Faces, noisy, number, perfect, person
from PIL import Image

from facejax.errors import UserError
from facejax.evaluators import _search, identification
from facejax.evaluators._metrics import unit


def evaluate(cfg, embed):
    return identification.run(cfg, identification.prepare(cfg, 8), embed)


def hard(images):
    seeds = person(images) * 1000 + number(images)
    noise = np.stack([np.random.default_rng(s).normal(size=48) for s in seeds])
    return (0.9 * perfect(images)[:, :48] + 0.3 * noise).astype(np.float32)


@pytest.fixture
def lists(tmp_path):
    """Ten people with four pictures each, six seen once, and twelve distractors elsewhere."""
    faces = Faces(tmp_path, people=10, each=4).write()
    for p in range(30, 36):
        faces.path(p, 1).parent.mkdir()
        Image.new("RGB", (8, 8), (p, 1, 0)).save(faces.path(p, 1))
    (tmp_path / "more").mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), (40, i, 0)).save(tmp_path / "more" / f"{i}.png")
    return identification.Config(
        path=faces.images, distractors=str(tmp_path / "more"), flip="none", bootstrap=50
    )


def embedded(data, embed):
    names = [data.pictures.source.name(row) for row in data.rows]
    images = np.zeros((len(names), 8, 8, 3), np.uint8)
    images[..., 0] = np.array([int(n[1:3]) for n in names])[:, None, None]
    images[..., 1] = np.array([int(n[-8:-4]) for n in names])[:, None, None]
    more = np.zeros((12, 8, 8, 3), np.uint8)
    more[..., 0] = 40
    more[..., 1] = np.arange(12)[:, None, None]
    return unit(embed(images)), unit(embed(more))


def test_the_closed_set_follows_its_rule(lists):
    data = identification.prepare(lists, 8)
    result = identification.run(lists, data, hard)
    own, more = embedded(data, hard)
    distractors = [*own[data.people == ""], *more]
    assert len(distractors) == 6 + 12
    hits = {1: [], 5: [], 20: []}
    for i in np.flatnonzero(data.probe):
        best = max(own[i] @ own[j] for j in np.flatnonzero(data.gallery) if same(data, i, j))
        others = [own[j] for j in np.flatnonzero(data.gallery) if not same(data, i, j)]
        before = sum(own[i] @ other >= best for other in [*others, *distractors])
        for k in hits:
            hits[k].append(before < k)
    for k, found in hits.items():
        assert result.metrics[f"r@{k}"] == np.mean(found)
    assert 0 < result.metrics["r@1"] < result.metrics["r@5"]
    assert result.metrics["r@1_low"] <= result.metrics["r@1"] <= result.metrics["r@1_high"]
    sizes = {"n": 30, "failed": 0, "size/gallery": 10, "size/distractors": 18}
    assert {name: result.metrics[name] for name in sizes} == sizes
    curve = result.curves["distractors"]
    assert (np.diff(curve["y"]) <= 0).all()
    assert (curve["x"][-1], curve["y"][-1]) == (18, result.metrics["r@1"])


def same(data, i, j):
    return data.people[i] == data.people[j]


def test_each_pair_has_the_distractors_alone(lists):
    cfg = replace(lists, protocol="megaface")
    data = identification.prepare(cfg, 8)
    result = identification.run(cfg, data, hard)
    own, more = embedded(data, hard)
    distractors = [*own[data.people == ""], *more]
    hits = []
    for i in np.flatnonzero(data.probe):
        for j in np.flatnonzero(data.gallery):
            if i != j and same(data, i, j):
                hits.append(all(own[i] @ d < own[i] @ own[j] for d in distractors))
    assert len(hits) == result.metrics["n"] == 10 * 4 * 3
    assert result.metrics["r@1"] == np.mean(hits)
    assert 0 < result.metrics["r@1"] < 1


def test_perfect_and_constant_embeddings(lists):
    for protocol in ("closed", "megaface"):
        cfg = replace(lists, protocol=protocol)
        assert evaluate(cfg, perfect).metrics["r@1"] == 1
        ones = evaluate(cfg, lambda x: np.ones((len(x), 3), np.float32))
        assert ones.metrics["r@5"] == 0, "ties count against the mate"


def test_roles_come_from_a_list(lists, tmp_path):
    lines = ["file,role", "P00/P00_0001.png,gallery", "P00/P00_0003.png,probe"]
    lines += ["P01/P01_0002.png,distractor", "P02/P02_0002.png,probe"]
    (tmp_path / "roles.csv").write_text("\n".join(lines))
    cfg = replace(lists, roles=str(tmp_path / "roles.csv"))
    metrics = evaluate(cfg, perfect).metrics
    sizes = {"n": 1, "failed": 0, "size/gallery": 1, "size/distractors": 13}
    assert {name: metrics[name] for name in sizes} == sizes, "P02 has no mate and doesn't count"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("P00/P00_0001.png,prob", "'prob' of P00/P00_0001.png is no role"),
        ("P77/P77_0001.png,probe", "no picture 'P77/P77_0001.png'"),
        ("P00/P00_0001.png,probe", "no probe has a mate"),
    ],
)
def test_lists_are_checked(lists, tmp_path, line, message):
    (tmp_path / "roles.csv").write_text(f"file,role\n{line}\n")
    with pytest.raises(UserError, match=message):
        identification.prepare(replace(lists, roles=str(tmp_path / "roles.csv")), 8)


def test_what_fails_is_counted(lists):
    data = identification.prepare(lists, 8)
    names = [data.pictures.source.name(row) for row in data.rows]
    probe, gallery = (names[np.flatnonzero(w)[0]] for w in (data.probe, data.gallery))
    assert probe[:3] == gallery[:3] == "P00"

    def broken(images):
        rows = hard(images)
        for name in (gallery, names[np.flatnonzero(data.probe)[5]]):
            rows[(person(images) == int(name[1:3])) & (number(images) == int(name[-8:-4]))] = np.nan
        rows[(person(images) == 40) & (number(images) < 3)] = np.nan
        return rows

    result = identification.run(lists, data, broken)
    assert result.metrics["failed"] == 3 + 1
    assert result.metrics["n"] == 26
    assert result.metrics["size/distractors"] == 15
    value, *_ = identification.difference(result, evaluate(lists, hard), n=20)["r@1"]
    both = result.items["valid"]
    whole = evaluate(lists, hard).items["r@1"][both]
    assert value == pytest.approx(np.mean(result.items["r@1"][both]) - np.mean(whole))


def test_difference_of_a_good_and_a_bad_encoder(lists):
    good, bad = evaluate(lists, noisy), evaluate(lists, hard)
    value, low, high = identification.difference(good, bad, n=100)["r@1"]
    assert value == pytest.approx(good.metrics["r@1"] - bad.metrics["r@1"])
    assert low <= value <= high


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    probes, gallery = unit(rng.normal(size=(23, 4))), unit(rng.normal(size=(31, 4)))
    owner, members = rng.integers(0, 5, 23), rng.integers(-1, 5, 31)
    at = np.sort(rng.integers(0, 23, 40))
    whole = _search.best_mates(probes, owner, gallery, members)
    cosine = probes @ gallery.T
    mates = owner[:, None] == members
    np.testing.assert_allclose(whole, np.where(mates, cosine, -np.inf).max(1))
    ranked = _search.ranks(probes, owner, gallery, members, whole[at], at)
    beats = ~mates[at] & (cosine[at] >= whole[at][:, None])
    np.testing.assert_array_equal(ranked[0], beats.sum(1))
    first = np.where(beats.any(1), beats.argmax(1), 31)
    np.testing.assert_array_equal(ranked[1], first)
    np.testing.assert_allclose(ranked[2], np.where(mates, -np.inf, cosine).max(1))
    monkeypatch.setattr(_search.blocks, "__defaults__", (7,))
    monkeypatch.setattr(_search, "BLOCK", 3)
    small = _search.ranks(probes, owner, gallery, members, whole[at], at)
    for a, b in zip(small, ranked):
        np.testing.assert_allclose(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "open"}, "protocol"),
        ({"ranks": ()}, "ranks"),
        ({"flip": "both"}, "flip"),
    ],
)
def test_illegal_options_are_user_errors(lists, options, message):
    with pytest.raises(UserError, match=message):
        identification.prepare(replace(lists, **options), 8)


def test_megaface_needs_distractors(tmp_path):
    faces = Faces(tmp_path, people=3, each=2).write()
    cfg = identification.Config(path=faces.images, protocol="megaface")
    with pytest.raises(UserError, match="without distractors"):
        identification.prepare(cfg, 8)
