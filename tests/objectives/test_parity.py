"""Values beside the losses of lightly and pytorch-metric-learning, on the same projections."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import Case, moved
from numpy_heads import f64, mlp, unit

from facejax.export._timm import import_timm
from facejax.objectives import barlow, byol, dino, moco, simclr, simsiam, supcon, swav, vicreg

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def torch():
    """With the operators declared that lightly's import of torchvision looks up."""
    try:
        return import_timm()[0]
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch or timm cannot be imported: {error}")


@pytest.fixture(scope="module")
def losses(torch):
    return pytest.importorskip("lightly.loss")


def case_of(module, **options):
    case = moved(Case.of(module, dataclasses.replace(module.Config.tiny(), **options)))
    return case, case.inputs()


def assert_same(case, given, want):
    np.testing.assert_allclose(jax.jit(case.value)(given), float(want), rtol=1e-5)


def projected(given, head, norm="none", final_norm=False):
    return [mlp(given.params[head], given.feats[v].pooled, norm, final_norm) for v in "ab"]


def test_simclr(torch, losses):
    case, given = case_of(simclr)
    z_a, z_b = map(torch.tensor, projected(given, "projector", "batch", True))
    assert_same(case, given, 2 * losses.NTXentLoss(temperature=case.config.tau)(z_a, z_b))


def test_moco(torch, losses):
    case, given = case_of(moco)
    q = mlp(given.params["projector"], given.feats["query"].pooled)
    k = mlp(given.ema["key"]["projector"], given.feats["key_0"].pooled)
    rows = f64(given.state["queue"]["rows"])
    theirs = losses.NTXentLoss(temperature=case.config.tau, memory_bank_size=rows.shape)
    theirs.memory_bank.bank = torch.tensor(rows)
    assert_same(case, given, theirs(torch.tensor(q), torch.tensor(k)))


def test_byol(torch, losses):
    case, given = case_of(byol)
    p = [
        mlp(given.params["predictor"], mlp(given.params["projector"], x, "batch"), "batch")
        for x in (given.feats[f"online_{v}"].pooled for v in "ab")
    ]
    own = given.ema["target"]["projector"]
    z = [mlp(own, given.feats[f"target_{v}"].pooled, "batch") for v in "ab"]
    (p_a, p_b), (z_a, z_b) = map(torch.tensor, p), map(torch.tensor, z)
    cosine = losses.NegativeCosineSimilarity()
    assert_same(case, given, 4 + 2 * cosine(p_a, z_b) + 2 * cosine(p_b, z_a))


def test_simsiam(torch, losses):
    case, given = case_of(simsiam)
    z = projected(given, "projector", "batch", True)
    p = [torch.tensor(mlp(given.params["predictor"], x, "batch")) for x in z]
    z_a, z_b = map(torch.tensor, z)
    cosine = losses.NegativeCosineSimilarity()
    assert_same(case, given, (cosine(p[0], z_b) + cosine(p[1], z_a)) / 2)


def test_barlow(torch, losses):
    case, given = case_of(barlow)
    z_a, z_b = map(torch.tensor, projected(given, "projector", "batch"))
    assert_same(case, given, losses.BarlowTwinsLoss(case.config.redundancy)(z_a, z_b))


def test_vicreg(torch, losses):
    case, given = case_of(vicreg)
    x, y = map(torch.tensor, projected(given, "expander", "batch"))
    assert_same(case, given, losses.VICRegLoss()(x, y))


def test_swav(torch, losses):
    case, given = case_of(swav, local_crops=2, queue=0)
    x = np.stack([np.asarray(f.pooled) for f in given.feats.values()])
    z = unit(mlp(given.params["projector"], x, "batch"))
    scores = [torch.tensor(s) for s in z @ f64(given.params["prototypes"]["kernel"])]
    assert_same(case, given, losses.SwaVLoss()(scores[:2], scores[2:]))


def test_dino(torch, losses):
    case, given = case_of(dino, local_crops=2)

    def logits(params, names):
        kernel = f64(params["prototypes"]["kernel"])
        heads = [mlp(params["projector"], given.feats[n].pooled, activation="gelu") for n in names]
        return [torch.tensor(unit(x) @ (kernel / np.linalg.norm(kernel, axis=0))) for x in heads]

    teacher = logits(given.ema["teacher"], ("teacher_0", "teacher_1"))
    student = logits(given.params, [n for n in given.feats if not n.startswith("teacher")])
    theirs = losses.DINOLoss(output_dim=case.config.prototypes)
    centre = jnp.linspace(-0.3, 0.3, case.config.prototypes)
    theirs.center = torch.nn.Parameter(torch.tensor(f64(centre))[None, None], requires_grad=False)
    given = dataclasses.replace(given, state={"centre": centre})
    assert_same(case, given, theirs(teacher, student))
    # Having been called it has moved its centre, as `update` does.
    stats = jax.jit(case.loss)(given).stats
    _, new = dino.update(case.config, given.params, given.state, stats, case.ctx(given.draw))
    np.testing.assert_allclose(new["centre"], theirs.center.numpy().ravel(), atol=1e-5)


def test_supcon(torch):
    theirs = pytest.importorskip("pytorch_metric_learning.losses")
    case, given = case_of(supcon)
    labels = np.array([3, 1, 3, 0, 1, 3, 7, 0])
    given.batch.update(identity=jnp.asarray(labels), has_identity=jnp.ones(8, bool))
    z = np.concatenate(projected(given, "projector"))
    want = theirs.SupConLoss(case.config.tau)(torch.tensor(z), torch.tensor(np.tile(labels, 2)))
    assert_same(case, given, want)
