"""Objectives count their matrix products right, those whose own tests don't ask XLA.

Products alone are counted here: what heads of these do beside them (unit centres, sorted
distances, maps of logits) is no small part of the work at a size that a test can afford.
"""

import dataclasses

import jax
import pytest
from counting import products
from made_up import BROAD, B, Case

from facejax.objectives import (
    adversarial_prior,
    barlow,
    clip,
    data2vec,
    dino,
    fsfm_nce,
    recognizability,
    siglip,
    softmax,
    triplet,
    vicreg,
)

SPEC = dataclasses.replace(BROAD, global_batch=B, classes={"identity": 1000})
NCE = fsfm_nce.Config(hidden=32, out=16, region_group=4, represent_depth=1, represent_heads=4)


DINO = dino.Config(local_crops=2)


def twice_the_teacher(cfg, spec) -> float:
    """FLOPs of the teacher's two heads, of which `flops` counts a third, as all teachers'."""
    width = spec.towers["encoder"].embed
    return 4 / 3 * (dino._projector(cfg).flops(width) + 2 * cfg.bottleneck * cfg.prototypes)


def twice_the_target(cfg, spec) -> float:
    """FLOPs of fsfm_nce's target, of which `flops` counts a third: it has no backward pass."""
    branch = fsfm_nce._branch(cfg)
    _, _, head = branch._parts(spec)
    return (branch.flops(spec) - head.flops(cfg.out)) / 2


def made(module, config):
    return module.init(config, jax.random.key(0), SPEC).params


@pytest.mark.parametrize(
    ("module", "config", "uncounted"),
    [
        (adversarial_prior, adversarial_prior.Config(), None),
        (barlow, barlow.Config(), None),
        (clip, clip.Config(out=512), None),
        (data2vec, data2vec.Config.tiny(), None),
        (dino, DINO, twice_the_teacher),
        (fsfm_nce, NCE, twice_the_target),
        (recognizability, recognizability.Config.tiny(), None),
        (siglip, siglip.Config(project="both", out=512), None),
        (softmax, softmax.Config.tiny(), None),
        (triplet, triplet.Config.tiny(), None),
        (vicreg, vicreg.Config(), None),
    ],
    ids=lambda x: getattr(x, "__name__", "").rpartition(".")[2],
)
def test_flops_are_those_of_the_products(module, config, uncounted):
    def loss():
        case = Case.of(module, config, SPEC)
        return case.loss(case.inputs())

    # All is traced, nothing is run; so what making the parameters takes is subtracted.
    jaxprs = [jax.make_jaxpr(f)().jaxpr for f in (loss, lambda: made(module, config))]
    counted = products(jaxprs[0]) - products(jaxprs[1])
    want = module.flops(config, SPEC) + (uncounted(config, SPEC) if uncounted else 0)
    assert counted / B == pytest.approx(want, rel=0.02)
