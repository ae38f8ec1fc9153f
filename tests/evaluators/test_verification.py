from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_faces import chance, constant, noisy, number, perfect, person
from PIL import Image

from facejax.errors import UserError
from facejax.evaluators import verification
from facejax.evaluators._metrics import unit

TEMPLATE = "{name}/{name}_{number:04d}.png"


def config(faces, folds=10, per_kind=20, **options) -> verification.Config:
    pairs = faces.pairs(folds, per_kind)
    return verification.Config(faces.images, pairs, template=TEMPLATE, bootstrap=100, **options)


def evaluate(cfg, embed):
    return verification.run(cfg, verification.prepare(cfg, 8), embed)


def test_perfect_embeddings(faces):
    result = evaluate(config(faces), perfect)
    expected = {"accuracy": 1, "accuracy_std": 0, "auc": 1, "eer": 0, "n": 400, "failed": 0}
    expected |= {"tar@far=1e-1": 1, "tar@far=1e-2": 1, "accuracy_low": 1, "accuracy_high": 1}
    assert {name: result.metrics[name] for name in expected} == expected
    assert 0 < result.metrics["threshold"] < 1
    assert result.items["correct"].all()
    np.testing.assert_array_equal(result.items["score"] > 0.5, result.items["same"])


def test_random_embeddings_are_at_chance(faces):
    result = evaluate(config(faces, per_kind=50), chance)
    assert result.metrics["accuracy"] == pytest.approx(0.5, abs=0.05)
    assert result.metrics["auc"] == pytest.approx(0.5, abs=0.06)
    assert result.metrics["eer"] == pytest.approx(0.5, abs=0.06)
    assert result.metrics["accuracy_low"] < 0.5 < result.metrics["accuracy_high"]


def test_constant_embeddings_are_at_chance_exactly(faces):
    metrics = evaluate(config(faces), constant).metrics
    names = ("accuracy", "accuracy_std", "auc", "eer", "tar@far=1e-1")
    assert [metrics[n] for n in names] == [0.5, 0, 0.5, 0.5, 0]


def literal_folds(a, b, same, folds, subtract_mean):
    """The rule of the protocol sheet, a pair and a threshold at a time."""
    fold = np.arange(len(same)) // (len(same) // folds)
    accuracies = []
    for f in range(folds):
        x, y = a, b
        if subtract_mean:
            mean = np.concatenate([a[fold != f], b[fold != f]]).mean(axis=0)
            x, y = unit(a - mean), unit(b - mean)
        best, chosen = -1, None
        for t in np.arange(0, 4, 0.01):
            right = sum(
                (np.sum((x[i] - y[i]) ** 2) < t) == same[i]
                for i in range(len(same))
                if fold[i] != f
            )
            if right > best:
                best, chosen = right, t
        test = [i for i in range(len(same)) if fold[i] == f]
        right = [(np.sum((x[i] - y[i]) ** 2) < chosen) == same[i] for i in test]
        accuracies.append(np.mean(right))
    return np.mean(accuracies), np.std(accuracies)


@pytest.mark.parametrize("subtract_mean", [False, True])
def test_folds_follow_the_literal_rule(faces, subtract_mean):
    def shifted(images):
        return noisy(images) + 0.2

    cfg = config(faces, folds=4, per_kind=10, subtract_mean=subtract_mean)
    data = verification.prepare(cfg, 8)
    result = verification.run(cfg, data, shifted)
    names = [data.pictures.source.name(row) for row in data.rows]
    ids = [(int(n[1:3]), int(n[-8:-4])) for n in names]
    images = np.array([[[[p, i, 0]]] for p, i in ids])
    a, b = (unit(shifted(images))[data.pairs[:, side]] for side in (0, 1))
    mean, std = literal_folds(a, b, data.same, 4, subtract_mean)
    assert 0.6 < mean < 1
    assert result.metrics["accuracy"] == pytest.approx(mean, abs=1e-12)
    assert result.metrics["accuracy_std"] == pytest.approx(std, abs=1e-12)


def test_the_mirror_image_can_be_used(faces):
    for p in range(faces.people):
        for i in range(1, faces.each + 1):
            image = np.zeros((8, 8, 3), np.uint8)
            image[:, :4, 2] = p + 1
            Image.fromarray(image).save(faces.path(p, i))

    def right_edge(images):  # black there, unless mirrored
        return np.eye(64, dtype=np.float32)[images[:, 0, -1, 2].astype(int)]

    accuracy = {
        flip: evaluate(config(faces, flip=flip), right_edge).metrics["accuracy"]
        for flip in ("none", "sum", "concat")
    }
    assert accuracy == {"none": 0.5, "sum": 1, "concat": 1}


def test_embeds_each_picture_once_in_chunks(faces):
    seen = []

    def counting(images):
        seen.extend(zip(person(images), number(images)))
        return perfect(images)

    cfg = config(faces)
    data = verification.prepare(cfg, 8)
    verification.run(cfg, data, counting)
    assert len(seen) == len(set(seen)) == len(data.rows)


