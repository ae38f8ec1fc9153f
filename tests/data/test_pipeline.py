"""Batches: what stands where depends on (seed, n) alone, and nothing broken stops a run."""

import csv
import dataclasses
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facejax.data import pipeline
from facejax.data.mixture import Entry, Mixture, open_sources
from facejax.data.order import make_order
from facejax.data.pipeline import BatchSpec
from facejax.data.records import BadRecord, Field
from facejax.data.rejected import Rejected
from facejax.errors import TrainingFailed, UserError


class Numbers:
    """A source whose image `i` is filled with `i`; those in `broken` are bad."""

    def __init__(self, n, broken=(), fields=None, **values):
        self.n, self.broken, self.values, self.reads = n, set(broken), values, []
        self.fields = {"image": Field(dtype="uint8"), **(fields or {})}

    def __len__(self):
        return self.n

    def name(self, index):
        return f"number {index}"

    def read(self, indices):
        self.reads += indices
        return [
            BadRecord("broken")
            if i in self.broken
            else {"image": np.full((4, 4, 3), i, np.uint8)}
            | {k: np.asarray(v)[i] for k, v in self.values.items()}
            for i in indices
        ]


def mixture(*sources, weights=None):
    weights = weights or [None] * len(sources)
    return Mixture([Entry(f"s{i}", s, w) for i, (s, w) in enumerate(zip(sources, weights))])


WANTED = {f.name for f in dataclasses.fields(BatchSpec)}


def batches(mix, seed=3, sampler="shuffle", **kwargs):
    options = {"size": 4, "global_batch": 8, "rows": np.arange(8), "steps": 6} | kwargs
    wanted = {name: options.pop(name) for name in WANTED & options.keys()}
    order = make_order(mix, seed, sampler)
    return list(pipeline.batches(mix, order, BatchSpec(**wanted), **options))


def ids(found):
    return [batch.ids for batch in found]


MIX = mixture(Numbers(30), Numbers(7), Numbers(11, broken=[2, 3]))


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_change_nothing(workers):
    expected = batches(MIX, workers=2)
    found = batches(MIX, workers=workers)
    assert ids(found) == ids(expected)
    assert [b.step for b in found] == list(range(6))
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a.arrays["image"], b.arrays["image"])


def test_a_restart_continues_the_order():
    assert ids(batches(MIX, start=4, steps=9)) == ids(batches(MIX, steps=9))[4:]


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.integers(0, 7), min_size=1, max_size=8))
def test_any_subset_of_rows_holds_the_records_of_these_rows(rows):
    whole = batches(MIX, workers=0, steps=3)
    for part, full in zip(batches(MIX, workers=0, steps=3, rows=np.array(rows)), whole):
        assert part.ids == [full.ids[r] for r in rows]
        np.testing.assert_array_equal(part.arrays["image"], full.arrays["image"][rows])


def test_global_batch_size_only_regroups_the_same_order():
    by_8 = [i for b in batches(MIX, steps=6) for i in b.ids]
    by_16 = [i for b in batches(MIX, steps=3, global_batch=16, rows=np.arange(16)) for i in b.ids]
    assert by_8 == by_16


def test_images_belong_to_their_ids():
    for batch in batches(MIX):
        assert batch.arrays["image"][:, 0, 0, 0].tolist() == [index for _, index in batch.ids]


def test_each_epoch_is_a_new_permutation_and_seeds_differ():
    mix = mixture(Numbers(24))
    seen = [index for b in batches(mix) for _, index in b.ids]
    first, second = seen[:24], seen[24:]
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    assert first != [index for b in batches(mix, seed=4, steps=3) for _, index in b.ids]
    plain = [index for b in batches(mix, sampler="sequential") for _, index in b.ids]
    assert plain == list(range(24)) * 2


