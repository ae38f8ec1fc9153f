"""The folder source as a user meets it: what it finds, and what it is told when it can't."""

import dataclasses
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from facejax.data.align import regions_from_landmarks
from facejax.data.captions import Captioned
from facejax.data.decode import decode, encode_jpeg
from facejax.data.fields import collate
from facejax.data.records import BadRecord, Field
from facejax.data.sources import folder, synthetic
from facejax.errors import UserError


@pytest.fixture
def cfg(tmp_path):
    return folder.Config.tiny(tmp_path)


def changed(cfg, **values):
    return folder.open(dataclasses.replace(cfg, **values))


def test_every_annotation_of_the_tiny_set(cfg):
    source = folder.open(cfg)
    assert [source.name(i) for i in range(len(source))] == [f"images/{i}.jpg" for i in range(6)]
    record = source.read([3])[0]
    assert record["image"][:2] == b"\xff\xd8"
    assert record["identity"] == 1
    assert source.fields["identity"].names == ("person 0", "person 1", "person 2")
    assert source.fields["attributes"].names == ("Smiling", "Male")
    assert record["attributes"].tolist() == [-1, 0]
    assert record["landmarks"].tolist() == [[6, 11], [14, 11]]
    assert record["caption"] == "a face, number 3"
    assert record["age"] == 23
    assert record["regions"][:4] == b"\x89PNG"
    assert record["generated"][:2] == b"\xff\xd8"
    assert record["generated"] != record["image"]


def test_an_image_without_its_generated_twin_says_so_or_goes_without(cfg, tmp_path):
    (tmp_path / "generated/3.jpg").unlink()
    with pytest.raises(UserError, match=r"1 images have no entry: images/3\.jpg"):
        folder.open(cfg)
    two, three = changed(cfg, missing="unknown").read([2, 3])
    assert "generated" in two
    assert "generated" not in three


def test_action_units_with_their_intensities(cfg, tmp_path):
    path = tmp_path / "units.csv"
    path.write_text("file,AU12,AU4,AU6,Smiling\n0.jpg,0,5,1,1\n1.jpg,3,,0,-1\n2.jpg,,,,0\n")
    source = changed(cfg, labels=str(path), identity="none", missing="unknown")
    assert source.fields["units"] == Field((3,), "int8", names=("AU12", "AU4", "AU6"))
    assert source.fields["attributes"].names == ("Smiling",)
    records = source.read(range(4))
    assert [r["units"].tolist() for r in records] == [[-1, 5, 1], [3, 0, -1], [0] * 3, [0] * 3]
    decoded = [decode(r, 24, fields=source.fields) for r in records]
    has = collate(decoded, {"units": source.fields["units"]}, 24)["has_units"]
    assert has.tolist() == [True, True, False, False]
    captions = Captioned(source, 40, seed=0).read([1])[0]["caption"]
    assert any("pronounced pulling of the lip corners" in text for text in captions)
    assert any("without raising of the cheeks" in text for text in captions)
    path.write_text("file,AU12\n0.jpg,-1\n1.jpg,1\n")
    binary = changed(cfg, labels=str(path), identity="none", missing="unknown")
    assert binary.fields["attributes"].names == ("AU12",)
    assert "units" not in binary.fields


def captions_of(cfg, **values):
    source = changed(cfg, **values)
    return [record.get("caption") for record in source.read(range(len(source)))]


def test_several_captions_of_an_image(cfg, tmp_path):
    path = tmp_path / "several.csv"
    path.write_text(
        "file,caption,caption2,caption_id\n0.jpg,one,two,7\n1.jpg,,alone,8\n"
        "0.jpg, three ,,9\n2.jpg,,,9\n4.jpg,x,,\n5.jpg,y,z,\n"
    )
    with pytest.raises(UserError, match=r"1 images have no entry: images/3\.jpg"):
        changed(cfg, captions=str(path))
    found = captions_of(cfg, captions=str(path), missing="unknown")
    assert found == [("one", "two", "three"), "alone", None, None, "x", ("y", "z")]
    for i in range(6):
        (tmp_path / f"images/{i}.txt").write_text(f"\ufeffa {i}\n\n b {i} \n" if i else " \n")
    (tmp_path / "images/5.txt").write_bytes(b"caf\xe9")
    source = changed(cfg, captions="{parent}/{stem}.txt")
    records = source.read(range(6))
    assert "caption" not in records[0]
    assert records[1]["caption"] == ("a 1", "b 1")
    assert records[5].reason.startswith("the caption is not UTF-8")