def test_unreadable_pictures_and_bad_embeddings_are_counted_and_left_out(faces):
    cfg = config(faces)
    faces.path(3, 2).write_bytes(b"no picture")

    def nan_for_one(images):
        rows = perfect(images)
        rows[(person(images) == 5) & (number(images) == 1)] = np.nan
        return rows

    data = verification.prepare(cfg, 8)
    result = verification.run(cfg, data, nan_for_one)
    names = [data.pictures.source.name(row) for row in data.rows]
    bad = {names.index(n) for n in (faces.name(3, 2), faces.name(5, 1)) if n in names}
    hit = np.isin(data.pairs, list(bad)).any(axis=1)
    assert hit.sum() > 0
    np.testing.assert_array_equal(result.items["valid"], ~hit)
    assert result.metrics["failed"] == hit.sum()
    assert result.metrics["n"] == 400 - hit.sum()
    assert result.metrics["accuracy"] == 1
    assert np.isnan(result.items["score"][hit]).all()


def test_an_encoder_that_gives_nothing_finite_is_an_error(faces):
    with pytest.raises(UserError, match="gave a finite embedding"):
        evaluate(config(faces), lambda images: np.full((len(images), 4), np.nan, np.float32))


def test_rates_that_too_few_impostors_decide_are_left_out_or_flagged(faces):
    metrics = evaluate(config(faces), noisy).metrics  # 200 impostors
    assert "tar@far=1e-3" not in metrics
    assert metrics["impostors@far=1e-2"] == 2
    assert "impostors@far=1e-1" not in metrics
    assert metrics["tar@far=1e-2"] <= metrics["tar@far=1e-1"]


def test_view_1_takes_the_threshold_on_its_own_pairs(faces, tmp_path):
    lines = ["3", *(f"P0{p}\t1\t2" for p in range(3)), *(f"P0{p}\t1\tP1{p}\t2" for p in range(3))]
    path = tmp_path / "dev.txt"
    path.write_text("\n".join(lines))
    cfg = verification.Config(
        faces.images, str(path), template=TEMPLATE, protocol="best", bootstrap=0
    )
    assert evaluate(cfg, perfect).metrics["accuracy"] == 1
    with pytest.raises(UserError, match="have no folds"):
        verification.prepare(replace(cfg, protocol="lfw10"), 8)


def test_nothing_is_tuned_on_a_file_with_folds(faces):
    with pytest.raises(UserError, match="would tune"):
        verification.prepare(config(faces, protocol="best"), 8)


def test_a_missing_picture_is_named_with_its_line(faces):
    cfg = config(faces)
    faces.path(0, 1).unlink()
    with pytest.raises(UserError) as error:
        verification.prepare(cfg, 8)
    line = int(error.value.where.split(":")[-1])
    row = Path(cfg.pairs).read_text().splitlines()[line - 1].split("\t")
    assert ("P00", "1") in {(row[0], row[1]), (row[-2], row[-1]), (row[0], row[-1])}
    assert "no picture 'P00/P00_0001.png'" in error.value.what


def test_pairs_are_drawn_from_the_people_of_a_source():
    source = {"name": "synthetic", "n": 120, "identities": 24, "size": 16, "first_identity": 400}
    cfg = verification.Config(source=source, bootstrap=20)
    data = verification.prepare(cfg, 16)
    assert len(np.unique(data.fold)) == 10
    for fold in range(10):  # nobody is in two folds
        inside, outside = (data.people[data.pairs[which]] for which in _in_and_out(data, fold))
        assert not set(inside.ravel()) & set(outside.ravel())
    for (a, b), same in zip(data.pairs, data.same):
        assert (data.people[a] == data.people[b]) == same
    records = data.pictures.source.read(data.rows.tolist())
    assert data.people.tolist() == [str(r["identity"]) for r in records]

    seen = []

    def embed(images):
        seen.append(len(images))
        return images.reshape(len(images), -1).astype(np.float32)

    metrics = verification.run(cfg, data, embed).metrics
    assert metrics["n"] == len(data.pairs) >= 80
    assert sum(seen) == len(data.rows) == len(set(data.rows))


def _in_and_out(data, fold):
    return data.fold == fold, data.fold != fold


def test_pairs_are_drawn_from_the_people_of_folders(faces):
    cfg = verification.Config(faces.images, 200, bootstrap=0)
    result = evaluate(cfg, perfect)
    assert result.metrics["accuracy"] == 1
    assert (result.metrics["n"], result.items["same"].sum()) == (200, 100)
    again = evaluate(replace(cfg, seed=1), perfect)
    assert not np.array_equal(again.items["subjects"], result.items["subjects"])
    with pytest.raises(UserError, match="pairs: 30 can't be drawn"):
        verification.prepare(replace(cfg, pairs=30), 8)


def test_the_pairs_file_of_a_set_beneath_another_folder(faces, tmp_path):
    cfg = config(faces)
    above = evaluate(replace(cfg, path=str(tmp_path)), noisy)
    assert above.metrics == evaluate(cfg, noisy).metrics


