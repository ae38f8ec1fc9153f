"""evaluators/templates.py and its lists, against the rules of the protocol sheet spelled out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_faces import noisy, number, perfect, person

from facejax.errors import UserError
from facejax.evaluators import _templates, templates
from facejax.evaluators._metrics import unit


def test_template_golden_value():
    features = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    found = _templates.fuse(
        features, np.arange(3), np.zeros(3, int), np.array([7, 7, 9]), np.ones(3)
    )
    np.testing.assert_allclose(found, [[0.948683, 0.316228]], atol=1e-6)


def test_templates_by_their_rule():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 5)).astype(np.float32)
    picture, template = rng.integers(0, 20, 60), rng.integers(0, 9, 60)
    media, weight = rng.integers(0, 3, 60), rng.uniform(0.2, 1, 60)
    picture[rng.integers(0, 60, 10)] = -1
    picture[template == 4] = -1
    template[-1], picture[-1] = 8, 3
    found = _templates.fuse(features, picture, template, media, weight)
    for t in range(9):
        total = np.zeros(5)
        for m in range(3):
            of = [i for i in range(60) if (template[i], media[i]) == (t, m) and picture[i] >= 0]
            if of:
                total += np.mean([weight[i] * features[picture[i]] for i in of], axis=0)
        np.testing.assert_allclose(found[t], unit(total), atol=1e-6)
    assert not found[4].any()


def test_a_template_with_one_medium_twice_is_itself():
    features = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    once = _templates.fuse(
        features, np.arange(3), np.zeros(3, int), np.array([0, 0, 1]), np.ones(3)
    )
    pictures, media = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 1, 0, 0, 1])
    twice = _templates.fuse(features, pictures, np.zeros(6, int), media, np.ones(6))
    np.testing.assert_allclose(twice, once, atol=1e-12)


@pytest.fixture
def lists(faces, tmp_path):
    """Two templates of each of 20 people: numbers 1 to 4 and 5 to 8, of two media each."""
    lines, rows = [], []
    for p in range(20):
        for i in range(1, 9):
            t = 100 + 2 * p + (i > 4)
            lines.append(f"{faces.name(p, i)} {t} {(i - 1) // 2}")
        rows.append((100 + 2 * p, 101 + 2 * p, p))
    rng = np.random.default_rng(0)
    (tmp_path / "media.txt").write_text("\n".join(lines))
    scores = [f"{line.split()[0]} {'1.5 ' * 10}{rng.uniform(0.3, 1):.3f}" for line in lines]
    (tmp_path / "scores.txt").write_text("\n".join(scores))
    pairs = [f"{a} {b} {int(p == q)}" for a, _, p in rows for _, b, q in rows]
    (tmp_path / "pairs.txt").write_text("\n".join(pairs))
    head = "TEMPLATE_ID,SUBJECT_ID,FILENAME\n"
    parts = {"g1": rows[:8], "g2": rows[8:16]}
    for name, part in parts.items():
        text = "".join(f"{a},{p},x\n" for a, _, p in part)
        (tmp_path / f"{name}.csv").write_text(head + text)
    (tmp_path / "probes.csv").write_text(head + "".join(f"{b},{p},x\n" for _, b, p in rows))
    return templates.Config(
        path=faces.images,
        media=str(tmp_path / "media.txt"),
        scores=str(tmp_path / "scores.txt"),
        pairs=str(tmp_path / "pairs.txt"),
        galleries=(str(tmp_path / "g1.csv"), str(tmp_path / "g2.csv")),
        probes=str(tmp_path / "probes.csv"),
        flip="none",
        far=(1e-2, 1e-1),
    )


def evaluate(cfg, embed):
    return templates.run(cfg, templates.prepare(cfg, 8), embed)


def hard(images):
    """So noisy that ranks differ, and of a length that tells."""
    length = 1 + number(images)[:, None] % 3
    return (perfect(images)[:, :24] * 0.35 + 0.3 * _noise(images)) * length


def _noise(images):
    seeds = person(images) * 1000 + number(images)
    return np.stack([np.random.default_rng(s).normal(size=24) for s in seeds]).astype(np.float32)


def literal(cfg, embed, keep_norm=True):
    """Templates {id: unit vector} a line at a time."""
    score = {}
    for line in Path(cfg.scores).read_text().splitlines():
        score[line.split()[0]] = float(line.split()[-1])
    media = {}
    for line in Path(cfg.media).read_text().splitlines():
        name, t, m = line.split()
        image = np.zeros((1, 8, 8, 3), np.uint8)
        image[..., 0], image[..., 1] = int(name[1:3]), int(name[-8:-4])
        f = np.asarray(embed(image)[0], np.float64)
        f = f if keep_norm else unit(f)
        media.setdefault((int(t), int(m)), []).append(f * score[name])
    found = {}
    for (t, _), frames in media.items():
        found[t] = found.get(t, 0) + np.mean(frames, axis=0)
    return {t: unit(f) for t, f in found.items()}


@pytest.mark.parametrize("keep_norm", [True, False])
def test_pairs_follow_the_literal_rule(lists, keep_norm):
    cfg = replace(lists, keep_norm=keep_norm)
    result, found = evaluate(cfg, hard), literal(cfg, hard, keep_norm)
    rows = [list(map(int, line.split())) for line in Path(cfg.pairs).read_text().splitlines()]
    score = np.array([found[a] @ found[b] for a, b, _ in rows])
    same = np.array([label for *_, label in rows]) == 1
    for far, name in ((1e-2, "tar@far=1e-2"), (1e-1, "tar@far=1e-1")):
        limit = np.sort(score[~same])[::-1][int(far * 380 + 1e-9)]
        assert result.metrics[name] == pytest.approx(np.mean(score[same] > limit))
    assert 0 < result.metrics["tar@far=1e-2"] < 1
    assert (result.metrics["n"], result.metrics["failed"]) == (400, 0)
    assert result.metrics["impostors@far=1e-2"] == pytest.approx(3.8)


def test_searches_follow_the_literal_rule(lists):
    result, found = evaluate(lists, hard), literal(lists, hard)
    hits = dict.fromkeys(lists.ranks, 0)
    opened = {f: [] for f in lists.fpir}
    for people in (range(8), range(8, 16)):
        gallery = {p: found[100 + 2 * p] for p in people}
        scores = [
            {p: found[101 + 2 * q] @ gallery[p] for p in people} | {"who": q} for q in range(20)
        ]
        mated, strangers = [], []
        for s in scores:
            who = s.pop("who")
            if who in s:
                rank = sum(v >= s[who] for p, v in s.items() if p != who)
                mated.append((rank, s[who]))
                for k in hits:
                    hits[k] += rank < k
            else:
                strangers.append(max(s.values()))
        for fpir in opened:
            limit = sorted(strangers)[::-1][max(int(len(strangers) * fpir) - 1, 0)]
            opened[fpir].append(np.mean([rank == 0 and v > limit for rank, v in mated]))
    for k, count in hits.items():
        assert result.metrics[f"r@{k}"] == pytest.approx(count / 16)
    assert hits[1] < hits[5]
    assert result.metrics["tpir@fpir=1e-2"] == pytest.approx(np.mean(opened[0.01]))
    assert result.metrics["tpir@fpir=1e-1"] == pytest.approx(np.mean(opened[0.1]))


def test_perfect_and_constant_embeddings(lists):
    metrics = evaluate(lists, perfect).metrics
    assert [metrics[n] for n in ("auc", "tar@far=1e-2", "r@1", "tpir@fpir=1e-2")] == [1, 1, 1, 1]
    constant = replace(lists, scores="")  # rounding would tell the scores apart
    metrics = evaluate(constant, lambda x: np.ones((len(x), 3), np.float32)).metrics
    assert metrics["auc"] == 0.5
    assert [metrics[n] for n in ("tar@far=1e-1", "r@5", "tpir@fpir=1e-1")] == [0, 0, 0]


def test_the_point_of_insightface_may_exceed_the_rate(lists):
    exact = evaluate(lists, hard).metrics["tar@far=1e-2"]
    nearest = evaluate(replace(lists, tar="insightface"), hard).metrics["tar@far=1e-2"]
    assert nearest >= exact


def test_one_half_of_the_lists_is_enough(lists):
    both = evaluate(lists, hard).metrics
    pairs = evaluate(replace(lists, galleries=(), probes=""), hard).metrics
    search = evaluate(replace(lists, pairs=""), hard).metrics
    assert {**search, **pairs} == both
    assert search["n"] == 16


def test_templates_without_a_usable_picture_fail(lists):
    def broken(images):
        rows = np.asarray(hard(images), np.float32)
        rows[(person(images) == 3) & (number(images) > 4)] = np.nan  # probe 107
        rows[(person(images) == 9) & (number(images) <= 4)] = np.nan  # gallery 118
        rows[(person(images) == 5) & (number(images) == 1)] = np.nan
        return rows

    result = evaluate(lists, broken)
    assert result.metrics["failed/pictures"] == 9
    assert result.metrics["n"] == 19 * 19
    assert result.metrics["failed"] == 39 + 2
    assert np.isfinite(result.items["r@1"]).sum() == 14
    whole = evaluate(lists, hard)
    value, low, high = templates.difference(result, whole, n=50)["r@1"]
    both = np.isfinite(result.items["r@1"])
    expected = np.mean(result.items["r@1"][both]) - np.mean(whole.items["r@1"][both])
    assert value == pytest.approx(expected)
    assert low <= high


def test_difference_of_a_good_and_a_bad_encoder(lists):
    good, bad = evaluate(lists, noisy), evaluate(lists, hard)
    for name, (value, low, high) in templates.difference(good, bad, n=100).items():
        assert value == pytest.approx(good.metrics[name] - bad.metrics[name])
        assert low <= value <= high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "", "galleries": (), "probes": ""}, "neither pairs nor galleries"),
        ({"probes": ""}, "go together"),
        ({"media": "nowhere"}, "nowhere: no such file"),
        ({"ranks": (0,)}, "ranks"),
        ({"flip": "both"}, "flip"),
        ({"far": (0.0,)}, "far"),
    ],
)
def test_illegal_options_are_user_errors(lists, options, message):
    with pytest.raises(UserError, match=message):
        templates.prepare(replace(lists, **options), 8)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("media", "P00/P00_0001.png 100\n", "media:1: not a picture"),
        ("media", "P00/P00_0001.png a 1\n", "media:1: 'a' is no number"),
        ("media", "P99/P99_0001.png 100 1\n", "1 pictures are not in"),
        ("scores", "P00/P00_0001.png 0.5\n", "no score of 'P00/P00_0002.png'"),
        ("scores", "P00/P00_0001.png x\n", "scores:1: no score"),
        ("pairs", "100 101\n", "2 columns"),
        ("pairs", "100 101 2\n", "not 0 or 1"),
        ("pairs", "100 x 1\n", "not pairs of templates"),
        ("pairs", "100 101 1\n", "pairs of one kind only"),
        ("pairs", "100 999 1\n100 101 0\n", "template 999 is not in"),
        ("probes", "t,s\n100\n", "probes:2: not a template"),
        ("probes", "t,s\n100,1\n100,2\n", "probes:3: template 100 of two subjects"),
        ("probes", "t,s\n", "no templates"),
        ("probes", "t,s\n101,19\n", "none has a mate"),
    ],
)
def test_lists_are_checked(lists, tmp_path, key, text, message):
    path = tmp_path / key
    path.write_text(text)
    changed = {key: str(path)} | ({"scores": ""} if key == "media" else {})
    with pytest.raises(UserError, match=message):
        templates.prepare(replace(lists, **changed), 8)


def test_galleries_share_no_subject(lists):
    with pytest.raises(UserError, match="mates in two galleries"):
        templates.prepare(replace(lists, galleries=lists.galleries[:1] * 2), 8)