def test_groups_stay_together_and_their_order_is_new_each_epoch():
    order = make_order(mixture(Numbers(26)), seed=0, group=4)
    seen = np.array([order[i] for i in range(48)]).reshape(2, 6, 4)
    assert (seen == seen[..., :1] + np.arange(4)).all()
    starts = seen[..., 0]
    assert (np.sort(starts) == np.arange(0, 24, 4)).all()
    assert (starts[0] != starts[1]).any()
    with pytest.raises(UserError, match=r"config\.data\.group: s0 has 3 records"):
        make_order(mixture(Numbers(3)), seed=0, group=4)


def test_large_sources_are_permuted_too():
    large = mixture(Numbers(2**16 + 2))
    order = make_order(large, seed=0)
    first = [order[i] for i in range(len(large))]
    assert sorted(first) == list(range(len(large)))
    assert [order[len(large) + i] for i in range(100)] != first[:100]


def test_sources_of_one_size_are_shuffled_differently():
    seen = [i for b in batches(mixture(Numbers(20), Numbers(20)), steps=5) for i in b.ids]
    orders = [[index for label, index in seen if label == s] for s in ("s0", "s1")]
    assert orders[0] != orders[1]


@settings(max_examples=20, deadline=None)
@given(
    weights=st.lists(st.floats(0.05, 20), min_size=2, max_size=4),
    sizes=st.lists(st.integers(1, 50), min_size=4, max_size=4),
)
def test_weights_are_kept_over_any_stretch(weights, sizes):
    mix = mixture(*(Numbers(n) for n in sizes[: len(weights)]), weights=weights)
    order = make_order(mix, seed=0)
    starts = np.cumsum([0, *map(len, mix.sources)])
    drawn = np.searchsorted(starts, [order[i] for i in range(400)], side="right") - 1
    for k, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs((drawn == k).sum() - 400 * share) <= 0.01 * 400 * share + len(weights)


def test_default_weights_follow_the_sizes():
    assert MIX.weights == pytest.approx([30 / 48, 7 / 48, 11 / 48])


def test_broken_records_are_replaced_by_the_next_good_one():
    mix = mixture(Numbers(8, broken=[2, 3, 7]))
    for batch in batches(mix, steps=4):
        assert sorted(index for _, index in batch.ids) == [0, 0, 1, 4, 4, 4, 5, 6]
        expected = {("s0", i, f"number {i}", "broken") for i in (2, 3, 7)}
        assert set(batch.bad) == expected
    row = [i for _, i in batches(mixture(Numbers(8)), steps=1)[0].ids].index(2)
    alone = batches(mix, steps=1, rows=np.array([row]))[0]
    assert alone.ids == [("s0", 4)]
    assert {index for _, index, _, _ in alone.bad} == {2, 3}


def test_a_source_without_good_records_stops_training():
    mix = mixture(Numbers(5), Numbers(5, broken=range(5)))
    with pytest.raises(TrainingFailed, match="s1: 5 broken records in a row") as error:
        batches(mix)
    assert error.value.status == 3


def test_cache_reads_each_record_once():
    for cache, reads in (("decoded", 10), ("none", 48)):
        source = Numbers(10)
        expected = ids(batches(mixture(Numbers(10))))
        assert ids(batches(mixture(source), cache=cache, workers=1)) == expected
        assert len(source.reads) == reads if cache == "decoded" else len(source.reads) > 10


