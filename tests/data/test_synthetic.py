"""The synthetic faces: reproducible, annotated where the pixels say so, and told apart by shape."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax.data.align import LAPA
from facejax.data.sources import synthetic
from facejax.data.sources._synthetic_factors import FACTORS, PARAMS
from facejax.data.sources._synthetic_words import PHRASES, caption
from facejax.errors import UserError

CFG = synthetic.Config(n=400, identities=20)
# Without what may cover an eye, a brow or the mouth, and large enough to have each on some pixels.
BARE = dataclasses.replace(CFG, n=10_000, size=128, hold=("glasses", "hat", "hair", "facial_hair"))
# Which factor an annotation follows.
OWNERS = {
    "identity": {"identity"},
    "age": {"age"},
    "expression": {"expression", "intensity"},
    "pose": {"pose"},
    "light": {"light"},
}


def label_at(record: dict, x: float, y: float, reach: int = 1) -> set[str]:
    """Names of the regions within `reach` pixels of a landmark."""
    column, row = round(float(x)), round(float(y))
    patch = record["regions"][
        max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1
    ]
    return {LAPA[k] for k in np.unique(patch)}


def auc(scores: np.ndarray, same: np.ndarray) -> float:
    """Chance that a same pair scores above a different one; ties count half."""
    a, b = scores[same][:, None], scores[~same][None]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def assert_equal(a: dict, b: dict):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


# ------------------------------------------------------------------------------ the contract


def test_records_hold_what_the_fields_say():
    source = synthetic.open(synthetic.Config.tiny(""))
    records = source.read(range(len(source)))
    assert len(records) == 12
    for record in records:
        assert set(record) == set(source.fields)
        assert record["image"].shape == (32, 32, 3)
        assert record["regions"].shape == (32, 32)
        for key, field in source.fields.items():
            if field.dtype == "str":
                assert isinstance(record[key], str)
            elif field.classes:
                assert isinstance(record[key], int)
                assert 0 <= record[key] < field.classes
            elif key in ("age", "intensity"):
                assert isinstance(record[key], float)
            else:
                assert record[key].dtype == field.dtype
        for key in ("attributes", "landmarks", "pose", "light"):
            assert record[key].shape == source.fields[key].shape
    assert len({source.name(i) for i in range(12)}) == 12


def test_a_record_does_not_depend_on_its_batch():
    source = synthetic.open(CFG)
    alone = source.read([5])[0]
    assert_equal(alone, source.read(range(10))[5])
    assert_equal(alone, source.read([399, 5])[1])
    assert source.read([]) == []


def test_a_record_does_not_depend_on_the_process():
    script = """
