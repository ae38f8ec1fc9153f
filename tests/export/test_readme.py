"""README.md: the three lines that open an export elsewhere."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from facejax import export, plugins
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.export import _encoder

pytestmark = pytest.mark.torch
README = Path(__file__).parents[2] / "README.md"
CFG = dataclasses.replace(vit.Config.tiny(), size=24)


def test_three_lines_open_an_export(tmp_path, preprocess, torch_and_timm, monkeypatch):
    torch, timm = torch_and_timm
    given = {"timm": timm}
    for name in ("transformers", "onnxruntime"):
        given[name] = pytest.importorskip(name)
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    (lines,) = (block.splitlines() for block in blocks if "local-dir:" in block)
    assert len(lines) == 3

    params, stats = vit.init(CFG, jax.random.key(0), TowerSpec())
    for form in ("timm", "transformers", "onnx"):
        module = plugins.load("export", form, "test")
        module.write(CFG, params, stats, preprocess, tmp_path / "exported" / form, {})
    monkeypatch.chdir(tmp_path)
    opened = []
    for line in lines:
        exec(line, given)
        opened.append(given[line.split(" = ")[0]])

    pixels = export.normalise(export.fixed_images(24), preprocess)
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    with torch.no_grad():
        in_timm = opened[0].eval()(torch.from_numpy(planes)).numpy()
        in_transformers = opened[1].eval()(torch.from_numpy(planes)).pooler_output.numpy()
    (in_onnx,) = opened[2].run(["raw"], {"image": planes})
    ours = _encoder.embedder(CFG, params, stats)(pixels)
    for theirs in (in_timm, in_transformers, in_onnx):
        assert export.agreement(ours, theirs)["max_rel"] <= 1e-4
