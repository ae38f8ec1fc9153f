"""export/names of the recognition encoders: bijective, and with arcface_torch's keys and shapes.

The lists in tests/golden were derived from the public source of its backbones.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from recognisers import CASES, case, drawn, shapes_of

from facejax.encoders import face_vit, iresnet, mobilefacenet
from facejax.errors import UserError
from facejax.export import names
from facejax.export.names._arcface import without_counters
from facejax.export.names.face_vit import torch as vit_table
from facejax.export.names.iresnet import torch as iresnet_table
from facejax.export.names.mobilefacenet import torch as mbf_table

GOLDEN = Path(__file__).parents[1] / "golden"
FULL = {
    "iresnet50": (iresnet, iresnet.Config(50, size=112), iresnet_table),
    "iresnet100": (iresnet, iresnet.Config(100, size=112), iresnet_table),
    "mbf": (mobilefacenet, mobilefacenet.Config(size=112), mbf_table),
    "vit_b": (face_vit, face_vit.Config(size=112, drop_tokens=0.1), vit_table),
}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_bit_equal(name):
    module, config, table_of = case(name)
    table, variables = table_of.torch(config), drawn(module, config)
    tensors = names.export_tensors(table, variables)
    back = names.import_tensors(table, tensors, variables, "file")
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    assert len({e.theirs for e in table}) == len(table)


@pytest.mark.parametrize("name", FULL)
def test_full_sizes_have_the_keys_and_shapes_of_arcface_torch(name):
    module, config, table_of = FULL[name]
    shapes = names.flatten(shapes_of(module, config))
    table = table_of(config)
    assert {e.ours for e in table if e.ours} == shapes.keys()

    def shape(e):
        ours = np.broadcast_to(np.float32(0), shapes[e.ours].shape) if e.ours else None
        return e.layout.write(ours).shape if e.ours else e.constant.shape

    text = (GOLDEN / f"arcface_torch_{name}.txt").read_text()
    golden = without_counters(dict(line.partition(" ")[::2] for line in text.splitlines()))
    assert {e.theirs: "x".join(map(str, shape(e))) for e in table} == golden


def test_counters_of_batches_are_left_out():
    tensors = {"bn1.weight": np.ones(2), "bn1.num_batches_tracked": np.array(7)}
    assert without_counters(tensors).keys() == {"bn1.weight"}


def test_a_trained_mask_token_needs_its_option():
    module, config, _ = case("face_vit-drop")
    tensors = names.export_tensors(vit_table(config), drawn(module, config))
    without = dataclasses.replace(config, drop_tokens=0.0)
    with pytest.raises(UserError, match="wrong values: mask_token"):
        names.import_tensors(vit_table(without), tensors, shapes_of(module, without), "file")


def test_a_scale_that_was_trained_is_refused():
    module, config, table_of = case("iresnet")
    tensors = names.export_tensors(table_of.torch(config), drawn(module, config))
    tensors["features.weight"][3] = 1.1
    with pytest.raises(UserError, match=r"wrong values: features\.weight"):
        names.import_tensors(table_of.torch(config), tensors, shapes_of(module, config), "file")
