"""python -m facejax.evaluate on a run of two steps, and what its numbers may not depend on."""

import dataclasses
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from support import SIZE, trained_run

import facejax
from facejax import cli, config, evaluate, mesh, model
from facejax.metrics import load_eval, read_jsonl

SOURCE = {"name": "synthetic", "n": 100, "identities": 25, "size": SIZE, "first_identity": 400}
EVAL = {
    "pairs": {"type": "verification", "source": SOURCE, "bootstrap": 20},
    "people": {"type": "knn", "source": SOURCE, "k": (1, 5), "bootstrap": 20, "every_steps": 1},
    "traits": {"type": "linear_probe", "source": SOURCE, "l2": (0.1,), "bootstrap": 20},
}
HEADLINES = {"pairs": "accuracy", "people": "knn@5", "traits": "balanced_accuracy"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run"), eval=EVAL)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run without evaluators."""
    return trained_run(tmp_path_factory.mktemp("bare"))


@pytest.fixture
def copy(workdir, tmp_path):
    """The run, to write into."""
    return shutil.copytree(workdir, tmp_path / "run")


def numbers_at(workdir, step: int) -> dict:
    """What metrics.jsonl says of the evaluations at a step."""
    lines = read_jsonl(workdir / "metrics.jsonl")
    found = {k: v for row in lines if row["step"] == step for k, v in row.items()}
    return {name: value for name, value in found.items() if name.startswith("eval/")}


def exit_of(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main(evaluate.run)
    return end.value.code


def test_training_evaluates_beside_its_baselines(workdir):
    numbers = numbers_at(workdir, 2)
    for label, metric in HEADLINES.items():
        for tail in ("", "@random", "@pixels"):
            assert 0 <= numbers[f"eval/{label}/{metric}{tail}"] <= 1
            assert numbers[f"eval/{label}/n{tail}"] > 0
            assert numbers[f"eval/{label}/failed{tail}"] == 0
        for baseline in ("random", "pixels"):
            name = f"eval/{label}/{metric}@{baseline}_diff"
            assert numbers[f"{name}_low"] <= numbers[f"{name}_high"]
            sides = numbers[f"eval/{label}/{metric}"], numbers[f"eval/{label}/{metric}@{baseline}"]
            assert numbers[name] == pytest.approx(sides[0] - sides[1])
    # Only what is due within training is measured at the first step.
    assert {name.split("/")[1] for name in numbers_at(workdir, 1)} == {"people"}


def test_results_are_kept_for_the_report(workdir):
    for label in EVAL:
        for suffix in ("", "-random", "-pixels"):
            result = load_eval(workdir / "artifacts" / f"eval-{label}-2{suffix}.npz")
            name = f"eval/{label}/n" + suffix.replace("-", "@")
            assert result.metrics["n"] == numbers_at(workdir, 2)[name]
    assert load_eval(workdir / "artifacts/eval-pairs-2.npz").curves["roc"]["logx"] is True


def test_the_command_repeats_the_numbers_of_training(copy, monkeypatch, tmp_path, capsys):
    before = numbers_at(copy, 2)
    out = tmp_path / "new" / "numbers.json"
    assert exit_of(monkeypatch, f"--workdir={copy}", f"--out={out}") == 0
    told = json.loads(out.read_text())
    assert told.pop("step") == 2
    assert told == before == numbers_at(copy, 2)
    table = capsys.readouterr().out
    assert "eval/people/knn@5" in table
    for detail in ("@random_diff", "balanced_accuracy/", "/l2", "skipped/", "_low"):
        assert detail not in table


def test_another_checkpoint_and_other_options(copy, monkeypatch, tmp_path):
    out = tmp_path / "numbers.json"
    more = ["--step=1", "--eval.people.k=(3,)", "--eval.people.source.n=50"]
    assert exit_of(monkeypatch, f"--workdir={copy}", f"--out={out}", *more) == 0
    told = json.loads(out.read_text())
    assert told["step"] == 1
    assert "eval/people/knn@3" in told
    assert "eval/people/knn@5" not in told
    assert told["eval/people/n"] == 50


def test_following_ends_with_the_run(copy, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate.time, "sleep", lambda _: pytest.fail("waited for a finished run"))
    out = tmp_path / "numbers.json"
    assert exit_of(monkeypatch, f"--workdir={copy}", "--follow", f"--out={out}") == 0
    assert json.loads(out.read_text())["step"] == 2
    assert numbers_at(copy, 1).keys() == numbers_at(copy, 2).keys()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--step=7"], "--step: no checkpoint at step 7; there are: 1, 2"),
        (["--export=x"], "--workdir: exactly one of --workdir and --export"),
        (["--steps=1"], "--steps: unknown option; did you mean '--step'?"),
        (["--eval.people.k=(0,)"], "config.eval.people.k: (0,) with 99 pictures to vote"),
        (["--eval.people.kk=3"], "config.eval.people.kk: unknown key; did you mean 'k'?"),
        (["--eval.pairs.pairs=30"], "config.eval.pairs.pairs: 30 can't be drawn"),
        (["--eval.pairs.source.n=0"], "config.eval.pairs.source.n: 0 is too small"),
        (["--eval.pairs.source.nn=3"], "config.eval.pairs.source.nn: unknown key"),
        (["--eval.traits.column=mood"], "config.eval.traits.column: no classes called 'mood'"),
        (["--eval.people.path=nowhere"], "config.eval.people.source: exactly one of path and"),
    ],
)
def test_mistakes_are_one_line(workdir, monkeypatch, capsys, arguments, told):
    assert exit_of(monkeypatch, f"--workdir={workdir}", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {told}")


def test_a_run_without_evaluators_is_told_how_to_add_one(bare, monkeypatch, capsys):
    assert exit_of(monkeypatch, f"--workdir={bare}") == 2
    assert "error: config.eval: no evaluator; add --eval.lfw.type=" in capsys.readouterr().err
    given = [f"--eval.faces.{key}={value!r}" for key, value in EVAL["people"].items()]
    assert (
        exit_of(monkeypatch, f"--workdir={bare}", *(g.replace("'knn'", "knn") for g in given)) == 0
    )
    assert "eval/faces/knn@5" in numbers_at(bare, 2)


@pytest.mark.parametrize("label", EVAL)
def test_numbers_depend_neither_on_batches_nor_on_devices(workdir, label, monkeypatch):
    """100 pictures leave 2 over in batches of 7, which are padded; 8 devices pad each batch."""
    entry = {label: config.resolve_evals(EVAL)[label]}
    (evaluation,) = evaluate.prepare(entry, SIZE)
    trained = facejax.load(workdir)

    def numbers(batch: int, devices: int) -> dict[str, float]:
        grid = mesh.make(config.MeshShape(), jax.devices()[:devices])
        monkeypatch.setattr(model, "_mesh", lambda: grid)
        return evaluate.measure(evaluation, dataclasses.replace(trained, batch=batch))[1]

    expected = numbers(256, 8)
    for batch, devices in ((7, 8), (7, 1), (256, 1)):
        found = numbers(batch, devices)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_an_evaluator_of_images_and_texts_gets_their_space(monkeypatch):
    """In place of `embed`, with the random baseline and without pixels."""

    class Trained:
        def __init__(self, scale):
            self.scale = scale

        def joint(self):
            return self

    class Module:
        JOINT = True

        @staticmethod
        def run(cfg, data, joint):
            return evaluate.Result({"scale": joint.scale})

        @staticmethod
        def difference(result, baseline):
            return {"scale": (result.metrics["scale"] - baseline.metrics["scale"], 0.0, 1.0)}

    monkeypatch.setattr(evaluate, "random_encoder", lambda trained: Trained(trained.scale / 4))
    entry = config.Eval("made", Module, config.MeshShape())
    _, numbers = evaluate.measure(evaluate.Evaluation("made", entry, None, {}), Trained(4.0))
    assert numbers == {
        "scale": 4.0,
        "scale@random": 1.0,
        "scale@random_diff": 3.0,
        "scale@random_diff_low": 0.0,
        "scale@random_diff_high": 1.0,
    }
