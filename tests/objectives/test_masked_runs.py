"""Masked-image objectives in the whole step: micro-batches and meshes change nothing."""

import pytest
from support import assert_close, resolve, steps

VIT = {"name": "vit", "width": 16, "depth": 2, "heads": 2, "patch": 4}
FSFM = {"region_group": 4, "decoder_depth": 1, "represent_depth": 1, "hidden": 16, "out": 8}
FMAE = {"dim": 8, "tokens": 9, "width": 16, "depth": 1, "heads": 2, "decoder_heads": 2}
SECTIONS = {
    "simmim": {"simmim": {"cell": 8}},
    "data2vec": {"data2vec": {"layers": 2, "momentum": 0.9}},
    "beit": {"beit": {"vocabulary": 6, "learn": 0.5}},
    "ibot": {
        "ibot": {"local_crops": 1, "prototypes": 16, "hidden": 16, "bottleneck": 8, "frozen": 0.0}
    },
    "fsfm": {
        "fsfm": {**FSFM, "momentum": 0.9},
        "fsfm_nce": {k: v for k, v in FSFM.items() if k != "decoder_depth"},
    },
    "fmae": {"fmae": {**FMAE, "decoder_depth": 1}},
    "adversarial_prior": {"adversarial_prior": {"dim": 4, "hidden": (8,)}},
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", SECTIONS)
def test_micro_batches_and_meshes_change_nothing(name):
    run = resolve(SECTIONS[name], encoder=VIT)
    whole, history = steps(run, 3)
    parts, part_history = steps(resolve(SECTIONS[name], encoder=VIT, micro_batch=4), 3)
    many, many_history = steps(run, 3, devices=8, shape=(2, 4))
    for other, other_history in ((parts, part_history), (many, many_history)):
        assert_close(whole, other, atol=2e-5, rtol=1e-4)
        for a, b in zip(history, other_history):
            assert abs(a["loss"] - b["loss"]) < 1e-5 * max(1, abs(a["loss"]))
