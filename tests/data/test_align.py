"""Face facts: the template, alignment, mirror orders and region numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax.data import align
from facejax.errors import UserError


def face68(size=112.0):
    """A made-up frontal face, symmetric about its middle, in iBUG order on [0, size]."""
    t = np.linspace(-1, 1, 17)
    jaw = np.c_[0.5 + 0.4 * np.sin(t * np.pi / 2), 0.45 + 0.5 * np.cos(t * np.pi / 2)]
    arch = np.array([0, 0.03, 0.04, 0.03, 0.01])
    right_brow = np.c_[np.linspace(0.2, 0.42, 5), 0.32 - arch]
    bridge = np.c_[np.full(4, 0.5), np.linspace(0.4, 0.58, 4)]
    base = np.c_[np.linspace(0.42, 0.58, 5), 0.63 + 0.02 * np.array([0, 0.7, 1, 0.7, 0])]
    angle = np.deg2rad([180, 240, 300, 0, 60, 120])
    right_eye = np.c_[0.31 + 0.06 * np.cos(angle), 0.42 + 0.03 * np.sin(angle)]
    outer = np.deg2rad(np.r_[np.linspace(180, 360, 7), np.linspace(30, 150, 5)])
    inner = np.deg2rad(np.r_[np.linspace(180, 360, 5), np.linspace(45, 135, 3)])
    lips = [
        np.c_[0.5 + w * np.cos(a), 0.78 + h * np.sin(a)]
        for w, h, a in ((0.14, 0.07, outer), (0.1, 0.025, inner))
    ]
    mirror = np.array([-1, 1]), np.array([1, 0])
    left_brow = right_brow[::-1] * mirror[0] + mirror[1]
    left_eye = right_eye[[3, 2, 1, 0, 5, 4]] * mirror[0] + mirror[1]
    parts = (jaw, right_brow, left_brow, bridge, base, right_eye, left_eye, *lips)
    return np.concatenate(parts) * size


# ---------------------------------------------------------------------------------- alignment


def test_the_template_is_the_published_one_at_112():
    np.testing.assert_allclose(
        align.template(112),
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
         [70.7299, 92.2041]],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "right_eye"),
    [
        (224, (2 * 38.2946, 2 * 51.6963)),
        (128, (38.2946 + 8, 51.6963)),
        (256, (2 * (38.2946 + 8), 2 * 51.6963)),
        (64, ((38.2946 + 8) / 2, 51.6963 / 2)),
        (896, (8 * 38.2946, 8 * 51.6963)),  # a multiple of both: 112 goes first
    ],
)
def test_the_template_scales_by_its_two_rules(size, right_eye):
    np.testing.assert_allclose(align.template(size)[0], right_eye)


def test_a_declared_alignment_is_the_template_in_resized_pictures():
    assert align.declared("none", 112) is None
    np.testing.assert_allclose(align.declared("arcface112", 112), align.TEMPLATE)
    half = align.declared("arcface112", 56)
    np.testing.assert_allclose(half * 2 + 0.5, align.TEMPLATE, atol=1e-12)


def test_the_template_aligned_to_itself_does_not_move():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    np.testing.assert_allclose(
        align.similarity(align.TEMPLATE, align.template(112)), [[1, 0, 0], [0, 1, 0]], atol=1e-12
    )
    warped = align.warp(image, align.TEMPLATE, 112)
    assert np.abs(warped.astype(int) - image)[:-1, :-1].max() <= 1


def similar(angle, scale, shift):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


@given(
    angle=st.floats(-np.pi, np.pi),
    scale=st.floats(0.05, 20),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
@settings(max_examples=50, deadline=None)
def test_a_similarity_is_recovered(angle, scale, shift):
    true = similar(angle, scale, shift)
    moved = align.TEMPLATE @ true[:, :2].T + true[:, 2]
    np.testing.assert_allclose(align.similarity(align.TEMPLATE, moved), true, atol=1e-8)


def test_the_similarity_is_a_least_squares_fit_that_never_mirrors():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 5, 2))
    fitted = align.similarity(source, target)

    def error(matrix):
        return np.sum((source @ matrix[:, :2].T + matrix[:, 2] - target) ** 2)

    a, b = fitted[0, 0], fitted[1, 0]
    for step in 1e-4 * np.eye(4):
        near = similar(np.arctan2(b, a) + step[0], np.hypot(a, b) + step[1], fitted[:, 2])
        near[:, 2] += step[2:]
        assert error(near) > error(fitted)
    mirrored = align.similarity(align.TEMPLATE, align.TEMPLATE * [-1, 1])
    assert np.linalg.det(mirrored[:, :2]) > 0


@pytest.mark.parametrize("size", [112, 96])
def test_warping_puts_the_five_points_on_the_template(size):
    """Bright discs at the landmarks of a turned face are found where the template says."""
    true = similar(0.4, 2.0, (60, 20))
    points = align.template(size) @ true[:, :2].T + true[:, 2]
    y, x = np.mgrid[:340, :340]
    rows, columns = np.mgrid[:size, :size]
    for point, goal in zip(points, align.template(size)):
        light = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 72)
        image = (255 * light[..., None]).repeat(3, -1).astype(np.uint8)
        got = align.warp(image, points, size)[..., 0].astype(float)
        found = [(got * columns).sum() / got.sum(), (got * rows).sum() / got.sum()]
        np.testing.assert_allclose(found, goal, atol=0.05)


def test_what_lies_outside_the_image_is_black():
    warped = align.warp(np.full((60, 60, 3), 255, np.uint8), align.TEMPLATE, 112)
    assert warped.shape == (112, 112, 3)
    assert (warped[62:] == 0).all()
    assert (warped[:58, :58] == 255).all()


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_landmarks_that_are_no_face_are_the_users_error(points):
    with pytest.raises(UserError, match="landmarks"):
        align.warp(np.zeros((8, 8, 3), np.uint8), points, 112)


# ---------------------------------------------------------------------------------- landmarks


def test_68_points_reduce_to_five():
    face = face68()
    five = align.five_points(np.stack([face, face + 3]))
    want = [
        face[36:42].mean(0), face[42:48].mean(0), face[30], face[48], face[54],
    ]  # fmt: skip
    np.testing.assert_allclose(five[0], want)
    np.testing.assert_allclose(five[1], five[0] + 3)


@pytest.mark.parametrize("count", [5, 68])
def test_mirror_orders_are_involutions(count):
    order = align.landmark_flip(count)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    np.testing.assert_array_equal(order[order], np.arange(count))


def test_a_symmetric_face_is_its_own_mirror_image():
    face = face68(112)
    mirrored = (face * [-1, 1] + [112, 0])[align.landmark_flip(68)]
    np.testing.assert_allclose(mirrored, face, atol=1e-9)
    five = align.five_points(face)
    np.testing.assert_allclose((five * [-1, 1] + [112, 0])[align.landmark_flip(5)], five, atol=1e-9)


def test_an_unknown_number_of_landmarks_has_no_mirror_order():
    with pytest.raises(UserError, match=r"98 points.*5 or 68"):
        align.landmark_flip(98)


# ------------------------------------------------------------------------------------ regions


def test_mirrored_regions_swap_right_and_left_by_name():
    for number, name in enumerate(align.LAPA):
        swap = {"right": "left", "left": "right"}
        side, _, rest = name.partition("_")
        want = f"{swap[side]}_{rest}" if side in swap else name
        assert align.LAPA[align.REGION_FLIP[number]] == want


def test_celebamask_is_renumbered():
    names = dict(enumerate(align.LAPA))
    got = [names[i] for i in align.to_lapa(np.arange(19), "celebamask")]
    assert got == [
        "background", "skin", "nose", "skin", "left_eye", "right_eye", "left_brow", "right_brow",
        "skin", "skin", "inner_mouth", "upper_lip", "lower_lip", "hair", "hair", "background",
        "background", "background", "background",
    ]  # fmt: skip


def test_lapa_stays_as_it_is():
    regions = np.arange(11, dtype=np.int64).reshape(1, 11)
    got = align.to_lapa(regions, "lapa")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, regions)


def test_a_scheme_or_region_that_does_not_exist_is_the_users_error():
    with pytest.raises(UserError, match="did you mean 'celebamask'"):
        align.to_lapa(np.zeros((2, 2)), "celebmask")
    with pytest.raises(UserError, match="0 to 18 are not all regions of 'lapa'"):
        align.to_lapa(np.arange(19), "lapa")


@pytest.mark.parametrize("size", [96, (96, 128)])
def test_regions_from_landmarks_lie_where_the_landmarks_say(size):
    face = face68(96)
    regions = align.regions_from_landmarks(face, size)
    assert regions.shape == ((96, 96) if size == 96 else size)
    assert regions.dtype == np.uint8

    def at(point):
        x, y = np.round(point).astype(int)
        return align.LAPA[regions[y, x]]

    assert at(face[36:42].mean(0)) == "right_eye"
    assert at(face[42:48].mean(0)) == "left_eye"
    assert at(face[30] + [0, 2]) == "nose"
    assert at(face[[51, 62]].mean(0)) == "upper_lip"
    assert at(face[[57, 66]].mean(0)) == "lower_lip"
    assert at(face[60:68].mean(0)) == "inner_mouth"
    assert at(face[19] + [0, 1]) == "right_brow"
    assert at(face[24] + [0, 1]) == "left_brow"
    assert at(face[[3, 48]].mean(0)) == "skin"
    assert at(face[27] - [0, 20]) == "skin"  # the forehead
    assert at((2, 2)) == "background"
    assert set(np.unique(regions)) == set(range(10))


def test_regions_of_a_mirrored_face_are_the_mirrored_regions():
    face = face68(192) + [3, 0]
    mirrored = (face * [-1, 1] + [191, 0])[align.landmark_flip(68)]
    a = align.REGION_FLIP[align.regions_from_landmarks(face, 192)[:, ::-1]]
    b = align.regions_from_landmarks(mirrored, 192)
    assert (a == b).mean() > 0.99  # a pixel that an edge halves may fall on either side


def test_normalisation_presets_hold_three_channels():
    for mean, std in align.MEAN_STD.values():
        assert len(mean) == len(std) == 3
        assert all(0 < v < 1 for v in (*mean, *std))
    assert align.MEAN_STD["imagenet"][0] == (0.485, 0.456, 0.406)
    assert align.MEAN_STD["vggface2"] == ((0.5482, 0.4234, 0.3655), (0.2789, 0.2439, 0.2349))
