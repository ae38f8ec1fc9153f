"""The table of objectives on real faces: what it runs, what it says, and that it goes on."""

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import objectives as benchmark
from facejax import config
from facejax.errors import UserError
from facejax.evaluators._tiny import write_people

ROOT = Path(__file__).parents[1]
METHODS = benchmark.methods()


def usable(name: str, folder: str = "faces") -> dict | None:
    try:
        return benchmark.unified(name, folder, "cpu")
    except UserError:  # it wants other images
        return None


def test_every_config_for_faces_is_a_method():
    assert len(METHODS) == len(list((ROOT / "configs").glob("*_vit_faces.py")))
    assert {"simclr", "mae", *benchmark.SEEDED} & METHODS.keys() >= {"simclr", "mae"}
    assert benchmark.REFERENCE in METHODS
    assert sum(usable(name) is not None for name in METHODS) > 5


@pytest.mark.parametrize("name", METHODS)
def test_methods_differ_in_their_objectives_alone(name):
    values = usable(name)
    if values is None:
        pytest.skip("wants other images")
    run, other = config.resolve(values), config.resolve(usable("simclr"))
    assert run.objectives
    assert (run.towers, run.evals, run.global_batch, run.steps) == (
        other.towers,
        other.evals,
        other.global_batch,
        other.steps,
    )
    assert run.optimizer.peak(run.global_batch) == other.optimizer.peak(other.global_batch)
    for source, same in zip(run.data.sources, other.data.sources, strict=True):
        assert (source["path"], source["images"]) == (same["path"], same["images"])
    resolved = benchmark.get_config(f"{name},cpu,faces")
    assert config.to_dict(config.resolve(resolved)) == config.to_dict(run)


def test_what_is_not_there_is_left_out_with_its_reason(tmp_path):
    folder = tmp_path / "nothing"
    names = "simclr,mocov3_genview"
    command = [f"--data={folder}", f"--out={tmp_path}", f"--only={names}", "--seeds=1"]
    assert benchmark.run(command) == 3
    left_out = json.loads((tmp_path / "results.json").read_text())["left_out"]
    assert left_out["simclr"].startswith(f"{folder}/celeba_dev.zip: ")
    assert left_out["mocov3_genview"] == "data.sources: faces is not here"
    assert "Not run: simclr (" in (tmp_path / "results.md").read_text()


def test_labels_of_a_methods_sources_are_kept():
    celeba, *others = usable("attract_repel")["data"]["sources"]
    assert celeba["labels"] == "faces/celeba_dev_attr.csv"
    assert not any("labels" in source for source in others)


ROW = {"rank": 12.3}
ROWS = [
    {
        "name": "raw pixels",
        "lfw/accuracy": 0.63,
        "attributes/balanced_accuracy": 0.7,
        "knn/knn@1": 0.05,
        **ROW,
    },
    *(
        {
            "name": "simclr",
            "seed": seed,
            "lfw/accuracy": 0.61 + 0.01 * seed,
            "lfw/accuracy@random_diff": [-0.01 + 0.01 * seed, 0.03 + 0.01 * seed],
            "attributes/balanced_accuracy": 0.7,
            "knn/knn@1": 0.05,
            "ms_per_image": 3.0,
            "gflops_per_image": 0.5,
            "labels": [],
            **ROW,
        }
        for seed in range(3)
    ),
    {
        "name": "attract_repel",
        "seed": 0,
        "lfw/accuracy": 0.62,
        "lfw/accuracy@random_diff": [0.012, 0.034],
        "attributes/balanced_accuracy": 0.8,
        "knn/knn@1": 0.05,
        "ms_per_image": 1.0,
        "gflops_per_image": None,
        "labels": ["attributes"],
        **ROW,
    },
    {"name": "broken", "seed": 0, "failed": "exit status 3: not finite"},
]