import hashlib
from facejax.data.sources import synthetic
record = synthetic.open(synthetic.Config(n=400, identities=20)).read([3])[0]
print(hashlib.sha256(record["image"].tobytes() + record["landmarks"].tobytes()).hexdigest())
"""
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    here = synthetic.open(CFG).read([3])[0]
    digest = hashlib.sha256(here["image"].tobytes() + here["landmarks"].tobytes()).hexdigest()
    assert other.stdout.strip() == digest, other.stderr


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        ({"hold": ("lights",)}, "hold", "did you mean 'light'?"),
        ({"vary": ("poses",)}, "vary", "did you mean 'pose'?"),
        ({"n": 0}, "n", "at least 1"),
        ({"identities": 0}, "identities", "at least 1"),
        ({"size": 8}, "size", "at least 16"),
        ({"clip": 21}, "clip", "21 people of 20"),
        ({"move": {"jaw": (0.0,)}}, "move.jaw", "two or more"),
        ({"move": {"jaws": (0.0, 0.1)}}, "move", "did you mean 'jaw'?"),
        ({"move": {"jaw": (0.0, 0.1)}, "clip": 2}, "move", "clip or move"),
    ],
)
def test_a_wrong_config_is_refused(change, where, says):
    with pytest.raises(UserError, match=says) as caught:
        synthetic.open(dataclasses.replace(CFG, **change))
    assert caught.value.where == where


def test_an_index_outside_the_set_is_refused():
    with pytest.raises(IndexError):
        synthetic.open(CFG).read([400])


# ----------------------------------------------------------------------------- annotations


@settings(max_examples=40, deadline=None)
@given(st.integers(0, BARE.n - 1))
def test_landmarks_lie_on_their_regions(index):
    record = synthetic.open(BARE).read([index])[0]
    points = record["landmarks"]
    assert points.min() >= 0
    assert points.max() <= BARE.size - 1
    right_eye, left_eye, tip, right_corner, left_corner = synthetic.five_points(points)
    assert "right_eye" in label_at(record, *right_eye)
    assert "left_eye" in label_at(record, *left_eye)
    assert label_at(record, *tip, reach=0) == {"nose"}
    for corner in (right_corner, left_corner):
        # Lips end in a point that is thinner than a pixel, so their region ends before it.
        assert label_at(record, *corner, reach=3) & {"upper_lip", "lower_lip"}
    assert "right_brow" in label_at(record, *points[19])
    assert "left_brow" in label_at(record, *points[24])
    assert "upper_lip" in label_at(record, *(points[51] + points[62]) / 2)
    assert "lower_lip" in label_at(record, *(points[57] + points[66]) / 2)
    # The subject's right is the viewer's left.
    assert right_eye[0] < left_eye[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, BARE.n - 1))
def test_the_jaw_line_is_the_edge_of_the_face(index):
    frontal = dataclasses.replace(BARE, hold=(*BARE.hold, "pose"))
    record = synthetic.open(frontal).read([index])[0]
    for x, y in record["landmarks"][4:13]:
        assert label_at(record, x, y, reach=2) >= {"skin", "background"}


def test_regions_are_lapa_and_all_of_them_appear():
    regions = synthetic.render(CFG, range(100))["regions"]
    assert set(np.unique(regions)) == set(range(len(LAPA)))


def test_captions_name_the_attributes_and_nothing_else():
    columns = synthetic.render(dataclasses.replace(CFG, size=16), range(200))
    names = {phrase: name for name, phrase in PHRASES.items()}
    for sentence, row in zip(columns["caption"], columns["attributes"]):
        listed = sentence.partition(" with ")[2]
        told = {names[phrase] for part in listed.split(" and ") for phrase in part.split(", ")}
        assert told == {n for n, value in zip(synthetic.ATTRIBUTES, row) if value > 0}
    assert len({c.partition(" with ")[0] for c in columns["caption"]}) == 4


def test_a_face_without_attributes_still_has_a_caption():
    nothing = np.full(len(PHRASES), -1, np.int8)
    said = {caption(nothing, number) for number in range(6)}
    assert len(said) == 3
    assert not any(" with" in sentence for sentence in said)


def test_both_values_of_every_attribute_occur():
    columns = synthetic.render(dataclasses.replace(CFG, identities=200, size=16), range(400))
    share = (columns["attributes"] > 0).mean(0)
    assert share.min() > 0.03
    assert share.max() < 0.6


def front(**changes: float) -> dict[str, np.ndarray]:
    """One neutral face with some of its parameters changed."""
    values = synthetic.factors(dataclasses.replace(CFG, vary=()), [0])
    return synthetic.render_factors(
        values | {name: np.array([value]) for name, value in changes.items()}, 96
    )


def test_pose_moves_the_nose_the_way_its_sign_says():
    def nose(**pose: float) -> np.ndarray:
        points = front(**pose)["landmarks"][0]
        return points[30] - (points[36] + points[45]) / 2

    still = nose(yaw=0, pitch=0)
    assert nose(yaw=20)[0] > still[0] + 2
    assert nose(yaw=-20)[0] < still[0] - 2
    assert nose(pitch=12)[1] < still[1] - 1
    tilted = front(roll=10)["landmarks"][0]
    across = tilted[45] - tilted[36]
    # The eyes are as deep as each other, so that their line turns by the roll exactly.
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(10, abs=1e-3)


def test_neck_and_clothing_cover_the_hair_behind_them():
    long, short = front(hair_length=1.0), front(hair_length=0.0)
    hair = LAPA.index("hair")
    assert (long["regions"] == hair).sum() > (short["regions"] == hair).sum() + 200
    chin = long["landmarks"][0, 8].round().astype(int)
    assert (long["regions"][0, chin[1] + 2 :, chin[0]] == LAPA.index("background")).all()


def test_light_brightens_the_side_it_comes_from():
    right, left = front(azimuth=60), front(azimuth=-60)
    assert right["light"][0, 0] > 0
    assert np.linalg.norm(right["light"][0]) == pytest.approx(1, abs=1e-6)
    skin = (right["regions"][0] == LAPA.index("skin")) & (left["regions"][0] == LAPA.index("skin"))
    gain = right["image"][0].astype(float).sum(-1) - left["image"][0].astype(float).sum(-1)
    x = np.broadcast_to(np.arange(96), skin.shape)
    assert gain[skin & (x > 58)].mean() > 20
    assert gain[skin & (x < 38)].mean() < -20


def test_a_smile_lifts_the_corners_and_surprise_opens_the_mouth():
    names = synthetic.open(CFG).fields["expression"].names
    faces = {name: front(expression=float(k)) for k, name in enumerate(names)}

    def lift(name: str) -> float:
        points = faces[name]["landmarks"][0]
        return float(points[57, 1] - points[[48, 54], 1].mean())

    def gap(name: str) -> float:
        points = faces[name]["landmarks"][0]
        return float(points[66, 1] - points[62, 1])

    assert max(names, key=lift) in ("happiness", "surprise")
    assert lift("happiness") > lift("neutral") > lift("sadness")
    assert max(names, key=gap) == "surprise"
    assert gap("neutral") == pytest.approx(0, abs=1e-4)
    smiling = synthetic.ATTRIBUTES.index("smiling")
    assert {n for n in names if faces[n]["attributes"][0, smiling] > 0} == {"happiness"}


# --------------------------------------------------------------------------------- factors


def test_a_set_that_varies_nothing_is_one_picture():
    columns = synthetic.render(dataclasses.replace(CFG, vary=()), range(8))
    for values in columns.values():
        if values.dtype.kind != "U":  # the wording of a caption follows the index
            assert (values == values[:1]).all()


@pytest.mark.parametrize("factor", synthetic.FACTORS)
def test_a_factor_varies_alone(factor):
    cfg = dataclasses.replace(CFG, vary=(factor,))
    columns = synthetic.render(cfg, range(24))
    assert len(np.unique(columns["image"].reshape(24, -1), axis=0)) > 1
    for owner, keys in OWNERS.items():
        for key in keys:
            moves = len(np.unique(columns[key], axis=0)) > 1
            assert moves == (owner == factor), key
    values, full = (synthetic.factors(c, range(24)) for c in (cfg, CFG))
    for name in FACTORS[factor]:
        np.testing.assert_array_equal(values[name], full[name])


@pytest.mark.parametrize("factor", synthetic.FACTORS)
def test_holding_a_factor_moves_no_other(factor):
    held = synthetic.factors(dataclasses.replace(CFG, hold=(factor,)), range(40))
    full = synthetic.factors(CFG, range(40))
    for name in PARAMS:
        if name in FACTORS[factor]:
            assert len(np.unique(held[name])) == 1
        else:
            np.testing.assert_array_equal(held[name], full[name])


def test_parameters_rendered_again_give_the_same_picture():
    columns = synthetic.render(CFG, range(4))
    again = synthetic.render_factors(synthetic.factors(CFG, range(4)), CFG.size)
    assert_equal(again, {key: columns[key] for key in again})


def test_moving_one_parameter_leaves_all_else_of_the_face_as_it_was():
    levels = {"yaw": (-20.0, 0.0, 20.0), "melanin": (0.1, 0.9)}
    cfg = dataclasses.replace(CFG, n=20, move=levels)
    columns, values = synthetic.render(cfg, range(20)), synthetic.factors(cfg, range(20))
    full = synthetic.factors(CFG, range(4))
    for name, moved in values.items():
        still = full[name].repeat(5).reshape(4, 5)
        for k, level in enumerate(levels.get(name, ())):
            still[:, k if name == "yaw" else 3 + k] = level
        np.testing.assert_array_equal(moved.reshape(4, 5), still, err_msg=name)
    assert columns["face"].tolist() == np.arange(4).repeat(5).tolist()
    assert columns["factor"].tolist() == [0, 0, 0, 1, 1] * 4
    assert columns["level"].tolist() == [0, 1, 2, 0, 1] * 4
    source = synthetic.open(cfg)
    assert source.fields["factor"].names == ("yaw", "melanin")
    assert source.identities().tolist() == columns["identity"].tolist()
    assert source.name(7) == "person 1, picture 0, yaw 20"
    assert_equal(source.read([7])[0], source.read(range(20))[7])


# -------------------------------------------------------------------------------- identity


def test_people_differ_in_geometry_more_than_their_pictures_do():
    cfg = dataclasses.replace(CFG, hold=("pose", "framing", "expression"))
    columns = synthetic.render(cfg, range(60))
    points = columns["landmarks"].reshape(3, 20, 68, 2)  # picture, person
    within = np.abs(points[0] - points[1]).max()
    between = np.linalg.norm(points[0][:, None] - points[0][None], axis=-1).mean(-1)
    assert within == 0
    assert between[~np.eye(20, dtype=bool)].min() > 0.3


def test_identity_cannot_be_read_from_pixels():
    columns = synthetic.render(CFG, range(400))
    grey = columns["image"].astype(np.float64).mean(-1)
    grey = grey.reshape(400, 32, 2, 32, 2).mean((2, 4)).reshape(400, -1)
    grey -= grey.mean(1, keepdims=True)
    grey /= np.linalg.norm(grey, axis=1, keepdims=True)
    i, j = np.triu_indices(400, 1)
    same = columns["identity"][i] == columns["identity"][j]
    rng = np.random.default_rng(0)
    pairs = np.concatenate(
        [rng.choice(np.flatnonzero(which), 3000, replace=False) for which in (same, ~same)]
    )
    score = np.einsum("nd,nd->n", grey[i[pairs]], grey[j[pairs]])
    assert auc(score, same[pairs]) <= 0.65


def test_people_of_a_clip_move_before_one_scene():
    cfg = dataclasses.replace(CFG, clip=3, n=24)
    values, columns = synthetic.factors(cfg, range(24)), synthetic.render(cfg, range(24))
    frames = {name: values[name].reshape(4, 2, 3) for name in values}  # clips, frames, people
    np.testing.assert_array_equal(columns["clip"].reshape(4, 6), np.arange(4)[:, None].repeat(6, 1))
    np.testing.assert_array_equal(columns["frame"], np.tile([0, 0, 0, 1, 1, 1], 4))
    people = columns["identity"].reshape(4, 2, 3)
    assert (people[:, 0] == people[:, 1]).all()
    assert (people[:, 0].ravel() == np.arange(12)).all()
    for factor, group in FACTORS.items():
        moves, shared = factor in synthetic.MOTION, factor in synthetic.SCENE
        drawn = np.stack([frames[name] for name in group])
        assert (drawn[:, :, 0] != drawn[:, :, 1]).any() == moves, factor
        assert (drawn == drawn[..., :1]).all() == shared, factor
        assert (drawn[:, 0] != drawn[:, 1]).any(), factor
    source = synthetic.open(cfg)
    assert (source.fields["clip"].classes, source.fields["frame"].classes) == (4, 2)
    assert source.name(11) == "person 5, clip 1, frame 1"
    assert "clip" not in synthetic.open(CFG).fields


def test_another_range_of_people_shares_nobody():
    unseen = dataclasses.replace(CFG, first_identity=CFG.identities)
    ours, theirs = (synthetic.factors(c, range(20)) for c in (CFG, unseen))
    for name in ("face_width", "eye_gap", "nose_length"):
        assert not set(ours[name]) & set(theirs[name])
    # People keep their faces and pictures when the range that holds them changes.
    wide = dataclasses.replace(CFG, identities=40)
    for name, values in synthetic.factors(wide, range(20, 40)).items():
        np.testing.assert_array_equal(values, theirs[name])


def test_another_seed_gives_other_people():
    a, b = (synthetic.factors(dataclasses.replace(CFG, seed=s), range(20)) for s in (0, 1))
    assert not set(a["eye_gap"]) & set(b["eye_gap"])