@pytest.mark.parametrize(
    "options",
    [
        {"flip": "summ"},
        {"protocol": "lfw"},
        {"tar": "exactly"},
        {"crop": 0.0},
        {"far": (1e-3, 2.0)},
        {"template": "{nom}.png"},
        {"path": "nowhere"},
    ],
)
def test_illegal_options_are_user_errors(faces, options):
    with pytest.raises(UserError):
        verification.prepare(replace(config(faces), **options), 8)


def test_difference_of_a_good_and_a_bad_encoder(faces):
    cfg = config(faces)
    good, bad = evaluate(cfg, noisy), evaluate(cfg, chance)
    value, low, high = verification.difference(good, bad, n=200)["accuracy"]
    assert value == pytest.approx(good.metrics["accuracy"] - bad.metrics["accuracy"])
    assert 0 < low < value < high
    assert verification.difference(good, good, n=50)["accuracy"] == (0, 0, 0)


def test_difference_compares_the_pairs_that_both_could_score(faces):
    def lossy(images):
        rows = chance(images)
        rows[person(images) < 5] = np.inf
        return rows

    cfg = config(faces)
    a, b = evaluate(cfg, perfect), evaluate(cfg, lossy)
    both = b.items["valid"]
    expected = 1 - b.items["correct"][both].mean()
    assert verification.difference(a, b, n=20)["accuracy"][0] == pytest.approx(expected)


def test_what_the_report_draws(faces):
    result = evaluate(config(faces), noisy)
    x, y = result.curves["roc"]["x"], result.curves["roc"]["y"]
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) >= 0).all()
    assert (x[-1], y[-1]) == (1, 1)
    assert result.curves["roc"]["logx"] is True
    for kind in ("same", "different"):
        assert result.curves[f"scores/{kind}"]["y"].sum() == pytest.approx(1)
    assert result.embeddings.dtype == np.float32
    assert len(result.embeddings) == len(result.labels) <= 600
    assert np.unique(result.labels, return_counts=True)[1].min() >= 5


@pytest.fixture
def view_1(faces, tmp_path):
    """Development lists: training pairs of the first ten people, test pairs of the others."""
    for name, first in (("train", 0), ("test", 10)):
        same = [f"P{first + p:02d}\t{i}\t{i + 1}" for p in range(10) for i in (1, 3, 5)]
        other = [
            f"P{first + p:02d}\t{i}\tP{first + (p + 1) % 10:02d}\t{i + 1}"
            for p in range(10)
            for i in (2, 4, 6)
        ]
        (tmp_path / f"{name}.txt").write_text("\n".join(["30", *same, *other]))
    return verification.Config(
        faces.images,
        str(tmp_path / "test.txt"),
        template=TEMPLATE,
        protocol="dev",
        train_pairs=str(tmp_path / "train.txt"),
        bootstrap=50,
    )


def very_noisy(images):
    return perfect(images)[:, :24] + 0.5 * np.pad(chance(images), ((0, 0), (0, 8)))


def test_the_threshold_of_view_1_comes_from_its_training_pairs(view_1):
    data = verification.prepare(view_1, 8)
    result = verification.run(view_1, data, very_noisy)
    assert (result.metrics["n"], len(result.items["same"])) == (60, 60)
    assert set(data.people[data.pairs[data.tested]].ravel()) == {f"P{p}" for p in range(10, 20)}
    alone = replace(view_1, protocol="best", train_pairs="", pairs=view_1.train_pairs)
    threshold = evaluate(alone, very_noisy).metrics["threshold"]
    assert result.metrics["threshold"] == threshold
    own = evaluate(replace(alone, pairs=view_1.pairs), very_noisy)
    assert own.metrics["threshold"] != threshold
    expected = np.mean((own.items["score"] > threshold) == own.items["same"])
    assert result.metrics["accuracy"] == pytest.approx(expected)
    for name in ("auc", "eer", "tar@far=1e-1"):
        assert result.metrics[name] == own.metrics[name]
    assert verification.difference(result, result, n=20)["accuracy"] == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_pairs": ""}, "train_pairs: protocol 'dev' with train_pairs ''"),
        ({"protocol": "best"}, "train_pairs: protocol 'best'"),
        ({"pairs": 200}, "pairs: protocol='dev' draws no pairs"),
    ],
)
def test_view_1_needs_two_files(view_1, options, message):
    with pytest.raises(UserError, match=message):
        verification.prepare(replace(view_1, **options), 8)


def test_view_1_has_no_folds(faces, view_1):
    with pytest.raises(UserError, match="they have folds"):
        verification.prepare(replace(view_1, train_pairs=faces.pairs(4, 10)), 8)


def test_a_byte_per_dimension_changes_little(faces):
    cfg = config(faces, per_kind=50)
    whole = evaluate(cfg, very_noisy)
    quantised = evaluate(replace(cfg, quantize=True), very_noisy)
    moved = np.abs(quantised.items["score"] - whole.items["score"])
    assert 1e-6 < moved.max() < 0.02
    assert abs(quantised.metrics["accuracy"] - whole.metrics["accuracy"]) <= 0.005
    assert abs(quantised.metrics["auc"] - whole.metrics["auc"]) <= 0.005