def test_table_has_a_line_per_method():
    head, rule, *lines = benchmark.table(ROWS).splitlines()
    assert {line.count("|") for line in (head, rule, *lines)} == {head.count("|")}
    pixels, simclr, attract, broken = ([c.strip() for c in x.split("|")[1:-1]] for x in lines)
    assert pixels[:3] == ["raw pixels", "63.0", "70.0"]
    assert simclr[:2] == ["simclr", "62.0 ± 1.0 (-1.0 to +5.0)"]
    assert simclr[-1] == "3"
    assert attract[1] == "62.0 (+1.2 to +3.4)"
    assert attract[2] == "80.0†"  # it was trained on the probe's answers
    assert attract[6] == ""
    assert broken[1] == "exit status 3: not finite"


def test_time_of_a_step_leaves_out_the_first_line(tmp_path):
    lines = [{"step": n, "step_ms": ms} for n, ms in enumerate((900.0, 10.0, 12.0, 11.0), 1)]
    lines.append({"step": 4, "eval/lfw/accuracy": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert benchmark.step_ms(tmp_path) == 11.0


def test_a_budget_in_seconds_is_measured_once(tmp_path):
    (tmp_path / "budget.json").write_text('{"cpu": 500.0}')
    assert benchmark.steps_within(60, tmp_path, "nowhere", "cpu") == 120


# ------------------------------------------------------------------------------ a run of two steps


def zipped(folder: Path, name: str, pattern: str, people: int, each: int, seed: int) -> list[str]:
    names = write_people(folder / "plain" / name, people, each, pattern, seed)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for file in names:
            archive.write(folder / "plain" / name / file, file)
    return names


def table(path: Path, *rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def faces(tmp_path) -> Path:
    """What the shared faces are, in small and made up."""
    folder = tmp_path / "data"
    celeba = zipped(folder, "celeba_dev", "{name}_{number}.jpg", 40, 3, 0)
    zipped(folder, "celebamask256_dev", "images/{name}_{number}.jpg", 4, 2, 1)
    zipped(folder, "helen256_dev", "{name}_{number}.jpg", 4, 2, 2)
    zipped(folder, "lfw128", "{name}/{name}_{number:04d}.jpg", 12, 4, 3)
    rng = np.random.default_rng(0)
    attributes = [[name, *rng.choice([-1, 1], 2)] for name in celeba]
    table(folder / "celeba_dev_attr.csv", ["file", "Smiling", "Male"], *attributes)
    people = [[name, name.split("_")[0]] for name in celeba]
    table(folder / "celeba_dev_identity.csv", ["file", "identity"], *people)
    lines = ["3\t2"]
    for fold in range(3):
        a, b = 4 * fold, 4 * fold + 1
        lines += [f"P{a}\t1\t2", f"P{b}\t3\t4", f"P{a}\t3\tP{b}\t1", f"P{a + 2}\t1\tP{b + 2}\t2"]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
def test_it_measures_and_goes_on_where_it_was(faces, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.objectives", f"--data={faces}", f"--out={out}"]

    def go(*options):
        done = subprocess.run(
            [*command, "--steps=2", *options],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads((out / "results.json").read_text())["rows"]

    first = go("--only=simclr", "--seeds=1")
    assert [row["name"] for row in first] == ["random encoder", "raw pixels", "simclr"]
    before = (out / "simclr-0" / "metrics.jsonl").read_text()
    rows = go("--only=simclr", "--seeds=2")
    assert (out / "simclr-0" / "metrics.jsonl").read_text() == before
    assert [(row["name"], row["seed"]) for row in rows[2:]] == [("simclr", 0), ("simclr", 1)]
    assert rows[:3] == first
    for row in rows:
        for metric in benchmark.METRICS:
            assert 0 <= row[metric] <= 1
        assert 1 <= row["rank"] <= 600  # of as many embeddings at most
    for row in rows[2:]:
        assert row["images"] == 2 * benchmark.PRESETS["cpu"].batch
        for baseline, measured in zip(("random", "pixels"), rows):
            low, high = row[f"lfw/accuracy@{baseline}_diff"]
            assert low <= row["lfw/accuracy"] - measured["lfw/accuracy"] <= high
        assert row["ms_per_image"] > 0
        assert row["gflops_per_image"] > 0
    text = (out / "results.md").read_text()
    assert benchmark.table(rows) in text
    assert "not a ranking claim" in text