def test_mixed_sources_fill_absent_fields():
    named = Field((2,), "int8", names=("Male", "Smiling"))
    other = Field((2,), "int8", names=("Smiling", "Young"))
    people = Field((), "int32", 3, ("a", "b", "c"))
    a = Numbers(
        3,
        fields={"identity": people, "attributes": named, "caption": Field(dtype="str")},
        identity=[2, -1, 0],
        attributes=[[1, -1]] * 3,
        caption=["x", "y", "z"],
    )
    b = Numbers(
        3,
        fields={"identity": people, "attributes": other, "age": Field()},
        identity=[0, 1, 2],
        attributes=[[1, -1]] * 3,
        age=[20.0, 30.0, 40.0],
    )
    mix = mixture(a, b)
    assert mix.classes == {"identity": 6}
    assert mix.names == {"identity": ("a", "b", "c") * 2}
    told = Numbers(2, fields={"attack": Field((), "int32", 2, ("live", "print")), "age": Field()})
    assert mixture(told).names == {"attack": ("live", "print")}
    assert mix.attributes == ("Male", "Smiling", "Young")
    wanted = ["identity", "attributes", "caption", "age"]
    batch = batches(mix, steps=1, global_batch=6, rows=np.arange(6), fields=wanted)[0]
    rows = {(label, index): row for row, (label, index) in enumerate(batch.ids)}
    get = {name: lambda at, name=name: batch.arrays[name][rows[at]] for name in batch.arrays}
    assert get["identity"](("s0", 0)) == 2
    assert get["identity"](("s0", 1)) == -1
    assert not get["has_identity"](("s0", 1))
    assert get["identity"](("s1", 0)) == 3
    assert get["attributes"](("s0", 0)).tolist() == [1, -1, 0]
    assert get["attributes"](("s1", 0)).tolist() == [0, 1, -1]
    assert (get["caption"](("s0", 2)), get["caption"](("s1", 2))) == ("z", "")
    assert get["has_caption"](("s0", 2))
    assert not get["has_caption"](("s1", 2))
    assert (get["age"](("s0", 0)), get["age"](("s1", 1))) == (0, 30)
    assert batch.arrays["has_age"].sum() == 3
    assert (batch.arrays["identity"].dtype, batch.arrays["attributes"].dtype) == ("int32", "int8")


def test_fields_that_are_absent_or_differ_are_refused_before_reading():
    five, many = Field((5, 2)), Field((68, 2))
    mix = mixture(Numbers(3, fields={"landmarks": five}), Numbers(3, fields={"landmarks": many}))
    with pytest.raises(UserError, match=r"differ in 'landmarks' \(s0 float32\[5, 2\], s1"):
        batches(mix, fields=["landmarks"])
    with pytest.raises(UserError, match="no source gives 'identity'"):
        mix.select(["identity"])
    assert len(batches(mix, steps=1)) == 1


@pytest.mark.parametrize("workers", [0, 3])
def test_sequential_gives_every_record_once_in_order(workers):
    source = Numbers(10, broken=[4])
    parts = list(pipeline.sequential(source, size=4, batch=4, workers=workers))
    valid = np.concatenate([p.arrays["valid"] for p in parts])
    assert [p.arrays["image"].shape for p in parts] == [(4, 4, 4, 3)] * 3
    assert np.concatenate([p.ids for p in parts]).tolist() == [*range(10), -1, -1]
    assert np.flatnonzero(~valid).tolist() == [4, 10, 11]
    images = np.concatenate([p.arrays["image"] for p in parts])[valid]
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [p.bad for p in parts] == [[], [(4, "number 4", "broken")], []]


def test_sequential_gives_the_records_asked_for():
    (part,) = pipeline.sequential(Numbers(10), size=4, batch=3, records=[7, 2, 7])
    assert part.ids.tolist() == [7, 2, 7]
    assert part.arrays["image"][:, 0, 0, 0].tolist() == [7, 2, 7]


def jpeg_folder(root, n=3):
    root.mkdir()
    for i in range(n):
        Image.new("RGB", (10, 12), (i, 0, 0)).save(root / f"{i}.jpg")
    return str(root)


def test_config_dicts_open_with_unique_labels(tmp_path):
    a, b = jpeg_folder(tmp_path / "a"), jpeg_folder(tmp_path / "b", 5)
    mix = open_sources(
        (
            {"name": "folder", "path": a},
            {"name": "folder", "path": b},
            {"name": "folder", "path": b, "label": "again", "crop": 0.9},
        )
    )
    assert mix.labels == ("folder", "folder-2", "again")
    assert len(mix) == 13
    assert mix.entries[2].crop == 0.9


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"identiy": "none"}, r"data\.sources\[0\]\.identiy: unknown key; did you mean 'identity'"),
        ({"wieght": 1.0}, "did you mean 'weight'"),
        ({"name": "foldr"}, r"data\.sources\[0\]\.name: no source called 'foldr'"),
        ({"identity": "parents"}, r"\.identity: 'parents' is not a legal value; did you mean"),
        ({"images": 3}, r"\.images: 3 is not of type str"),
        ({"weight": -1}, r"\.weight: -1\.0 is not positive"),
        ({"crop": 1.5}, r"\.crop: 1\.5 is not a share"),
    ],
)
def test_mistyped_source_dicts_are_user_errors(tmp_path, extra, told):
    spec = {"name": "folder", "path": jpeg_folder(tmp_path / "a")} | extra
    with pytest.raises(UserError, match=told) as error:
        open_sources([spec])
    assert error.value.status == 2


