"""The comparison of steps with PyTorch: both sides do the same work, and it goes on."""

import json
import sys

import numpy as np
import pytest

from benchmarks import step as benchmark

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
torch.set_num_threads(1)  # of busy cores, waiting threads would be the slowest


@pytest.mark.parametrize("task", ["vit", "mae", "simclr", "iresnet50"])
def test_torch_trains_each_task(task):
    from benchmarks import torch_models as models

    torch.manual_seed(0)
    encoder = models.ViT(32, 1, 2, 8, 16)
    decoder = {"width": 32, "heads": 1, "depth": 1}
    model = {
        "vit": lambda: models.Classifier(encoder, 32, 5),
        "mae": lambda: models.MAE(encoder, 32, 8, 0.75, decoder),
        "simclr": lambda: models.SimCLR(encoder, 32, 16, 8, 0.1),
        "iresnet50": lambda: models.ArcFace(models.IResNet((8, 8), (1, 2), 16, 16), 16, 5),
    }[task]()
    step = models.trainer(model, "float32", "cpu", compiled=False)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (8, 16, 16, 3), np.uint8))
    label = torch.from_numpy(rng.integers(0, 5, 8))
    losses = [float(step(image, label)) for _ in range(60)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


@pytest.mark.parametrize("task", ["vit", "mae", "simclr", "iresnet50"])
def test_both_sides_have_the_same_encoder(task):
    from benchmarks import torch_models as models

    args = benchmark.arguments(["--out=x", "--size=32", "--variant=Ti", "--identities=16"])
    shapes = benchmark.state.shapes(benchmark.planned(args, task, 8)).params["encoder"]
    count = sum(leaf.size for leaf in benchmark.jax.tree.leaves(shapes))
    if task == "iresnet50":
        theirs = models.IResNet((64, 128, 256, 512), (3, 4, 14, 3), 512, 32)
    else:
        theirs = models.ViT(192, 12, 3, 16, 32)
    assert count == sum(p.numel() for p in theirs.parameters() if p.requires_grad)


@pytest.mark.slow
def test_a_row_is_measured_once(tmp_path, monkeypatch, capsys):
    options = ["--tasks=embed", "--size=32", "--batch=8", "--pairs=1", "--seconds=0.01"]
    monkeypatch.setattr(sys, "argv", ["step", f"--out={tmp_path}", *options])
    benchmark.main()
    (row,) = map(json.loads, (tmp_path / "step.jsonl").read_text().splitlines())
    assert row["ratio"][0] > 0
    assert row["batch"] == {"facejax": 8, "torch": 8}
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("measured again"))
    benchmark.main()
    assert capsys.readouterr().out.count("embed") == 2


def test_a_sweep_goes_on_and_heeds_memory(tmp_path, monkeypatch):
    """Of batches 8, 16 and 32 torch fits up to 16; both at their best do not fit together."""
    asked, held = [], []

    def made(args, task, side, batch):
        held.append(batch)
        if side == "torch" and batch == 32:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        if sum(held) > 40:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying")
        return lambda seconds: float(batch)

    def apart(args, task, at):
        held.clear()
        asked.append(at)
        return benchmark.answer(args, task, at)

    monkeypatch.setattr(benchmark, "made", made)
    monkeypatch.setattr(benchmark, "apart", apart)
    args = benchmark.arguments(["--out=x", "--size=32", "--batch=8,16,32", "--pairs=1"])
    row = benchmark.measure(args, "vit", benchmark.Rows(tmp_path / "step.jsonl"))
    assert row["batch"] == {"facejax": 16, "torch": 16}
    assert row["ratio"] == [1.0]
    assert len(asked) == 8
    asked.clear()
    benchmark.measure(args, "vit", benchmark.Rows(tmp_path / "step.jsonl"))
    assert asked == [{"facejax": 32, "torch": 16}, {"facejax": 16, "torch": 16}]


def test_other_failures_are_told(monkeypatch):
    def broken(*_):
        raise RuntimeError("no such shape")

    monkeypatch.setattr(benchmark, "made", broken)
    args = benchmark.arguments(["--out=x"])
    with pytest.raises(RuntimeError, match="no such shape"):
        benchmark.answer(args, "vit", {"torch": 8})
