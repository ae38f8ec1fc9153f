"""The loop against its step: it trains on what was packed, and says what it waits for."""

import itertools
import json

import pytest

from benchmarks import end_to_end as benchmark
from facejax.encoders import vit


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(vit.VARIANTS, "Ti", vit.Dims(32, 1, 1, 2.0))


def options(tmp_path):
    own = ["--size=16", "--patch=8", "--batch=8", "--workers=1", "--turns=2", "--seconds=0.01"]
    return [f"--out={tmp_path}", f"--scratch={tmp_path}/scratch", "--faces=16", *own]


def test_a_row_is_measured_once(tmp_path, monkeypatch, capsys):
    benchmark.main(options(tmp_path))
    (row,) = map(json.loads, (tmp_path / "end_to_end.jsonl").read_text().splitlines())
    assert len(row["ratio"]) == len(row["data_wait"]) == 2
    for ratio, wait in zip(row["ratio"], row["data_wait"]):
        assert ratio > 0
        assert 0 < wait < 1
    assert len(list((tmp_path / "scratch").glob("packed-16-*"))) == 1
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("measured again"))
    benchmark.main(options(tmp_path))
    out = capsys.readouterr().out
    assert out.count("target at least 0.97") == 2
    assert out.count("shard 1/1: 16 records") == 1


def test_a_slow_source_shows(tmp_path, monkeypatch):
    """Batches that take longer than a step: the loop is as slow as they, and waits."""
    own = benchmark.read_batches

    def slow(*args):
        for batch in own(*args):
            next(delays)
            yield batch

    delays = (benchmark.time.sleep(0.05) for _ in itertools.count())
    monkeypatch.setattr(benchmark, "read_batches", slow)
    args = benchmark.arguments([*options(tmp_path), "--turns=1"])
    row = benchmark.measure(args)
    assert row["images_per_s"]["loop"][0] < 8 / 0.05
    assert row["data_wait"][0] > 0.1