def test_source_sets_that_make_no_sense_are_user_errors(tmp_path):
    spec = {"name": "folder", "path": jpeg_folder(tmp_path / "a")}
    for specs, told in (
        ([], "data.sources: is empty"),
        ([{"name": "folder"}], r"data\.sources\[0\]\.path: missing"),
        ([{"path": "x"}], r"data\.sources\[0\]\.name: missing"),
        ([spec | {"weight": 1.0}, spec], "missing beside weighted sources"),
        ([spec | {"label": "x"}, spec | {"label": "x"}], "'x' is taken"),
    ):
        with pytest.raises(UserError, match=told):
            open_sources(specs)


def test_rejected_csv_names_each_record_once_across_restarts(tmp_path):
    path = tmp_path / "rejected.csv"
    first, second = ("s0", 3, "a, b.jpg", "broken"), ("s1", 3, "c.jpg", "cut\noff")
    rejected = Rejected(path)
    rejected.add([first, first])
    rejected.add([first])
    again = Rejected(path)
    again.add([first, second])
    assert again.count == 2
    with open(path, newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["source", "index", "name", "reason"],
        *([*map(str, r)] for r in (first, second)),
    ]
    again.check(0.02, 100)
    with pytest.raises(TrainingFailed, match="2 of 100 records are broken") as error:
        again.check(0.01, 100)
    assert error.value.status == 3


def test_truncated_files_in_a_folder_are_skipped_and_named(tmp_path):
    rng = np.random.default_rng(0)
    jpeg_folder(tmp_path / "a", 4)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(out, "JPEG")
    (tmp_path / "a/1.jpg").write_bytes(out.getvalue()[:400])
    mix = open_sources([{"name": "folder", "path": str(tmp_path / "a")}])
    batch = batches(mix, steps=1, global_batch=4, rows=np.arange(4))[0]
    assert sorted(index for _, index in batch.ids) == [0, 2, 2, 3]
    [(label, index, name, reason)] = batch.bad
    assert (label, index, name) == ("folder", 1, "1.jpg")
    assert reason


@pytest.mark.slow
@pytest.mark.real_faces
def test_real_faces_in_zips_feed_a_step():
    default = Path(__file__).parents[2] / "../shared/data"
    data = Path(os.environ.get("FACEJAX_REAL_FACES", default))
    if not (data / "celeba_dev.zip").exists():
        pytest.skip(f"no real faces at {data}; set FACEJAX_REAL_FACES")
    csvs = tuple(str(data / f"celeba_dev_{kind}.csv") for kind in ("attr", "identity"))
    mix = open_sources(
        [
            {"name": "folder", "path": str(data / "celeba_dev.zip"), "identity": "column",
             "labels": csvs},
            {"name": "folder", "path": str(data / "celebamask256_dev.zip"),
             "regions": "masks/{stem}.png"},
            {"name": "folder", "path": str(data / "helen256_dev.zip"),
             "landmarks": str(data / "helen256_dev_68.csv")},
        ]
    )  # fmt: skip
    assert len(mix) == 7907 + 805 + 870
    assert len(mix.attributes) == 40
    fields = ["identity", "attributes", "regions", "landmarks"]
    begin = time.monotonic()
    found = batches(mix, size=112, global_batch=128, rows=np.arange(128), steps=16, fields=fields)
    print(f"{16 * 128 / (time.monotonic() - begin):.0f} images/s")
    assert not any(batch.bad for batch in found)
    for field in fields:
        assert sum(batch.arrays[f"has_{field}"].sum() for batch in found) > 100