def test_captions_without_any_words_are_refused(cfg, tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("file,caption\n" + "".join(f'{i}.jpg,"  "\n' for i in range(6)))
    with pytest.raises(UserError, match=r"captions\.csv: no image has a caption with words"):
        changed(cfg, captions=str(path))


def test_captions_in_a_parquet_file(cfg, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "told.parquet")
    files = ["0.jpg", "1.jpg", "0.jpg", "2.jpg", "3.jpg"]

    def write(**columns):
        parquet.write_table(pyarrow.table({"n": list(range(5)), "file": files, **columns}), path)

    write(caption=["a", None, "b", "", "c"])
    assert captions_of(cfg, captions=path, missing="unknown")[:4] == [("a", "b"), None, None, "c"]
    write(caption=[["a", "b"], [], ["c"], [None, "d"], None])
    found = captions_of(cfg, captions=path, missing="unknown")
    assert found == [("a", "b", "c"), None, "d", None, None, None]
    write(caption=[1, 2, 3, 4, 5])
    with pytest.raises(UserError, match=r"column 'caption' holds int64"):
        changed(cfg, captions=path)
    (tmp_path / "told.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="no Parquet file"):
        changed(cfg, captions=path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        changed(cfg, captions=path)


def test_zip_and_directory_give_the_same_records(cfg, tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for kind in ("images/*.jpg", "masks/*.png", "generated/*.jpg"):
            for file in tmp_path.glob(kind):
                archive.write(file, file.relative_to(tmp_path))
    plain, zipped = folder.open(cfg), changed(cfg, path=str(path))
    assert plain.fields == zipped.fields
    for a, b in zip(plain.read(range(6)), zipped.read(range(6))):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_identity_from_the_folder_names(tmp_path):
    for person in ("zoe", "ann"):
        (tmp_path / "people" / person).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "people" / person / f"{i}.png")
    source = folder.open(folder.Config(path=str(tmp_path), identity="parent"))
    assert source.fields["identity"].names == ("ann", "zoe")
    assert [r["identity"] for r in source.read(range(4))] == [0, 0, 1, 1]


def test_images_glob_and_caption_files(cfg, tmp_path):
    for i in range(5):
        (tmp_path / f"images/{i}.txt").write_text(f"text {i}\n")
    template = "{parent}/{stem}.txt"
    with pytest.raises(UserError, match=r"1 images have no entry: images/5\.jpg"):
        changed(cfg, captions=template)
    source = changed(cfg, captions=template, missing="unknown")
    assert source.read([4])[0]["caption"] == "text 4"
    assert "caption" not in source.read([5])[0]
    assert len(changed(cfg, images="images/[0-3].jpg")) == 4
    assert len(changed(cfg, regions=None, images="*.png", labels=(), identity="none",
                       landmarks=None, generated=None, captions=None)) == 6  # fmt: skip


def test_several_label_files_are_merged(cfg, tmp_path):
    rows = "".join(f"{i}.jpg,{(-1) ** i},mood {i % 2}\n" for i in range(6))
    (tmp_path / "more.csv").write_text("file,Young,expression\n" + rows)
    source = changed(cfg, labels=(cfg.labels, str(tmp_path / "more.csv")))
    assert source.fields["attributes"].names == ("Smiling", "Male", "Young")
    assert source.fields["expression"].names == ("mood 0", "mood 1")
    record = source.read([1])[0]
    assert record["attributes"].tolist() == [-1, 0, -1]
    assert (record["identity"], record["expression"]) == (0, 1)


def test_columns_of_classes_are_fields_of_their_own(cfg, tmp_path):
    rows = "".join(f"{i}.jpg,{'fm'[i % 2]},{i // 3}0s,1\n" for i in range(6))
    (tmp_path / "more.csv").write_text("file,gender,age,Young\n" + rows)
    source = changed(cfg, labels=(str(tmp_path / "more.csv"),), identity="none",
                     classes=("gender", "age"))  # fmt: skip
    assert source.fields["gender"].names == ("f", "m")
    assert source.fields["age"].names == ("00s", "10s")
    assert source.fields["attributes"].names == ("Young",)
    record = source.read([3])[0]
    assert (record["gender"], record["age"]) == (1, 1)
    with pytest.raises(UserError, match="has no column 'gendre'; did you mean 'gender'"):
        changed(cfg, labels=str(tmp_path / "more.csv"), identity="none",
                classes=("gendre", "age"))  # fmt: skip


def test_unlabelled_images_lack_the_fields(cfg, tmp_path):
    (tmp_path / "part.csv").write_text("file,identity,age,Smiling\n0.jpg,ann,,1\n")
    source = changed(cfg, labels=str(tmp_path / "part.csv"), missing="unknown")
    known, unknown = source.read([0, 1])
    assert known["identity"] == 0
    assert "age" not in known
    assert unknown["identity"] == -1
    assert unknown["attributes"].tolist() == [0]


def test_unreadable_files_are_bad_records(cfg, tmp_path):
    source = folder.open(cfg)
    (tmp_path / "images/2.jpg").unlink()
    good, bad = source.read([1, 2])
    assert isinstance(good, dict)
    assert isinstance(bad, BadRecord)
    assert "2.jpg" in bad.reason


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"path": "nowhere"}, "nowhere: does not exist"),
        ({"images": "*.webp"}, "holds no images; change images='\\*.webp'; the set holds captions"),
        ({"labels": "nowhere.csv"}, "nowhere.csv: No such file"),
        ({"identity_column": "who"}, "has no column 'who'"),
        ({"labels": ()}, "labels: has no column 'identity'"),
        ({"regions": "maps/{stem}.png"}, "no such file, as 'maps/0.png'"),
        ({"regions": "masks/{name}.png"}, "unknown part"),
    ],
)
def test_mistakes_are_user_errors(cfg, values, told):
    with pytest.raises(UserError, match=told):
        changed(cfg, **values)


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("labels", "file,identity\nother.jpg,x\n", "no row matches an image"),
        ("landmarks", "file,x0,y0\n0.jpg,a,1\n", "'a' in column x0 is not a number"),
        ("landmarks", "file,x0,x1\n0.jpg,1,1\n", "columns are not file,x0,y0"),
        ("captions", "file,text\n0.jpg,hello\n", "no column 'caption'"),
    ],
)
def test_files_that_do_not_fit_are_user_errors(cfg, tmp_path, key, text, told):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UserError, match=told):
        changed(cfg, missing="unknown", **{key: str(tmp_path / "bad.csv")})


