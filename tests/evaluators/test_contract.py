"""Every evaluator, on its own tiny set, through the two functions that the runner calls."""

import ast
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from facejax import evaluators, plugins
from facejax.evaluators._baselines import pixels


@pytest.fixture(params=plugins.names("eval"))
def module(request):
    return plugins.load("eval", request.param, "eval.x.type")


def test_tiny_set_by_raw_pixels(module, tmp_path):
    cfg = module.Config.tiny(tmp_path)
    assert hash(cfg) == hash(type(cfg)(**{f.name: getattr(cfg, f.name) for f in fields(cfg)}))
    data = module.prepare(cfg, 32)
    result = module.run(cfg, data, pixels)
    assert {"n", "failed"} <= set(result.metrics)
    assert result.metrics["n"] > 0
    assert all(type(v) is float and np.isfinite(v) for v in result.metrics.values())
    assert len({len(v) for v in result.items.values()}) == 1
    assert len(result.embeddings) == len(result.labels)
    again = module.run(cfg, module.prepare(cfg, 32), pixels)
    assert again.metrics == result.metrics
    for difference in module.difference(result, again, n=20).values():
        assert difference == (0, 0, 0)


def test_evaluators_import_neither_jax_nor_each_other():
    public = set(plugins.names("eval"))
    for path in Path(evaluators.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{a.name}" for a in node.names]
            else:
                continue
            for name in names:
                assert name.split(".")[0] not in {"jax", "flax", "torch", "sklearn"}, path
                assert name.rpartition(".")[2] not in public, path
