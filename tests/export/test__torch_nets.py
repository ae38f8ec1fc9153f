"""export/_torch_nets.py: written independently, it computes what the encoders compute."""

import dataclasses
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recognisers import CASES, case, drawn

from facejax.export import _torch_nets, names

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

GOLDEN = Path(__file__).parents[1] / "golden"
B = 5
QUICK = ("iresnet-se", "face_vit")
NAMES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]


@cache
def both(name, train):
    """Embeddings, gradients and statistics after the pass, of us and of torch, in float64."""
    module, config, table_of = case(name)
    table = table_of.torch(config)
    variables = drawn(module, config)
    net = getattr(_torch_nets, module.__name__.rpartition(".")[2])(**table_of.torch_options(config))
    tensors = names.export_tensors(table, variables)
    net.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in tensors.items()}, strict=True)
    net.double().train(train)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(B, config.size, config.size, 3))
    weight = rng.normal(size=(B, config.embed))

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).requires_grad_()
    found = net(x)
    (found.sin() * torch.from_numpy(weight)).sum().backward()
    grads = {k: p.grad.numpy() for k, p in net.named_parameters() if p.grad is not None}
    grads["image"] = x.grad.numpy().transpose(0, 2, 3, 1)
    running = {k: v.numpy() for k, v in net.named_buffers() if "num_batches" not in k}
    theirs = found.detach().numpy(), grads, running

    exact = dataclasses.replace(config, dtype="float64")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)

        @jax.jit
        def step(params, image):
            features, stats = module.apply(
                exact, params, wide["stats"], {"image": image}, train=train
            )
            return jnp.sum(jnp.sin(features.pooled) * weight), (features.pooled, stats)

        run = jax.value_and_grad(step, (0, 1), has_aux=True)
        (_, (pooled, stats)), (params, image) = jax.jit(run)(wide["params"], jnp.asarray(images))
        moved = jax.device_get({"params": params, "stats": stats})
        flat = names.flatten(moved)
        ours = {e.theirs: e.layout.write(flat[e.ours]) for e in table if e.ours}
        return (np.asarray(pooled), {**ours, "image": np.asarray(image)}), theirs


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", NAMES)
def test_embeddings_and_gradients_are_those_of_torch(name, train):
    (pooled, ours), (found, grads, _) = both(name, train)
    np.testing.assert_allclose(pooled, found, rtol=0, atol=1e-10)
    largest = max(np.abs(g).max() for g in grads.values())
    for key, grad in grads.items():
        np.testing.assert_allclose(ours[key], grad, rtol=0, atol=1e-10 * largest, err_msg=key)
    used = {key for key in ours if "running" not in key and key != "mask_token"}
    assert used <= grads.keys()


@pytest.mark.parametrize("name", NAMES)
def test_running_statistics_move_as_in_torch(name):
    (_, ours), (_, _, running) = both(name, True)
    (_, before), _ = both(name, False)
    for key, value in running.items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-10, atol=1e-12, err_msg=key)
        assert np.abs(before[key] - value).max() > 1e-4, key


@pytest.mark.parametrize("name", ["iresnet50", "iresnet100", "mbf", "vit_b"])
def test_state_dicts_have_the_keys_of_arcface_torch(name):
    build = {
        "iresnet50": lambda: _torch_nets.iresnet(),
        "iresnet100": lambda: _torch_nets.iresnet(blocks=(3, 13, 30, 3)),
        "mbf": lambda: _torch_nets.mobilefacenet(),
        "vit_b": lambda: _torch_nets.face_vit(),
    }[name]
    with torch.device("meta"):
        net = build()
    found = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    text = (GOLDEN / f"arcface_torch_{name}.txt").read_text()
    lines = [line.partition(" ") for line in text.splitlines()]
    assert found == {key: tuple(map(int, s.split("x"))) if s else () for key, _, s in lines}
