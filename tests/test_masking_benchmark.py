"""MAE against its step over all tokens: both lose alike, and only the encoder's FLOPs differ."""

import json

import jax
import numpy as np
import pytest

from benchmarks import masking as benchmark
from benchmarks import step
from facejax.encoders import vit
from facejax.flops import flops_per_image

OPTIONS = ["--size=16", "--patch=4", "--batch=8", "--pairs=1", "--seconds=0.01"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(vit.VARIANTS, "Ti", vit.Dims(32, 1, 1, 2.0))
    own = step.OBJECTIVES["mae"]["mae"] | {"decoder_depth": 1}
    monkeypatch.setitem(step.OBJECTIVES, "mae", {"mae": own})


def test_the_encoder_alone_computes_more():
    args = benchmark.arguments(["--out=x", *OPTIONS])
    masked = step.planned(args, "mae", 8)
    full = benchmark.full(masked)
    encoder = masked.run.towers["encoder"].config
    more = 3 * (vit.flops(encoder, keep=16) - vit.flops(encoder, keep=4))
    embed = 3 * 2 * 12 * 32 * 32  # of the decoder: a linear map of the twelve other tokens
    assert flops_per_image(full) - flops_per_image(masked) == more + embed
    shapes = [step.state.shapes(p).params["objective"] for p in (masked, full)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    (p,) = full.forwards
    assert p.replaces


@pytest.mark.slow
def test_the_share_is_of_both_ratios(tmp_path, capsys):
    benchmark.main([f"--out={tmp_path}", *OPTIONS])
    (row,) = map(json.loads, (tmp_path / "masking.jsonl").read_text().splitlines())
    rates = row["images_per_s"]
    share = rates["masked"][0] / rates["full"][0] / row["flops_ratio"]
    np.testing.assert_allclose(row["share"], [share])
    assert row["flops_ratio"] > 1
    benchmark.main([f"--out={tmp_path}", *OPTIONS])
    assert len((tmp_path / "masking.jsonl").read_text().splitlines()) == 1
    assert capsys.readouterr().out.count("target at least 0.85") == 2
