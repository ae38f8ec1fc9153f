"""export/__init__.py: what the formats share."""

import hashlib
import json

import numpy as np
import pytest

from facejax import export
from facejax.errors import UserError


def test_fixed_images_are_fixed():
    """A change would invalidate the fingerprint of every export there is."""
    images = export.fixed_images(32)
    assert images.shape == (4, 32, 32, 3)
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "3cfe23939cf7f524"


def test_fixed_images_differ_and_use_the_range():
    images = export.fixed_images(112, 8)
    assert len({a.tobytes() for a in images}) == 8
    assert images.min() < 10
    assert images.max() > 245


def test_agreement_measures_in_standard_deviations():
    ours = np.array([[3.0, 4.0], [-3.0, -4.0]], np.float32)
    theirs = ours + np.array([[0.5, 0.0], [0.0, 0.0]], np.float32)
    found = export.agreement(ours, theirs)
    assert found["max_abs"] == 0.5
    assert found["max_rel"] == pytest.approx(0.5 / np.sqrt(12.5))
    assert found["min_cosine"] == pytest.approx((10.5 + 16) / (5 * np.sqrt(3.5**2 + 16)))


def test_a_failed_export_leaves_nothing(tmp_path):
    def write(out):
        with export.new_folder(out) as draft:
            (draft / "half").touch()
            raise KeyError

    out = tmp_path / "a" / "out"
    with pytest.raises(KeyError):
        write(out)
    assert list(out.parent.iterdir()) == []


def test_everyone_may_read_what_is_written(tmp_path):
    with export.new_folder(tmp_path / "out") as draft:
        (draft / "weights").touch(mode=0o600)
    assert (tmp_path / "out/weights").stat().st_mode & 0o777 == 0o644


def test_an_empty_folder_is_taken(tmp_path):
    with export.new_folder(tmp_path / "out") as draft:
        (tmp_path / "out").mkdir()
        (draft / "file").touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["file"]


def test_other_schema_versions_are_refused(tmp_path):
    path = tmp_path / "x.json"
    export.write_json(path, {"a": 1})
    assert export.read_json(path) == {"a": 1}
    path.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(UserError, match="schema version 99, not 1"):
        export.read_json(path)


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError):
        export.write_json(tmp_path / "x.json", {"a": float("nan")})
