"""Rows of embeddings in shards find their images."""

import csv
import json

import numpy as np
import pytest

from facejax.data.arrays import MANIFEST, open_rows, shard_paths
from facejax.errors import UserError

NAMES = tuple(f"{i}.jpg" for i in range(5))


@pytest.fixture
def folder(tmp_path):
    """Five embeddings in two shards, as facejax.embed leaves them; the fourth was rejected."""
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    values[3] = np.nan
    (tmp_path / MANIFEST).write_text(json.dumps({"shards": 2, "format": "npy"}))
    for shard, rows in enumerate((range(3), range(3, 5))):
        arrays, listed = shard_paths(tmp_path, shard, 2)
        np.save(arrays, values[rows.start : rows.stop])
        with listed.open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(("label", "index", "name", "norm", "rejected"))
            lines.writerows(("x", i, NAMES[i], "1", "broken" * (i == 3)) for i in rows)
    return tmp_path


def test_rows_of_shards_are_numbered_through(folder):
    rows = open_rows(str(folder), NAMES)
    assert len(rows) == 5
    assert rows.field.shape == (3,)
    for i in (0, 2, 4):
        np.testing.assert_array_equal(rows[i], [3 * i, 3 * i + 1, 3 * i + 2])
    assert rows[3] is None


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (NAMES[::-1], "row 0 is of '0.jpg', not of '4.jpg'; embed this set"),
        (NAMES[:4], "holds 5 rows for 4 images"),
        ((*NAMES, "5.jpg"), "holds 5 rows for 6 images"),
    ],
)
def test_rows_of_other_images_are_refused(folder, names, told):
    with pytest.raises(UserError, match=told):
        open_rows(str(folder), names)


def test_what_is_no_array_is_refused(folder, tmp_path):
    (tmp_path / "text.npy").write_text("none")
    np.save(tmp_path / "flat.npy", np.zeros(5))
    shard_paths(folder, 1, 2)[1].unlink()
    for path, told in (
        ("nowhere.npy", "does not exist"),
        (str(tmp_path / "text.npy"), "not an array"),
        (str(tmp_path / "flat.npy"), r"shape \(5,\); give one row per image"),
        (str(folder), "no finished embeddings"),
    ):
        with pytest.raises(UserError, match=told):
            open_rows(path, NAMES)
