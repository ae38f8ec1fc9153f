"""Every evaluator, on its own tiny set, through the functions that the runner calls."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_joint import space

from facejax import config, evaluators, plugins
from facejax.evaluators._baselines import pixels

SIZE = 32
PROJECTION = np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, 24)).astype(np.float32)


def project(images: np.ndarray) -> np.ndarray:
    """A fixed encoder: random directions of the pixels."""
    assert images.dtype == np.uint8
    assert images.shape[1:] == (SIZE, SIZE, 3)
    return (images.reshape(len(images), -1).astype(np.float32) / 255 - 0.5) @ PROJECTION


@pytest.fixture(params=plugins.names("eval"))
def module(request):
    return plugins.load("eval", request.param, "eval.x.type")


def test_numbers_are_floats_and_the_same_each_time(module, tmp_path):
    cfg = module.Config.tiny(tmp_path)
    result = module.run(cfg, module.prepare(cfg, SIZE), space(module, project, 24))
    assert {"n", "failed"} <= set(result.metrics)
    assert result.metrics["n"] > 0
    assert result.metrics["failed"] == 0
    assert all(type(v) is float and np.isfinite(v) for v in result.metrics.values())
    again = module.run(cfg, module.prepare(cfg, SIZE), space(module, project, 24))
    assert again.metrics == result.metrics
    for difference in module.difference(result, again, n=20).values():
        assert difference == (0, 0, 0)


def test_what_the_report_needs_is_there(module, tmp_path):
    cfg = module.Config.tiny(tmp_path)
    result = module.run(cfg, module.prepare(cfg, SIZE), space(module, project, 24))
    assert len({len(v) for v in result.items.values()}) == 1
    assert len(result.embeddings) == len(result.labels)
    for curve in result.curves.values():
        assert len(curve["x"]) == len(curve["y"]) > 1
        assert curve["xlabel"]
        assert curve["ylabel"]


def test_differences_are_of_its_metrics_with_their_interval(module, tmp_path):
    cfg = module.Config.tiny(tmp_path)
    data = module.prepare(cfg, SIZE)
    encoders = ((project, 24), (pixels, 1024))
    a, b = (module.run(cfg, data, space(module, *encoder)) for encoder in encoders)
    differences = module.difference(a, b, n=50)
    assert differences
    assert differences.keys() <= a.metrics.keys()
    for metric, (value, low, high) in differences.items():
        assert value == pytest.approx(a.metrics[metric] - b.metrics[metric])
        assert low <= high


def test_each_picture_is_embedded_once_in_a_run(module, tmp_path):
    seen = []

    def watch(images):
        seen.extend(image.tobytes() for image in images)
        return project(images)

    cfg = module.Config.tiny(tmp_path)
    module.run(cfg, module.prepare(cfg, SIZE), space(module, watch, 24))
    assert len(seen) == len(set(seen)) > 0


def test_its_config_survives_config_json(module, tmp_path):
    cfg = module.Config.tiny(tmp_path)
    name = module.__name__.rpartition(".")[2]
    (entry,) = config.resolve_evals({"x": {"type": name, **dataclasses.asdict(cfg)}}).values()
    assert entry.config == cfg


@pytest.mark.parametrize("name", plugins.names("eval"))
def test_evaluators_need_no_jax(name, tmp_path):
    code = (
        "import sys, pathlib\n"
        "sys.modules['jax'] = None  # importing it fails\n"
        f"sys.path.append({str(Path(__file__).parent)!r})\n"
        "from made_up_joint import space\n"
        f"from facejax.evaluators import {name} as module, _baselines\n"
        f"cfg = module.Config.tiny(pathlib.Path({str(tmp_path)!r}))\n"
        "given = space(module, _baselines.pixels, 1024)\n"
        "result = module.run(cfg, module.prepare(cfg, 32), given)\n"
        "assert result.metrics['n'] > 0\n"
    )
    root = Path(evaluators.__file__).parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_evaluators_do_not_import_each_other():
    public = {f"facejax.evaluators.{name}" for name in plugins.names("eval")}
    for path in Path(evaluators.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not public & {f"{node.module}.{a.name}" for a in node.names}, path
                assert node.module not in public, path
