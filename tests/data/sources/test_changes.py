"""Queries as records: the reference, what changes, and what it becomes."""

import dataclasses

import numpy as np
import pytest

from facejax.data.sources import changes, synthetic
from facejax.errors import UserError


def test_a_record_is_its_reference_and_its_target(tmp_path):
    cfg = changes.Config.tiny(tmp_path)
    source = changes.open(cfg)
    pictures = synthetic.open(synthetic.Config(n=6, identities=2, size=16)).read(range(6))
    for i, record in enumerate(source.read(range(4))):
        assert (record["caption"], record["target"]) == (f"change {i}", i + 2)
        assert record["identity"] == pictures[i]["identity"]
        np.testing.assert_array_equal(record["image"], pictures[i]["image"])
        np.testing.assert_array_equal(record["generated"], pictures[i + 2]["image"])
    assert source.fields["target"].classes == 6
    assert source.name(1) == f"{cfg.queries}:3"


def test_queries_of_other_pictures_are_refused(tmp_path):
    cfg = changes.Config.tiny(tmp_path)
    for row, told in (
        ("nobody,change,somebody", r"2: no picture 'nobody' in the source"),
        ('"person 0, picture 0",,"person 0, picture 1"', "without reference, text or target"),
    ):
        path = tmp_path / "other.csv"
        path.write_text(f"reference,text,target\n{row}\n")
        with pytest.raises(UserError, match=told):
            changes.open(dataclasses.replace(cfg, queries=str(path)))
    path.write_text("reference,target\na,b\n")
    with pytest.raises(UserError, match="has no column 'text'"):
        changes.open(dataclasses.replace(cfg, queries=str(path)))
