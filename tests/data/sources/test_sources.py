"""Every source keeps the contract of `facejax.data.records`, with its own tiny config."""

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from facejax import plugins
from facejax.data.decode import decode
from facejax.data.fields import collate
from facejax.data.records import BadRecord
from facejax.data.sources import tfds as tfds_source
from facejax.errors import UserError


@pytest.fixture(scope="module", params=plugins.names("source"))
def source(request, tmp_path_factory):
    module = plugins.load("source", request.param, "test")
    return module.open(module.Config.tiny(tmp_path_factory.mktemp(request.param)))


def test_records_hold_what_the_fields_declare(source):
    records = source.read(range(len(source)))
    assert len(records) == len(source) > 0
    wanted = {name: f for name, f in source.fields.items() if name != "image"}
    for record in records:
        assert not isinstance(record, BadRecord)
        assert record.keys() <= source.fields.keys()
        assert isinstance(record["image"], bytes | np.ndarray)
    decoded = [decode(r, 24, fields=wanted) for r in records]
    arrays = collate(decoded, wanted, 24)
    assert arrays["image"].std() > 0
    for name, field in wanted.items():
        assert arrays[f"has_{name}"].any()
        if field.classes:
            assert arrays[name].max() < field.classes
            assert len(field.names) in (0, field.classes)
            assert len(set(field.names)) == len(field.names)
    names = [source.name(i) for i in range(len(source))]
    assert len(set(names)) == len(names)


def test_reading_in_batches_singly_and_in_threads_is_the_same(source):
    at_once = source.read(range(len(source)))
    with ThreadPoolExecutor(4) as pool:
        singly = list(pool.map(lambda i: source.read([i])[0], range(len(source))))
    for a, b in zip(at_once, singly):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_repeated_and_unordered_indices(source):
    last = len(source) - 1
    a, b, c = source.read([last, 0, last])
    np.testing.assert_array_equal(a["image"], c["image"])
    np.testing.assert_array_equal(b["image"], source.read([0])[0]["image"])
    assert source.read([]) == []


def test_tfds_values(tmp_path):
    cfg = tfds_source.Config.tiny(tmp_path)
    source = tfds_source.open(cfg)
    records = {r["caption"]: r for r in source.read(range(6))}
    record = records["face 4"]
    assert source.fields["identity"].names == ("ada", "ben", "cy")
    assert record["identity"] == 2
    assert source.fields["attributes"].names == ("Male", "Smiling")
    assert record["attributes"].tolist() == [-1, 1]
    assert record["landmarks"].tolist() == [[15, 4], [5, 4]]
    by_text = tfds_source.open(dataclasses.replace(cfg, identity_column="text"))
    assert by_text.fields["identity"].classes == 6


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"path": "nowhere"}, "nowhere: cannot be opened"),
        ({"split": "test"}, "cannot be opened"),
        ({"images": "picture"}, "has no feature 'picture'"),
        ({"landmark_points": ("left", "nose")}, "put these in order: left, right"),
    ],
)
def test_tfds_mistakes_are_user_errors(tmp_path, values, told):
    cfg = dataclasses.replace(tfds_source.Config.tiny(tmp_path), **values)
    with pytest.raises(UserError, match=told):
        tfds_source.open(cfg)


def test_tfds_needs_no_tensorflow(tmp_path):
    code = (
        "import sys, pathlib\n"
        "from facejax.data.sources import tfds\n"
        f"source = tfds.open(tfds.Config.tiny(pathlib.Path({str(tmp_path)!r})))\n"
        "assert len(source.read(range(6))) == 6\n"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
