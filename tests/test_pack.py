"""Packing, as a user runs it: round trips, interruptions, parts, mistakes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facejax import cli, pack, plugins, tokenizer
from facejax.data.decode import decode, encode_jpeg
from facejax.data.mixture import open_source
from facejax.data.packed import pack_record, unpack_record
from facejax.data.sources import arrayrecord, folder, recordio
from facejax.errors import TrainingFailed, UserError

SOURCE_OPTIONS = ("labels", "identity", "regions", "landmarks", "generated", "captions")


def command(cfg, out, *more):
    options = [f"--source.{key}={getattr(cfg, key)}" for key in SOURCE_OPTIONS]
    fixed = ["--source=folder", f"--path={cfg.path}", f"--out={out}", "--size=16"]
    return [*fixed, "--records_per_shard=2", *options, *more]


@pytest.fixture
def cfg(tmp_path):
    return folder.Config.tiny(tmp_path / "faces")


def contents(out):
    source = arrayrecord.open(arrayrecord.Config(str(out)))
    names = [source.name(i) for i in range(len(source))]
    return dict(zip(names, source.read(range(len(source)))))


def checksums(out):
    return {f["name"]: f["sha256"] for f in json.loads((out / "dataset.json").read_text())["files"]}


def test_round_trip_keeps_every_field(cfg, tmp_path):
    pack.run(command(cfg, tmp_path / "out"))
    packed, original = contents(tmp_path / "out"), folder.open(cfg)
    source = arrayrecord.open(arrayrecord.Config(str(tmp_path / "out")))
    assert source.fields == original.fields
    assert list(packed) == [original.name(i) for i in range(6)]
    wanted = original.fields
    for a, b in zip(packed.values(), original.read(range(6))):
        a, b = decode(a, 16, fields=wanted), decode(b, 16, fields=wanted)
        assert a.keys() == b.keys() == original.fields.keys()
        for key in ("image", "generated"):
            assert np.abs(a[key].astype(int) - b[key]).mean() < 4
        for key in a.keys() - {"image", "generated"}:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("name", ["folder", "recordio", "webdataset"])
def test_what_a_source_knows_is_carried_along(name, tmp_path):
    module = plugins.load("source", name, "test")
    (tmp_path / "set").mkdir()
    cfg = module.Config.tiny(tmp_path / "set")
    original, out = module.open(cfg), tmp_path / "out"
    options = [f"--source.{key}={value}" for key, value in asdict(cfg).items()]
    options = [text for text in options if not text.startswith("--source.path=")]
    fixed = [f"--source={name}", f"--path={cfg.path}", f"--out={out}", "--size=20"]
    pack.run([*fixed, "--records_per_shard=4", *options])
    source = arrayrecord.open(arrayrecord.Config(str(out)))
    assert source.fields == original.fields
    for (title, a), b in zip(contents(out).items(), original.read(range(6))):
        assert title in {original.name(i) for i in range(6)}
        for field in original.fields.keys() - {"image", "generated", "regions", "landmarks"}:
            np.testing.assert_array_equal(a[field], b[field])
        assert np.abs(decode(a, 20)["image"].astype(int) - decode(b, 20)["image"]).mean() < 6
    told = source.identities()
    assert told.tolist() == original.identities().tolist()
    (out / "identity.npy").unlink()
    np.testing.assert_array_equal(source.identities(), told)


def test_identities_are_those_of_the_records_that_were_kept(tmp_path):
    (tmp_path / "set").mkdir()
    faces = [encode_jpeg(np.full((8, 8, 3), 9, np.uint8), 90)] * 5
    faces[1] = b"broken"
    recordio.write(tmp_path / "set/train.rec", list(zip([0, 0, 1, 2, 2], faces)))
    out = tmp_path / "out"
    pack.run(["--source=recordio", f"--path={tmp_path / 'set'}", f"--out={out}", "--size=8",
              "--records_per_shard=2"])  # fmt: skip
    source = arrayrecord.open(arrayrecord.Config(str(out)))
    assert source.identities().tolist() == [0, 1, 2, 2]
    assert source.identities().dtype == np.int32
    assert (out / "rejected.csv").read_text().splitlines()[1].startswith("recordio,1,train.rec:2,")


def test_manifest_tells_counts_statistics_and_checksums(cfg, tmp_path):
    (Path(cfg.path) / "images/4.jpg").write_bytes(b"\xff\xd8 not a picture")
    pack.run(command(cfg, tmp_path / "out"))
    manifest = json.loads((tmp_path / "out/dataset.json").read_text())
    assert (manifest["records"], manifest["rejected"], manifest["size"]) == (5, 1, 16)
    assert [f["records"] for f in manifest["files"]] == [2, 2, 1]
    assert manifest["known"]["landmarks"] == 5
    for file in manifest["files"]:
        data = (tmp_path / "out" / file["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
    records = folder.open(cfg).read([0, 1, 2, 3, 5])
    pixels = np.stack([decode(r, 16)["image"] for r in records]) / 255
    np.testing.assert_allclose(manifest["mean"], pixels.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(manifest["std"], pixels.std((0, 1, 2)), rtol=1e-9)
    header, row = (tmp_path / "out/rejected.csv").read_text().splitlines()
    assert header == "source,index,name,reason"
    assert row.startswith("folder,4,images/4.jpg,")


def test_rerun_keeps_finished_shards_and_repairs_others(cfg, tmp_path, capsys):
    out = tmp_path / "out"
    pack.run(command(cfg, out))
    before, whole = checksums(out), (out / "dataset.json").read_bytes()
    shards = sorted(out.glob("*.array_record"))
    first = shards[0].stat().st_mtime_ns
    (out / "dataset.json").unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1] + b"?")
    shards[2].unlink()
    capsys.readouterr()
    pack.run(command(cfg, out))
    assert "shard 1/3" not in (told := capsys.readouterr().out)
    assert "shard 2/3" in told
    assert "shard 3/3" in told
    assert shards[0].stat().st_mtime_ns == first
    assert (checksums(out), (out / "dataset.json").read_bytes()) == (before, whole)


def test_parts_together_equal_the_whole(cfg, tmp_path):
    pack.run(command(cfg, tmp_path / "whole"))
    out = tmp_path / "parts"
    pack.run(command(cfg, out, "--shard=2/2"))
    assert not (out / "dataset.json").exists()
    with pytest.raises(UserError, match="packing is not finished"):
        arrayrecord.open(arrayrecord.Config(str(out)))
    pack.run(command(cfg, out, "--shard=1/2"))
    assert checksums(out) == checksums(tmp_path / "whole")
    assert (out / "dataset.json").read_text() == (tmp_path / "whole/dataset.json").read_text()


def test_killed_in_the_middle_and_started_again(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "faces").mkdir()
    for i in range(300):
        image = rng.integers(0, 256, (96, 96, 3), np.uint8)
        (tmp_path / f"faces/{i:03d}.jpg").write_bytes(encode_jpeg(image, 90))
    out = tmp_path / "out"
    arguments = ["--source=folder", f"--path={tmp_path / 'faces'}", "--size=64"]
    arguments += ["--records_per_shard=10", "--workers=1", f"--out={out}"]
    process = subprocess.Popen([sys.executable, "-m", "facejax.pack", *arguments])
    while not (out / "parts/00000.json").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "dataset.json").exists()
    pack.run(arguments)
    assert len(contents(out)) == 300
    pack.run([*arguments[:-1], f"--out={tmp_path / 'straight'}"])
    assert checksums(out) == checksums(tmp_path / "straight")
    assert not list(out.glob("*.tmp"))


def test_another_set_in_the_same_place_is_refused(cfg, tmp_path):
    pack.run(command(cfg, tmp_path / "out"))
    with pytest.raises(UserError, match="holds a set packed with another quality"):
        pack.run(command(cfg, tmp_path / "out", "--quality=80"))


def test_a_tokenizer_is_learned_from_the_captions(cfg, tmp_path, capsys):
    out = tmp_path / "out"
    fixed = ["--source=captioned", f"--out={out}", "--size=16"]
    pack.run([*fixed, "--train_tokenizer=300"])
    learned = tokenizer.load(out)
    assert learned.vocab <= 300
    assert f"{out}/tokenizer.json: {learned.vocab} tokens" in capsys.readouterr().out
    # Words that stand in the captions are whole.
    assert (learned.encode(["a green picture"], 12) != learned.pad).sum() == 5
    with pytest.raises(UserError, match="--train_tokenizer: 9 tokens; give 260 or more"):
        pack.run([*fixed, "--train_tokenizer=9"])
    with pytest.raises(UserError, match="--source: gives no captions"):
        pack.run(["--source=folder", f"--path={cfg.path}", *fixed[1:], "--train_tokenizer=300"])


def test_nothing_but_broken_images_fails(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces/0.jpg").write_bytes(b"nothing")
    with pytest.raises(TrainingFailed, match="all 1 records are broken"):
        pack.run(["--source=folder", f"--path={tmp_path / 'faces'}", f"--out={tmp_path / 'out'}"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--sise=3"], "--sise: unknown option; did you mean '--size'?"),
        (["--size=big"], "command line: argument --size: invalid int value: 'big'; see --help"),
        (["--size=0"], "--size: 0 is out of range; give 1 to 4096"),
        (["--shard=3/2"], "--shard: '3/2' is not a part; give i/n with 1 <= i <= n"),
        (["--source.identiy=x"], "--source.identiy: unknown key; did you mean 'identity'?"),
        (["--source.images"], "--source.images: has no value; write --source.images=VALUE"),
        (["--path=nowhere"], "nowhere: does not exist; give a folder or a .zip file"),
        (["stray"], "stray: unknown option"),
    ],
)
def test_mistakes_exit_with_2_and_one_line(tmp_path, more, told, monkeypatch, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    fixed = ["--source=folder", f"--path={tmp_path}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["pack", *fixed, *more])
    with pytest.raises(SystemExit) as stop:
        cli.main(pack.run)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {told}")
    assert error.count("\n") == 1


def test_exit_statuses(monkeypatch, capsys):
    def raises(error):
        def run(argv):
            raise error

        return run

    for run, status in (
        (lambda argv: None, 0),
        (lambda argv: 75, 75),
        (raises(TrainingFailed("a", "b\nc", "d")), 3),
        (raises(KeyboardInterrupt()), 130),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(run)
        assert stop.value.code == status
    assert "error: a: b c; d\n" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        cli.main(raises(ZeroDivisionError()))


def test_several_captions_are_kept_and_a_tokenizer_learned_from_them(cfg, tmp_path):
    options = {"path": cfg.path, "images": "images/*.jpg", "labels": cfg.labels}
    told = {**options, "caption_from": "attributes", "caption_count": 3}
    pack.pack(pack.make_plan("folder", told, size=16), tmp_path / "told")
    entry = open_source({"name": "folder", **told}, "x")
    records = contents(tmp_path / "told")
    for i in range(6):
        packed, original = records[entry.source.name(i)], entry.source.read([i])[0]
        assert packed["caption"] == original["caption"]
        assert len(packed["caption"]) == 3
    fixed = ["--source=folder", f"--path={cfg.path}", f"--out={tmp_path / 'out'}", "--size=16"]
    more = [f"--source.{key}={value}" for key, value in told.items() if key != "path"]
    pack.run([*fixed, *more, "--train_tokenizer=400"])
    learned = tokenizer.load(tmp_path / "out" / tokenizer.FILE)
    text = records["images/0.jpg"]["caption"][0]
    assert learned.decode(learned.encode([text], 64)[0]).strip() == text


def test_records_survive_serialisation():
    record = {
        "image": b"\xff\xd8",
        "identity": np.int32(4),
        "age": np.float32(2.5),
        "caption": ("süß", "sauer"),
        "attributes": np.array([1, -1, 0], np.int8),
        "landmarks": np.arange(6, dtype=">f4").reshape(3, 2),
    }
    out = unpack_record(pack_record(record))
    assert out.keys() == record.keys()
    assert out["caption"] == record["caption"]
    for key, value in record.items():
        np.testing.assert_array_equal(out[key], value)
    assert (out["landmarks"].dtype, out["attributes"].dtype) == ("<f4", "int8")


@pytest.mark.slow
@pytest.mark.real_faces
def test_real_faces_survive_packing(tmp_path):
    default = Path(__file__).parents[1] / "../shared/data"
    data = Path(os.environ.get("FACEJAX_REAL_FACES", default))
    if not (data / "celeba_dev.zip").exists():
        pytest.skip(f"no real faces at {data}; set FACEJAX_REAL_FACES")
    options = {"path": str(data / "celeba_dev.zip"), "images": "0000*.jpg", "identity": "column"}
    options |= {"labels": str(data / "celeba_dev_identity.csv")}
    manifest = pack.pack(pack.make_plan("folder", options), tmp_path / "out")
    original = folder.open(folder.Config(**options))
    packed = arrayrecord.open(arrayrecord.Config(str(tmp_path / "out")))
    assert manifest["records"] == len(packed) == len(original) > 50
    for i in range(len(packed)):
        a, b = (decode(s.read([i])[0], 112, fields=["identity"]) for s in (packed, original))
        assert a["identity"] == b["identity"]
        assert np.abs(a["image"].astype(int) - b["image"]).mean() < 2
