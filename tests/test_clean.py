"""python -m facejax.clean: planted faults are found, clean people are left alone."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from facejax import clean, cli
from facejax.cleaning import across, blocks, within
from facejax.data.arrays import open_shards, parquet_path, shard_paths
from facejax.data.blocklist import read_blocklist
from facejax.data.mixture import Mixture, open_source
from facejax.embed import _write_parquet
from facejax.errors import UserError

D = 128


def people(count, pictures, seed=0, spread=0.044):
    """Unit vectors of `count` people, about 0.8 within and near 0 across, and whose they are."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(count, D))
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    who = np.repeat(np.arange(count), pictures)
    x = centre[who] + spread * rng.normal(size=(len(who), D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), who


def stored(folder, x, identities, rejected=(), weights="w"):
    """What `facejax.embed` would have written of them, in two shards."""
    folder.mkdir(parents=True)
    half = len(x) // 2
    for shard, rows in enumerate((range(half), range(half, len(x)))):
        arrays, listing = shard_paths(folder, shard, 2)
        np.save(arrays, 3 * x[list(rows)])
        with listing.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("label", "index", "name", "norm", "rejected", "identity"))
            for i in rows:
                bad = "truncated" if i in rejected else ""
                writer.writerow(("set", i, f"{i:05d}.jpg", "3", bad, identities[i]))
    source = {"name": "folder", "path": "no"}
    manifest = {"shards": 2, "format": "npy", "weights_sha256": weights, "source": source}
    (folder / "embeddings.json").write_text(json.dumps(manifest))
    return folder


