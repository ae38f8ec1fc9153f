"""Blocked records give way to other draws, and the rest of the stream stays as it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pipeline import Numbers, mixture

from facejax.data import pipeline
from facejax.data.blocklist import read_blocklist
from facejax.data.order import make_order
from facejax.data.pipeline import BatchSpec
from facejax.data.rejected import Rejected
from facejax.errors import UserError

MIX = mixture(Numbers(30), Numbers(7), Numbers(11))


def numbers(order, n=200):
    return np.array([order[i] for i in range(n)])


@settings(max_examples=50, deadline=None)
@given(
    blocked=st.sets(st.integers(0, 29) | st.integers(37, 46), min_size=1),
    sampler=st.sampled_from(["shuffle", "sequential"]),
    group=st.sampled_from([1, 3]),
    seed=st.integers(0, 3),
)
def test_only_blocked_rows_change(blocked, sampler, group, seed):
    blocked = np.array(sorted(blocked - {4}))
    before = numbers(make_order(MIX, seed, sampler, group))
    after = numbers(make_order(MIX, seed, sampler, group, blocked))
    hit = np.isin(before, blocked)
    np.testing.assert_array_equal(before[~hit], after[~hit])
    assert not np.isin(after, blocked).any()
    source = np.searchsorted(MIX.starts, [before, after], side="right")
    np.testing.assert_array_equal(*source)


def test_replacements_are_spread_and_the_same_each_time():
    blocked = np.arange(10)
    before, after = numbers(make_order(MIX, 0)), numbers(make_order(MIX, 0, blocked=blocked))
    np.testing.assert_array_equal(after, numbers(make_order(MIX, 0, blocked=blocked)))
    instead = after[np.isin(before, blocked)]
    assert len(set(instead)) > 12


def test_blocked_records_do_not_replace_broken_ones():
    mix = mixture(Numbers(8, broken=[2, 4]))
    order = make_order(mix, 0, blocked=np.array([3, 5]))
    found = pipeline.batches(mix, order, BatchSpec(4, 8, np.arange(8)), steps=6)
    seen = {index for batch in found for _, index in batch.ids}
    assert seen == {0, 1, 6, 7}


def test_lines_are_ids_names_or_rows_of_rejected_csv(tmp_path):
    path = tmp_path / "blocked.txt"
    path.write_text('s0,3\n\ns2,0,whatever\nnumber 5\n"s1",6\n')
    expected = {3, 5, 30 + 5, 37 + 5, 37, 36}
    assert set(read_blocklist(str(path), MIX).tolist()) == expected
    rejected = [("s0", 4, "number 4", 'why, "so"\nand so'), ("s1", 1, "number 1", "x")]
    Rejected.write(path, rejected)
    assert read_blocklist(str(path), MIX).tolist() == [4, 31]
    path.write_text("")
    assert read_blocklist(str(path), MIX).tolist() == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s0,3\ns0,30\n", r"blocked\.txt:2: 's0' has no record 30, only 30 of them"),
        ("s9,3\n", r"blocked\.txt:1: no record 's9,3'; write LABEL,INDEX or a name"),
        ("s0,-1\n", r"blocked\.txt:1: no record 's0,-1'"),
        ("number 5\nnumber 99\n", r"blocked\.txt:2: no record 'number 99'"),
        ("".join(f"s1,{i}\n" for i in range(7)), "blocks every record of 's1'"),
    ],
)
def test_lines_that_are_refused(tmp_path, text, told):
    path = tmp_path / "blocked.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        read_blocklist(str(path), MIX)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: No such file"):
        read_blocklist(str(tmp_path / "none.txt"), MIX)
    (tmp_path / "blocked.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"blocked\.txt: not a UTF-8 text file"):
        read_blocklist(str(tmp_path / "blocked.txt"), MIX)