def test_empty_directory_and_flat_parent_identity(cfg, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images; it holds no files"):
        folder.open(folder.Config(path=str(tmp_path / "empty")))
    with pytest.raises(UserError, match="in no folder"):
        folder.open(folder.Config(path=str(tmp_path / "images"), identity="parent"))


# ---------------------------------------------------------------------------------- companions


def landmarks_of(tmp_path, count):
    """A file of landmarks of the six 24 x 20 images: a face each, and none for the last."""
    faces = synthetic.render(synthetic.Config(n=6, identities=6, size=20), range(6))["landmarks"]
    faces = faces[:, :count] + [0, 2]
    columns = ",".join(f"x{k},y{k}" for k in range(count))
    rows = [f"{i}.jpg," + ",".join(f"{v:.3f}" for v in faces[i].ravel()) for i in range(5)]
    (tmp_path / "faces.csv").write_text("\n".join([f"file,{columns}", *rows]) + "\n")
    return str(tmp_path / "faces.csv"), faces


def test_regions_are_drawn_from_landmarks(cfg, tmp_path):
    path, faces = landmarks_of(tmp_path, 68)
    source = changed(cfg, regions="landmarks", landmarks=path, missing="unknown")
    assert source.fields["regions"].dtype == "uint8"
    for i, record in enumerate(source.read(range(5))):
        want = regions_from_landmarks(np.float32(faces[i].round(3)), (24, 20))
        np.testing.assert_array_equal(record["regions"], want)
        assert set(np.unique(want)) > {0, 1}
    assert "regions" not in source.read([5])[0]
    decoded = decode(source.read([0])[0], 16, fields=("regions",))
    assert decoded["regions"].shape == (16, 16)


def test_a_large_image_gets_a_smaller_map_of_the_same_face(cfg, tmp_path):
    path, faces = landmarks_of(tmp_path, 68)
    (tmp_path / "images/0.jpg").write_bytes(encode_jpeg(np.zeros((2400, 2000, 3), np.uint8), 50))
    far = (faces[0] + 0.5) * 100 - 0.5
    (tmp_path / "faces.csv").write_text(
        (tmp_path / "faces.csv").read_text().splitlines()[0]
        + "\n0.jpg,"
        + ",".join(f"{v:.3f}" for v in far.ravel())
        + "\n"
    )
    source = changed(cfg, regions="landmarks", landmarks=path, missing="unknown")
    regions = source.read([0])[0]["regions"]
    assert regions.shape == (512, 427)
    np.testing.assert_array_equal(regions[::64, ::64], regions_from_landmarks(
        (faces[0] + 0.5) * [427 / 20, 512 / 24] - 0.5, (512, 427))[::64, ::64])  # fmt: skip


def test_regions_need_68_landmarks(cfg, tmp_path):
    path, _ = landmarks_of(tmp_path, 5)
    for landmarks in (None, path):
        with pytest.raises(UserError, match="regions: regions are drawn from 68 landmarks"):
            changed(cfg, regions="landmarks", landmarks=landmarks, missing="unknown")


def test_rows_of_arrays_are_fields(cfg, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    codes = np.arange(24, dtype=np.int32).reshape(6, 4)
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "codes.npy", codes)
    files = {"features": str(tmp_path / "vectors.npy"), "codes": str(tmp_path / "codes.npy")}
    source = changed(cfg, **files)
    assert source.fields["feature"] == Field((5,), "float32")
    assert source.fields["codes"] == Field((4,), "int32")
    for i, record in enumerate(source.read(range(6))):
        np.testing.assert_array_equal(record["feature"], vectors[i])
        np.testing.assert_array_equal(record["codes"], codes[i])
    records = [decode(r, 8, fields=("codes",)) for r in source.read([2, 0])]
    arrays = collate(records, {"codes": source.fields["codes"]}, 8)
    np.testing.assert_array_equal(arrays["codes"], codes[[2, 0]])
    assert arrays["has_codes"].all()
    np.save(tmp_path / "codes.npy", codes[:5])
    with pytest.raises(UserError, match=r"codes\.npy: holds 5 rows for 6 images"):
        changed(cfg, **files)
