"""Model FLOPs of a step: which forwards count, how often, and of which encoder."""

import dataclasses

import pytest
from support import TEXT, program_of, resolve

from facejax.contracts import Pass
from facejax.encoders import vit
from facejax.flops import flops_per_image
from facejax.modifiers import amcl
from facejax.objectives import mae, moco, simclr
from facejax.ops.masking import Cells
from facejax.plugins import load
from facejax.state import shapes

VIT = {"name": "vit", "width": 32, "depth": 1, "heads": 2, "patch": 4}


def test_a_student_counts_three_times_and_sees_what_was_kept():
    program = program_of(resolve({"mae": {}, "simclr": {}}, encoder=VIT))
    tower = program.run.towers["encoder"].config
    encoder = vit.flops(tower, 16, keep=4) + 2 * vit.flops(tower, 16)
    own = mae.flops(mae.Config(), program.spec) + simclr.flops(simclr.Config(), program.spec)
    assert flops_per_image(program) == pytest.approx(3 * (encoder + own))


def test_modifiers_count_beside_a_queue():
    config = moco.Config(queue=1024)
    modified = {"queue": 1024, "modifiers": {"amcl": {}, "hydra": {}}}
    plain, more = (
        flops_per_image(program_of(resolve({"moco": options}, encoder=VIT)))
        for options in ({"queue": 1024}, modified)
    )
    program = program_of(resolve({"moco": modified}, encoder=VIT))
    own = amcl.flops(amcl.Config(), program.spec, config.out, 1024)
    assert more - plain == pytest.approx(3 * own)
    one, other = (
        flops_per_image(program_of(resolve({"simclr": options}, encoder=VIT)))
        for options in ({}, {"modifiers": {"amcl": {}}})
    )
    assert one == other


def test_teachers_count_once_and_frozen_ones_as_themselves(monkeypatch):
    for name in ("queue", "distil"):
        monkeypatch.setattr(load("objective", name, ""), "flops", lambda *_: 0.0, raising=False)
    program = program_of(resolve({"queue": {}}, encoder=VIT))
    tower = program.run.towers["encoder"].config
    assert flops_per_image(program) == pytest.approx(4 * vit.flops(tower, 16))
    teacher = vit.Config(width=64, depth=2, heads=2, patch=4, size=16)
    program = program_of(
        resolve({"distil": {"path": "teacher"}}, encoder=VIT), {"teacher": (vit, teacher)}
    )
    want = 3 * vit.flops(tower, 16) + vit.flops(teacher, 16)
    assert flops_per_image(program) == pytest.approx(want)
    program = program_of(resolve({"distil": {"cached": "feature"}}, encoder=VIT))
    assert flops_per_image(program) == pytest.approx(3 * vit.flops(tower, 16))


def test_texts_of_a_set_count_each_and_so_do_those_that_a_loss_reads():
    words = {"encoder": VIT, "encoder_text": TEXT}
    program = program_of(resolve({"secla": {"width": 8, "hidden": 8, "out": 4}}, **words))
    text = program.run.towers["encoder_text"]
    one = text.module.flops(text.config)
    objective = program.run.objectives["secla"]
    own = objective.module.flops(objective.config, program.spec)
    assert flops_per_image(program) == pytest.approx(3 * (2 * one + own))

    words["encoder_text"] = TEXT | {"context": 32}
    program = program_of(resolve({"flip": {"out": 4, "queue": 16}}, **words))
    objective = program.run.objectives["flip"]
    own = objective.module.flops(objective.config, program.spec)
    image = vit.flops(program.run.towers["encoder"].config, 16)
    want = 3 * (image + one + 3 * one + own) + image + one
    assert flops_per_image(program) == pytest.approx(want)


def test_an_objective_that_does_not_say_makes_it_unknown():
    assert flops_per_image(program_of(resolve({"queue": {}}))) is None


def test_masks_without_an_option_to_drop_replace(monkeypatch):
    """Block masks always replace: a mask token is made, and all patches are computed."""
    ratio = load("objective", "ratio", "")
    passes = ratio.passes

    def replaced(cfg, spec):
        return {k: dataclasses.replace(p, mask=Cells(8)) for k, p in passes(cfg, spec).items()}

    assert Pass(mask=Cells(8)).replaces
    assert not Pass().replaces
    plain = shapes(program_of(resolve({"ratio": {}}, encoder=VIT)))
    assert "mask_token" not in plain.params["encoder"]
    monkeypatch.setattr(ratio, "passes", replaced)
    monkeypatch.setattr(ratio, "flops", lambda *_: 0.0, raising=False)
    program = program_of(resolve({"ratio": {}}, encoder=VIT))
    assert "mask_token" in shapes(program).params["encoder"]
    tower = program.run.towers["encoder"].config
    assert flops_per_image(program) == pytest.approx(3 * vit.flops(tower, 16))
