"""Presentation attacks of the synthetic source: drawn apart, told by texture and not by colour."""

import dataclasses

import numpy as np
import pytest

from facejax.data.sources import _synthetic_attacks as attacks
from facejax.data.sources import synthetic
from facejax.errors import UserError
from facejax.evaluators import _logistic, _metrics
from facejax.evaluators._baselines import colour_histograms

PLAIN = synthetic.Config(n=1000, identities=300)
CFG = dataclasses.replace(PLAIN, attacks=synthetic.ATTACKS)


def test_a_record_depends_on_the_config_and_its_number_alone():
    some = [700, 3, 41, 902, 5, 17, 300]
    together = synthetic.render(CFG, some)
    for row, index in enumerate(some):
        alone = synthetic.render(CFG, [index])
        for key, values in together.items():
            np.testing.assert_array_equal(alone[key][0], values[row], err_msg=key)


def test_attacks_change_the_picture_and_its_caption_alone():
    plain, shown = (synthetic.render(cfg, range(40)) for cfg in (PLAIN, CFG))
    assert shown.keys() - plain.keys() == {"attack"}
    for key in plain.keys() - {"image", "caption"}:
        np.testing.assert_array_equal(plain[key], shown[key])
    assert "attack" not in synthetic.open(PLAIN).fields
    assert synthetic.open(CFG).fields["attack"].names == ("live", *synthetic.ATTACKS)


def test_shares_are_as_asked_and_looks_held_out_never_mix():
    streams, shots = np.arange(4000), np.zeros(4000, np.int64)
    kinds = synthetic.ATTACKS[:3]
    drawn = {k: attacks.draw(0, streams, shots, kinds, 0.4, k) for k in attacks.LOOKS}
    for look, found in drawn.items():
        share = np.bincount(found["attack"], minlength=9) / 4000
        np.testing.assert_allclose(share, [0.4, 0.2, 0.2, 0.2, 0, 0, 0, 0, 0], atol=0.03)
        assert set(found["variant"]) == set(attacks.LOOKS[look])
    assert not set(drawn["seen"]["variant"]) & set(drawn["unseen"]["variant"])


@pytest.mark.parametrize("size", [16, 96])
def test_every_attack_changes_the_face_and_every_variant_differs(size):
    live = synthetic.render(dataclasses.replace(PLAIN, size=size), range(1))
    rows = attacks.VARIANTS
    image, landmarks = (np.repeat(live[k], rows, 0) for k in ("image", "landmarks"))
    drawn = attacks.draw(0, np.zeros(rows, int), np.zeros(rows, int), synthetic.ATTACKS, 0.5, "all")
    drawn["variant"] = np.arange(rows)
    shown = [
        attacks.present(image, landmarks, drawn | {"attack": np.full(rows, k)}) for k in range(9)
    ]
    assert (shown[0] == shown[0][:1]).all()  # live, through the same camera
    for each in shown[1:]:
        assert len(np.unique(each.reshape(rows, -1), axis=0)) == rows
        assert (np.abs(each.astype(int) - shown[0]).mean((1, 2, 3)) > 1).all()


def test_captions_say_which_attack_it_is_in_several_words():
    plain = synthetic.render(dataclasses.replace(PLAIN, size=16), range(300))
    shown = synthetic.render(dataclasses.replace(CFG, size=16), range(300))
    phrases = [p for some in attacks.PHRASES.values() for p in some]
    assert len(set(phrases)) == len(phrases) == 36
    for kind, before, after in zip(shown["attack"], plain["caption"], shown["caption"]):
        opening, _, listed = after.partition(" with ")
        assert opening in attacks.PHRASES[attacks.CLASSES[kind]]
        assert listed == before.partition(" with ")[2]
    assert len({c.partition(" with ")[0] for c in shown["caption"]}) > 30


def spectrum(images: np.ndarray) -> np.ndarray:
    """How much there is of each spatial frequency, f64[n, 64], whatever the brightness."""
    grey = images.mean(-1)
    grey = grey - grey.mean((1, 2), keepdims=True)
    power = np.log(np.abs(np.fft.rfft2(grey / grey.std((1, 2), keepdims=True))) + 1)[:, :, :32]
    return power.reshape(len(images), 16, 4, 8, 4).mean((2, 4)).reshape(len(images), -1)


def test_texture_tells_unseen_attacks_on_unseen_people_and_colour_does_not():
    train = dataclasses.replace(CFG, looks="seen")
    test = dataclasses.replace(CFG, first_identity=5000, n=400, looks="unseen")
    seen, unseen = (synthetic.render(cfg, range(cfg.n)) for cfg in (train, test))
    live = unseen["attack"] == 0
    areas = {}
    for name, measure in (("texture", spectrum), ("colour", colour_histograms)):
        x, y = measure(seen["image"]), (seen["attack"] == 0).astype(np.int64)
        axes = _logistic.Axes.of(x)
        start = _logistic.Linear(np.zeros((axes.rotation.shape[1], 1)), np.zeros(1))
        loss = _logistic.binary_loss(
            2.0 * y[:, None] - 1, _logistic.balanced_weights(y, 2)[:, None]
        )
        linear = _logistic.fit(axes.apply(x), axes.variance, loss, 0.1, start)
        areas[name] = _metrics.auc(linear(axes.apply(measure(unseen["image"])))[:, 0], live)
    assert areas["colour"] < 0.6
    assert areas["texture"] > 0.72


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        ({"attacks": ("prints",)}, "attacks", "did you mean 'print'?"),
        ({"looks": "unsen"}, "looks", "did you mean 'unseen'?"),
        ({"live": 1.5}, "live", "not a share"),
    ],
)
def test_a_wrong_config_is_refused(change, where, says):
    with pytest.raises(UserError, match=says) as caught:
        synthetic.open(dataclasses.replace(CFG, **change))
    assert caught.value.where == where