def run(folder, out, *options):
    clean.run([f"--embeddings={folder}", f"--out={out}", *options])
    with (out / "clean.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((out / "summary.json").read_text())


def purity(labels, who):
    """Share of pictures that show the person whom most pictures of their identity show."""
    right = 0
    for label in set(labels) - {""}:
        shown = [w for name, w in zip(labels, who) if name == label]
        right += max(map(shown.count, set(shown)))
    return right / sum(name != "" for name in labels)


def test_a_set_with_a_third_of_wrong_labels_is_cleaner_afterwards(tmp_path):
    x, who = people(40, 12)
    rng = np.random.default_rng(1)
    wrong = rng.random(len(x)) < 0.3
    labels = np.where(wrong, rng.integers(0, 40, len(x)), who)
    rows, summary = run(stored(tmp_path / "noisy", x, [f"p{n}" for n in labels]), tmp_path / "out")
    after = [row["identity"] for row in rows]
    assert purity([f"p{n}" for n in labels], who) < 0.75
    assert purity(after, who) > 0.99
    kept = np.array([bool(name) for name in after])
    assert kept[labels == who].mean() > 0.99
    assert summary["kept"] + sum(summary["left_out"].values()) == len(x)
    assert {row["reason"] for row in rows if not row["identity"]} <= {"stray", "unsure", "copy"}
    assert 0.65 < summary["in_largest_cluster"] < 0.75
    assert summary["cosine_to_centre_before"] < 0.8 < summary["cosine_to_centre_after"]
    # What is left out is what the blocklist says.
    with (tmp_path / "out/blocked.csv").open(newline="") as file:
        blocked = [int(row["index"]) for row in csv.DictReader(file)]
    assert blocked == np.flatnonzero(~kept).tolist()


def test_a_clean_set_is_left_alone_and_stays_so(tmp_path):
    x, who = people(40, 12, seed=3)
    rows, summary = run(stored(tmp_path / "clean", x, [f"p{n}" for n in who]), tmp_path / "out")
    assert summary["kept"] > 0.99 * len(x)
    assert summary["renamed"] == 0
    kept = [i for i, row in enumerate(rows) if row["identity"]]
    again = stored(tmp_path / "again", x[kept], [f"p{who[i]}" for i in kept])
    assert run(again, tmp_path / "out2")[1]["kept"] == len(kept)


def test_one_person_under_two_names_becomes_one_and_look_alikes_lose_the_smaller(tmp_path):
    x, who = people(6, 10, seed=5)
    labels = [f"p{n}" for n in who]
    for i in np.flatnonzero(who == 0)[:4]:
        labels[i] = "also p0"
    # Person 5 looks like person 4, at a cosine of about 0.6, and has fewer pictures.
    x[who == 5] = x[who == 5] * 0.8 + x[who == 4] * 0.6
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    chosen = [i for i in range(len(x)) if who[i] != 5 or i % 10 < 6]
    folder = stored(tmp_path / "set", x[chosen], [labels[i] for i in chosen])
    rows, summary = run(folder, tmp_path / "out")
    assert {row["identity"] for row in rows if row["old"] == "also p0"} == {"p0"}
    assert summary["renamed"] == 4
    assert {row["reason"] for row in rows if row["old"] == "p5"} == {"unsure"}
    assert {row["reason"] for row in rows if row["old"] == "p4"} == {""}


def test_copies_and_people_of_the_test_set_go(tmp_path):
    x, who = people(5, 8, seed=7)
    x[1] = x[0]
    folder = stored(tmp_path / "set", x, [f"p{n}" for n in who], rejected=(9,))
    x_test = x[who == 3][:1]
    test = stored(tmp_path / "test", np.repeat(x_test, 2, axis=0), ["a", "b"])
    rows, summary = run(folder, tmp_path / "out", f"--test={test}", "--copy=0.999")
    reasons = [row["reason"] for row in rows]
    assert reasons[1] == "copy"
    assert reasons[0] == ""
    assert reasons[9] == "rejected"
    assert {r for r, w in zip(reasons, who) if w == 3} == {"test"}
    assert summary["left_out"] == {"copy": 1, "rejected": 1, "test": 8}


def test_finished_stages_are_kept_and_another_plan_is_not_taken_for_this_one(tmp_path, monkeypatch):
    x, who = people(4, 6)
    folder = stored(tmp_path / "set", x, [f"p{n}" for n in who])
    rows, _ = run(folder, tmp_path / "out")
    assert len(list((tmp_path / "out/stages").iterdir())) == 3

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(within, "largest_cluster", fail)
    assert run(folder, tmp_path / "out")[0] == rows
    # Another threshold spares the stages before it.
    run(folder, tmp_path / "out", "--copy=0.99")
    with pytest.raises(AssertionError, match="again"):
        run(folder, tmp_path / "out", "--near=0.4")


def test_the_page_names_what_goes_and_why(tmp_path):
    x, who = people(6, 8, seed=2)
    labels = [f"<p{n}>" for n in who]
    labels[3] = "<p5>"
    run(stored(tmp_path / "set", x, labels), tmp_path / "out")
    page = (tmp_path / "out/review.html").read_text()
    assert "00003.jpg" in page
    assert "not in the largest cluster" in page
    assert "&lt;p5&gt;" in page
    assert "<p5>" not in page
    assert "1 of 6 identities are more than one cluster" in page
    assert "88.9%" in page


def test_clusters_are_those_of_dbscan():
    angle = np.deg2rad([0, 5, 10, 15, 60, 65, 120])
    x = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    near = np.cos(np.deg2rad(6))
    assert within.largest_cluster(x, near, 2).tolist() == [True] * 4 + [False] * 3
    # Cores need three pictures within 6 degrees: 5 and 10; 0 and 15 are at their border.
    assert within.largest_cluster(x, near, 3).tolist() == [True] * 4 + [False] * 3
    assert not within.largest_cluster(x, near, 4).any()
    assert within.largest_cluster(x[:1], near, 2).tolist() == [True]


def test_cleaning_in_blocks_and_from_parquet_finds_the_same(tmp_path, monkeypatch):
    x, who = people(12, 9, seed=4)
    rng = np.random.default_rng(2)
    labels = [f"p{n}" for n in np.where(rng.random(len(x)) < 0.2, rng.integers(0, 12, len(x)), who)]
    folder = stored(tmp_path / "npy", x, labels, rejected=(5,))
    rows, summary = run(folder, tmp_path / "out")
    monkeypatch.setattr(blocks, "BLOCK", 4)
    assert run(folder, tmp_path / "small")[0] == rows
    monkeypatch.undo()
    manifest, parts, listed = open_shards(folder)
    (tmp_path / "parquet").mkdir()
    for shard, part in enumerate(parts):
        half = listed[: len(part)] if shard == 0 else listed[-len(part) :]
        cells = [(r["label"], int(r["index"]), r["name"], 3.0, r["rejected"], r["identity"])
                 for r in half]  # fmt: skip
        _write_parquet(np.asarray(part), cells, parquet_path(tmp_path / "parquet", shard, 2))
    text = json.dumps(manifest | {"format": "parquet"})
    (tmp_path / "parquet/embeddings.json").write_text(text)
    assert run(tmp_path / "parquet", tmp_path / "again") == (rows, summary)
    assert 0 < summary["left_out"]["stray"] < 40


def test_centres_are_unit_means():
    x, who = people(30, 3, seed=9)
    groups = [*(np.flatnonzero(who == n) for n in range(30)), np.zeros(0, int)]
    centre, alike = across.centres(x, groups)
    np.testing.assert_allclose(np.linalg.norm(centre[:-1], axis=1), 1, rtol=1e-6)
    assert not centre[-1].any()
    expected = [(x[rows] @ centre[n]).mean() for n, rows in enumerate(groups[:-1])]
    np.testing.assert_allclose(alike, [*expected, 0], atol=1e-6)


def test_the_result_labels_and_blocks_a_folder(tmp_path):
    """`clean.csv` and `blocked.csv` are taken by the sources and the blocklist as they are."""
    x, who = people(6, 8, seed=6)
    labels = [f"p{n}" for n in who]
    labels[3], labels[40] = "p5", "also p5"
    (tmp_path / "faces").mkdir()
    for i in range(len(x)):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"faces/{i:05d}.jpg")
    rows, summary = run(stored(tmp_path / "set", x, labels), tmp_path / "out")
    assert rows[3]["reason"] == "stray"
    assert rows[40]["identity"] == "p5"
    table = str(tmp_path / "out/clean.csv")
    path = {"name": "folder", "path": str(tmp_path / "faces"), "label": "set"}
    entry = open_source({**path, "identity": "column", "labels": table}, "source")
    field = entry.source.fields["identity"]
    records = entry.source.read(range(len(x)))
    given = [field.names[r["identity"]] if r["identity"] >= 0 else "" for r in records]
    assert given == [row["identity"] for row in rows]
    blocked = read_blocklist(str(tmp_path / "out/blocked.csv"), Mixture([entry]))
    assert blocked.tolist() == [3]
    assert summary["left_out"] == {"stray": 1}


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("--near=2",), "--near"),
        (("--unsure=0.9",), "--unsure"),
        (("--nera=0.5",), "--nera"),
    ],
)
def test_bad_options_are_one_line(tmp_path, options, where, capsys, monkeypatch):
    x, who = people(3, 4)
    folder = stored(tmp_path / "set", x, [f"p{n}" for n in who])
    with pytest.raises(UserError) as caught:
        run(folder, tmp_path / "out", *options)
    assert caught.value.where == where
    monkeypatch.setattr("sys.argv", ["clean", f"--embeddings={tmp_path}", f"--out={tmp_path}/o"])
    with pytest.raises(SystemExit) as left:
        cli.main(clean.run)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_embeddings_without_identities_or_of_other_weights_are_refused(tmp_path):
    x, who = people(3, 4)
    nobody = stored(tmp_path / "nobody", x, [""] * len(x))
    with pytest.raises(UserError, match="no identities"):
        run(nobody, tmp_path / "out")
    broken = stored(tmp_path / "broken", x, [f"p{n}" for n in who], rejected=range(len(x)))
    with pytest.raises(UserError, match="no identities"):
        run(broken, tmp_path / "out")
    folder = stored(tmp_path / "set", x, [f"p{n}" for n in who])
    test = stored(tmp_path / "test", x, [""] * len(x), weights="other")
    with pytest.raises(UserError, match="other weights"):
        run(folder, tmp_path / "out", f"--test={test}")
