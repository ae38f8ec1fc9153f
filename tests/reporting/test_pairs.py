"""The section on the scores of pairs, which is there when they were logged."""

import json
import re

import numpy as np
import pytest

from facejax.metrics import Writer
from facejax.report import write_report
from facejax.reporting import pairs, plots
from facejax.reporting.rundir import read_runs


def make_run(path, momentum, scored=True):
    path.mkdir()
    config = {"objective": {"moco": {"momentum": momentum}}, "encoder": {"name": "vit"}}
    (path / "config.json").write_text(json.dumps({"schema_version": 1, "config": config}))
    writer = Writer(path, 0)
    for step in range(10, 110, 10):
        values = {"loss": 1.0, "lr": 1e-3, "moco/alignment": 0.5}
        if scored:
            names = {name: momentum * (1 + 0.1 * np.sin(step)) for name in pairs.CHARTS}
            values |= {f"moco/feature_transform.{name}": v for name, v in names.items()}
        writer.scalars(step, values)
    writer.close()
    return path


@pytest.fixture
def made(tmp_path):
    return [make_run(tmp_path / f"m{m}", m) for m in (0.5, 0.99)]


def test_one_run_has_its_curves_and_no_depth(made):
    section = pairs.scores(read_runs(made[:1]))
    names = re.findall(r'class="name">([^<]*)<', section)
    assert names == [title for title, _, _ in pairs.CHARTS.values()]


def test_runs_are_compared_flat_and_in_depth_and_told_apart_by_momentum(made):
    section = pairs.scores(read_runs(made))
    names = re.findall(r'class="name">([^<]*)<', section)
    assert len(names) == 2 * len(pairs.CHARTS)
    assert names[1] == "Positive scores: mean, in depth"
    for text in ("m0.5 (momentum 0.5)", "m0.99 (momentum 0.99)"):
        assert section.count(f"<title>{text}</title>") == len(names)


def test_the_page_shows_them_once_and_only_where_they_are(made, tmp_path):
    page = write_report(made, tmp_path / "a.html").read_text()
    assert 'href="#scores"' in page
    assert 'id="scores"' in page
    assert 'class="name">moco/alignment<' in page
    assert "feature_transform.positive_mean" not in page
    bare = make_run(tmp_path / "bare", 0.9, scored=False)
    page = write_report([bare], tmp_path / "b.html").read_text()
    assert "scores" not in page


def test_lines_in_depth_stay_within_the_drawing_each_behind_the_last():
    x = np.arange(50.0)
    series = [plots.Series(f"run {i}", x, np.sin(x / 9) + i, i) for i in range(4)]
    svg = plots.stacked(series, "step", "score")
    moves = [tuple(map(float, m)) for m in re.findall(r"translate\(([\d.]+) (-?[\d.]+)\)\">", svg)]
    assert moves == sorted(moves, reverse=True)
    assert (moves[0], moves[-1]) == ((90, -70), (0, 0))
    lines = re.findall(r'class="line"[^>]* d="([^"]*)"', svg)
    assert len(lines) == 4
    for (right, up), line in zip(moves, lines):
        points = np.array([[float(v) for v in p.split()] for p in re.split("[ML]", line)[1:]])
        points += (right, up)
        assert (points[:, 0] >= plots.LEFT).all()
        assert (points[:, 0] <= plots.WIDTH - plots.RIGHT + 0.1).all()
        assert (points[:, 1] >= plots.TOP).all()
        assert (points[:, 1] <= plots.HEIGHT - plots.BOTTOM).all()
