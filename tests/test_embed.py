"""python -m facejax.embed: what it writes, what it keeps, what it refuses."""

import csv
import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from support import SIZE, trained_run

import facejax
from facejax import cli, embed
from facejax.data import arrays
from facejax.errors import UserError


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def faces(tmp_path):
    """Eleven pictures, the fifth of which is none."""
    (tmp_path / "faces").mkdir()
    rng = np.random.default_rng(0)
    for i in range(11):
        pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"faces/{i:02d}.png")
    (tmp_path / "faces/04.png").write_bytes(b"no picture")
    return tmp_path / "faces"


def command(workdir, faces, out, *more):
    embed.run([f"--workdir={workdir}", "--source=folder", f"--path={faces}", f"--out={out}", *more])
    manifest = json.loads((out / "embeddings.json").read_text())
    parts = [np.load(p) for p in sorted(out.glob("embeddings-*.npy"))]
    rows = []
    for path in sorted(out.glob("rows-*.csv")):
        with path.open(newline="") as file:
            rows += csv.DictReader(file)
    return manifest, parts, rows


def test_record_i_is_row_i(workdir, faces, tmp_path, capsys):
    manifest, parts, rows = command(
        workdir, faces, tmp_path / "out", "--records_per_shard=4", "--source.label=mine"
    )
    assert [len(a) for a in parts] == [4, 4, 3]
    found, names = np.concatenate(parts), sorted(p.name for p in faces.iterdir())
    good = [i for i in range(11) if i != 4]
    model = facejax.load(workdir)
    expected = model.embed([faces / names[i] for i in good])
    np.testing.assert_allclose(found[good], expected, rtol=0, atol=1e-6)
    assert np.isnan(found[4]).all()
    assert [(r["label"], int(r["index"]), r["name"]) for r in rows] == [
        ("mine", i, name) for i, name in enumerate(names)
    ]
    assert [r["rejected"] != "" for r in rows] == [i == 4 for i in range(11)]
    norms = [float(rows[i]["norm"]) for i in good]
    np.testing.assert_allclose(norms, np.linalg.norm(found[good], axis=1), rtol=1e-6)
    assert rows[4]["norm"] == ""
    with (tmp_path / "out/rejected.csv").open(newline="") as file:
        (rejected,) = csv.DictReader(file)
    assert (rejected["source"], rejected["index"], rejected["name"]) == ("mine", "4", "04.png")
    told = {key: manifest[key] for key in ("schema_version", "records", "embedded", "rejected")}
    assert told == {"schema_version": 1, "records": 11, "embedded": 10, "rejected": 1}
    assert (manifest["step"], manifest["preprocess"]["size"]) == (2, SIZE)
    assert "10 embedded, 1 rejected" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_finished_shards_are_kept_and_missing_ones_made_again(workdir, faces, tmp_path, capsys):
    out = tmp_path / "out"
    first, parts, _ = command(workdir, faces, out, "--records_per_shard=4")
    times = {p: p.stat().st_mtime_ns for p in out.glob("embeddings-*.npy")}
    lost = out / "embeddings-00001-of-00003.npy"
    lost.unlink()
    capsys.readouterr()
    again, same, _ = command(workdir, faces, out, "--records_per_shard=4")
    assert "shard 2/3" in (told := capsys.readouterr().out)
    assert "shard 1/3" not in told
    assert again == first
    for a, b in zip(parts, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert {p for p, time in times.items() if p.stat().st_mtime_ns != time} == {lost}


def test_parquet_without_pyarrow_is_refused(workdir, faces, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"^--format: Parquet needs pyarrow .*; pip install"):
        command(workdir, faces, tmp_path / "out", "--format=parquet")
    assert not (tmp_path / "out").exists()
    told = {"format": "parquet", "shards": 1}
    with pytest.raises(UserError, match=r"00000-of-00001\.parquet: Parquet needs pyarrow"):
        arrays.read_shard(tmp_path, 0, told)


def test_parquet_shards_hold_the_same(workdir, faces, tmp_path, capsys):
    given = ("--records_per_shard=4", "--source.identity=none")
    command(workdir, faces, tmp_path / "npy", *given)
    written, none, _ = command(workdir, faces, out := tmp_path / "out", *given, "--format=parquet")
    assert (none, written["format"], written["rejected"]) == ([], "parquet", 1)
    capsys.readouterr()
    expected, found = arrays.open_shards(tmp_path / "npy")[1:], arrays.open_shards(out)[1:]
    for a, b in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(found[1], expected[1], strict=True):
        assert a.keys() == b.keys()
        assert [a[k] for k in ("label", "index", "name", "identity")] == [
            b[k] for k in ("label", "index", "name", "identity")
        ]
        assert bool(a["rejected"]) == bool(b["rejected"])
        assert float(a["norm"] or 0) == pytest.approx(float(b["norm"] or 0), rel=1e-8)
    table = parquet.read_table(out / "embeddings-00001-of-00003.parquet")
    assert table.schema.names == [*embed.COLUMNS, "embedding"]
    assert table["index"].to_pylist() == [4, 5, 6, 7]
    assert table["norm"].to_pylist()[0] is None
    # A shard that a kill left out is made again, and the folder's `features` read any format.
    (out / "embeddings-00001-of-00003.parquet").unlink()
    command(workdir, faces, out, *given, "--format=parquet")
    assert "shard 2/3" in (told := capsys.readouterr().out)
    assert "shard 1/3" not in told
    rows = arrays.open_rows(str(out), sorted(p.name for p in faces.iterdir()))
    np.testing.assert_array_equal(rows[5], table["embedding"][1].as_py())
    assert rows[4] is None


def test_any_source_and_any_checkpoint(workdir, tmp_path):
    out = tmp_path / "out"
    embed.run([f"--workdir={workdir}", "--step=1", "--source=synthetic", "--source.n=5",
               f"--source.size={SIZE}", f"--out={out}"])  # fmt: skip
    assert json.loads((out / "embeddings.json").read_text())["step"] == 1
    assert np.load(out / "embeddings-00000-of-00001.npy").shape == (5, 8)


def test_an_embedding_that_is_not_finite_is_rejected(workdir, tmp_path):
    trained = facejax.load(workdir)
    head = trained.params["head"] | {"bias": np.full(8, np.inf, np.float32)}
    broken = dataclasses.replace(trained, params=trained.params | {"head": head})
    manifest = embed.embed(broken, {"name": "synthetic", "n": 3, "size": 16}, tmp_path / "out")
    assert manifest["rejected"] == 3
    assert (tmp_path / "out/rejected.csv").read_text().count("embedding not finite") == 3
    assert np.isnan(np.load(tmp_path / "out/embeddings-00000-of-00001.npy")).all()


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--source=folder", "--path=nowhere", "--out={new}"], 2, "error: nowhere: does not exist"),
        (["--source=folde", "--out={new}"], 2, "error: --source.name: no source called 'folde'"),
        (["--source=synthetic", "--source.n=0", "--out={new}"], 2, "error: --source.n: 0 is too"),
        (["--source=synthetic", "--out={new}", "--export=x"], 2, "exactly one of --workdir and"),
        (["--source=synthetic", "--out={new}", "--step=9"], 2, "error: --step: no checkpoint at"),
        (["--source=synthetic", "--out={used}"], 2, "holds embeddings with another source"),
        (["--source=synthetic", "--out={file}"], 3, "storage failed"),
        (["--source=synthetic", "--out={new}", "--records_per_shard=0"], 2, "give 1 or more"),
        (["--source=synthetic", "--out={new}", "--format=csv"], 2, "--format"),
        (["--source=synthetic", "--source.n=2", "--source.size=16", "--out={used}",
          "--format=parquet"], 2, "holds embeddings with another format"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(workdir, tmp_path, capsys, monkeypatch, arguments, status, told):
    embed.embed(facejax.load(workdir), {"name": "synthetic", "n": 2, "size": 16}, tmp_path / "used")
    (tmp_path / "file").touch()
    paths = {name: tmp_path / name for name in ("new", "used", "file")}
    given = [a.format(**paths) for a in arguments]
    monkeypatch.setattr(sys, "argv", ["embed", f"--workdir={workdir}", *given])
    with pytest.raises(SystemExit) as end:
        cli.main(embed.run)
    assert end.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line
