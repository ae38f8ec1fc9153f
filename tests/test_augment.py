"""Views against Pillow and NumPy: what a person would compute for one image at a time."""

import colorsys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from facejax.augment import random_box, taps, turn_hue, views
from facejax.contracts import Aug, Draw, View
from facejax.errors import UserError

CROP = {"scale": (0.3, 1.0), "ratio": (0.75, 4 / 3)}
SIMCLR = Aug(
    16, **CROP, flip=0.5, jitter=(0.8, 0.8, 0.8, 0.2), gray_p=0.2, blur_p=0.5, solarize_p=0.2
)
ADAFACE = Aug(16, flip=0.5, cut_p=0.5, shrink_p=0.5, jitter=(0.5, 0.5, 0.5, 0.0), jitter_p=0.5)


def photos(count, height, width, seed=0):
    """Smooth colourful u8 images, so that a misplaced pixel is not mistaken for noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(x).resize((width, height), Image.BICUBIC)) for x in coarse]
    )


def draw(rows, seed=0):
    return Draw(jax.random.key(seed), jnp.arange(rows) if isinstance(rows, int) else rows)


jitted = jax.jit(views, static_argnums=0)


def show(aug, image, seed=0, **fields):
    """The view as NumPy arrays, its image turned back to grey levels 0..255."""
    batch = {"image": jnp.asarray(image), **fields}
    out = jitted(View(aug=aug), batch, draw(len(image), seed))
    out = {name: np.asarray(value) for name, value in out.items()}
    out["levels"] = (out["image"] * np.array(aug.std) + np.array(aug.mean)) * 255
    return out


# ---------------------------------------------------------------------------------- geometry


def test_without_a_recipe_the_field_passes_untouched():
    tokens = jnp.arange(6).reshape(2, 3)
    batch = {"caption": tokens, "score": tokens / 2, "image": jnp.zeros((2, 4, 4, 3))}
    out = views(View("caption"), batch, draw(2))
    assert list(out) == ["text"]  # what a text tower reads
    assert out["text"] is tokens
    assert list(views(View("score"), batch, draw(2))) == ["score"]


def test_the_plain_view_of_the_same_size_is_exact():
    image = photos(3, 16, 16)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    out = show(Aug(16, mean=mean, std=std), image)
    want = (image.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(out["image"], want, atol=2e-7)  # an ulp of 1 / 0.4
    np.testing.assert_array_equal(out["levels"].round(), image)
    assert out["image"].dtype == np.float32
    np.testing.assert_array_equal(out["box"], [[0, 0, 16, 16]] * 3)
    assert not out["flipped"].any()


@pytest.mark.parametrize(("height", "width", "size"), [(20, 20, 9), (20, 20, 33), (18, 30, 16)])
def test_a_whole_image_is_resized_as_pillow_does(height, width, size):
    image = photos(2, height, width)
    out = show(Aug(size), image)
    for levels, x in zip(out["levels"], image):
        want = Image.fromarray(x).resize((size, size), Image.BILINEAR)
        np.testing.assert_allclose(levels, want, atol=1.0)


@pytest.mark.parametrize("size", [12, 40])
def test_a_crop_is_pillows_resize_of_its_box(size):
    image = photos(6, 32, 40)
    out = show(Aug(size, **CROP, flip=0.5), image)
    assert len({tuple(box) for box in out["box"]}) == 6
    assert set(out["flipped"]) == {False, True}
    for levels, x, box, flipped in zip(out["levels"], image, out["box"], out["flipped"]):
        want = Image.fromarray(x).resize((size, size), Image.BILINEAR, box=tuple(box.tolist()))
        np.testing.assert_allclose(levels, ImageOps.mirror(want) if flipped else want, atol=1.0)


@pytest.mark.parametrize("aug", [Aug(24, flip=0.5), Aug(20, **CROP, flip=0.5)])
def test_image_regions_and_landmarks_move_together(aug):
    """A bright disc on the right eye, labelled as such, stays under its landmark and its label."""
    y, x = np.mgrid[:24, :24]
    disc = (x - 9) ** 2 + (y - 11) ** 2 <= 9
    image = np.repeat(disc[None, ..., None] * np.uint8(255), 3, -1)
    regions = np.where(disc, 4, 1).astype(np.uint8)
    points = np.array([[9, 11], [15, 11], [12, 14], [10, 17], [14, 17]], np.float32)
    B = 24
    out = show(
        aug,
        np.tile(image, (B, 1, 1, 1)),
        regions=jnp.tile(jnp.asarray(regions)[None], (B, 1, 1)),
        landmarks=jnp.tile(jnp.asarray(points)[None], (B, 1, 1)),
    )
    assert set(out["flipped"]) == {False, True}
    rows, columns = np.mgrid[: aug.size, : aug.size]
    tested = 0
    for b in range(B):
        left, top, right, bottom = out["box"][b]
        if not (left < 5 and right > 14 and top < 7 and bottom > 16):
            continue  # the disc was cut off
        tested += 1
        eye, label = (1, 5) if out["flipped"][b] else (0, 4)
        light = out["levels"][b, ..., 0]
        found = [(light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()]
        np.testing.assert_allclose(found, out["landmarks"][b, eye], atol=0.1)
        assert (out["regions"][b][light > 192] == label).all()
        assert (out["regions"][b][light < 64] == 1).all()
        assert set(np.unique(out["regions"][b])) == {1, label}
    assert tested > 5


def test_regions_are_the_nearest_pixel_of_the_box():
    regions = np.random.default_rng(0).integers(0, 11, (4, 20, 20), np.uint8)
    out = show(Aug(13, **CROP), photos(4, 20, 20), regions=jnp.asarray(regions))
    assert out["regions"].dtype == np.uint8
    for got, source, (left, top, right, bottom) in zip(out["regions"], regions, out["box"]):
        column = (left + (np.arange(13) + 0.5) * (right - left) / 13).astype(int)
        row = (top + (np.arange(13) + 0.5) * (bottom - top) / 13).astype(int)
        np.testing.assert_array_equal(got, source[np.ix_(row, column)])


@pytest.mark.parametrize("count", [5, 68])
def test_two_flips_are_none(count):
    image = photos(2, 12, 12)
    rng = np.random.default_rng(0)
    regions = rng.integers(0, 11, (2, 12, 12), np.uint8)
    landmarks = rng.uniform(0, 11, (2, count, 2)).astype(np.float32)
    once = show(
        Aug(12, flip=1.0), image, regions=jnp.asarray(regions), landmarks=jnp.asarray(landmarks)
    )
    np.testing.assert_allclose(once["levels"], image[:, :, ::-1], atol=1e-3)
    twice = show(
        Aug(12, flip=1.0),
        once["levels"].round().astype(np.uint8),
        regions=jnp.asarray(once["regions"]),
        landmarks=jnp.asarray(once["landmarks"]),
    )
    np.testing.assert_allclose(twice["levels"], image, atol=1e-3)
    np.testing.assert_array_equal(twice["regions"], regions)
    np.testing.assert_allclose(twice["landmarks"], landmarks, atol=1e-5)


def test_landmarks_without_a_mirror_order_cannot_be_flipped():
    fields = {"landmarks": jnp.zeros((1, 7, 2))}
    show(Aug(8), photos(1, 8, 8), **fields)
    with pytest.raises(UserError, match="no mirror order for 7 points"):
        show(Aug(8, flip=0.5), photos(1, 8, 8), **fields)


def boxes(aug, height, width, count):
    # Not jitted: one compilation of each operation serves every recipe.
    drawn = jax.vmap(partial(random_box, aug, height, width))(draw(count).keys())
    return np.asarray(drawn, np.float64)


def test_the_area_of_a_crop_is_uniform_and_its_place_too():
    left, top, right, bottom = boxes(Aug(8, scale=(0.2, 1.0)), 50, 50, 4000).T
    area = np.sort((right - left) * (bottom - top)) / 2500
    uniform = 0.2 + 0.8 * (np.arange(4000) + 0.5) / 4000
    assert np.abs(area - uniform).max() < 0.8 * 1.63 / np.sqrt(4000)  # Kolmogorov, 1 %
    place = np.sort(left / (50 - (right - left)))
    assert np.abs(place - (np.arange(4000) + 0.5) / 4000).max() < 1.63 / np.sqrt(4000)


def test_the_shape_of_a_crop_is_log_uniform():
    left, top, right, bottom = boxes(Aug(8, scale=(0.1, 0.2), ratio=(0.5, 2.0)), 50, 50, 4000).T
    log_ratio = np.sort(np.log2((right - left) / (bottom - top)))
    uniform = -1 + 2 * (np.arange(4000) + 0.5) / 4000
    assert np.abs(log_ratio - uniform).max() < 2 * 1.63 / np.sqrt(4000)


def test_a_crop_that_cannot_fit_is_the_largest_in_the_middle():
    wide = boxes(Aug(8, scale=(1.0, 1.0), ratio=(0.75, 4 / 3)), 9, 60, 3)
    np.testing.assert_allclose(wide, [[24, 0, 36, 9]] * 3, atol=1e-5)
    tall = boxes(Aug(8, scale=(1.0, 1.0), ratio=(0.75, 4 / 3)), 60, 9, 3)
    np.testing.assert_allclose(tall, [[0, 24, 9, 36]] * 3, atol=1e-5)


@given(
    size=st.tuples(st.integers(8, 300), st.integers(8, 300)),
    scale=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted).map(tuple),
    ratio=st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)).map(sorted).map(tuple),
)
@settings(max_examples=25, deadline=None)
def test_crops_stay_inside_the_image_and_within_their_ratio(size, scale, ratio):
    left, top, right, bottom = boxes(Aug(8, scale=scale, ratio=ratio), *size, 4).T
    slack = 1e-4 * max(size)
    assert (left >= -slack).all()
    assert (top >= -slack).all()
    assert (right <= size[1] + slack).all()
    assert (bottom <= size[0] + slack).all()
    shape = (right - left) / (bottom - top)
    whole_fits = ratio[0] <= size[1] / size[0] <= ratio[1]
    assert whole_fits or ((shape >= ratio[0] * 0.999) & (shape <= ratio[1] * 1.001)).all()
    assert ((right - left) * (bottom - top) <= scale[1] * size[0] * size[1] * 1.001).all() or (
        not whole_fits
    )


@given(start=st.floats(0, 30), length=st.floats(2, 60))
@settings(max_examples=40, deadline=None)
def test_resampling_keeps_constants_and_straight_lines(start, length):
    weights = np.asarray(jax.jit(taps, static_argnums=(2, 3))(start, start + length, 10, 96))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    centre = start + (np.arange(10) + 0.5) * length / 10
    reach = max(length / 10, 1)
    inside = (centre > reach) & (centre < 96 - reach)
    # Antialiasing samples the triangle at pixel centres, so a line comes out to within a fraction
    # of a pixel, and exactly when nothing shrinks.
    error = np.abs(weights @ (np.arange(96) + 0.5) - centre)[inside]
    assert (error <= (1e-4 if length <= 10 else 0.13)).all()
    mirrored = np.asarray(jax.jit(taps, static_argnums=(2, 3))(start + length, start, 10, 96))
    np.testing.assert_allclose(mirrored[::-1], weights, atol=1e-4)


# ------------------------------------------------------------------------------------ colour


def spread_of(aug, probe, read, count=200):
    """The factors that `aug` draws, read off views of a probe image whose answer is known."""
    return read(show(aug, np.tile(probe, (count, 1, 1, 1)))["levels"])


HALVES = np.repeat(np.array([[[[64, 64, 64]], [[192, 192, 192]]]], np.uint8), 2, axis=2)
REDDISH = np.full((1, 2, 2, 3), (150, 100, 100), np.uint8)

ENHANCE = {
    "brightness": (
        (0.4, 0, 0, 0), ImageEnhance.Brightness, HALVES, lambda x: x[:, 0, 0, 0] / 64
    ),
    "contrast": (
        (0, 0.4, 0, 0),
        ImageEnhance.Contrast,
        HALVES,
        lambda x: (x[:, 1, 0, 0] - x[:, 0, 0, 0]) / 128,
    ),
    "saturation": (
        (0, 0, 0.4, 0),
        ImageEnhance.Color,
        REDDISH,
        lambda x: (x[:, 0, 0, 0] - x[:, 0, 0, 1]) / 50,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENHANCE)
def test_jitter_is_pillows_enhancement_by_a_uniform_factor(name):
    strengths, enhance, probe, read = ENHANCE[name]
    aug = {"jitter": strengths, "jitter_p": 1.0}
    factors = np.sort(spread_of(Aug(2, **aug), probe, read, 1000))
    uniform = 0.6 + 0.8 * (np.arange(1000) + 0.5) / 1000
    assert np.abs(factors - uniform).max() < 0.8 * 1.63 / np.sqrt(1000)

    image = photos(8, 12, 12)
    revealed = spread_of(Aug(2, **aug), probe, read, 8)  # the same rows draw the same factors
    for levels, x, factor in zip(show(Aug(12, **aug), image)["levels"], image, revealed):
        np.testing.assert_allclose(levels, enhance(Image.fromarray(x)).enhance(factor), atol=1.5)


def test_the_hue_turns_within_its_range():
    aug = Aug(2, jitter=(0, 0, 0, 0.2), jitter_p=1.0)

    def read(levels):
        return np.array([colorsys.rgb_to_hsv(*x[0, 0] / 255)[0] for x in levels])

    turns = np.sort((spread_of(aug, REDDISH, read, 500) + 0.5) % 1 - 0.5)
    uniform = -0.2 + 0.4 * (np.arange(500) + 0.5) / 500
    assert np.abs(turns - uniform).max() < 0.4 * 1.63 / np.sqrt(500)


@given(rgb=st.tuples(*[st.integers(0, 255).map(lambda v: v / 255)] * 3), shift=st.floats(-0.5, 0.5))
@settings(max_examples=100, deadline=None)
def test_hue_is_that_of_hsv(rgb, shift):
    h, s, v = colorsys.rgb_to_hsv(*rgb)
    want = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
    got = jax.jit(turn_hue)(jnp.asarray(rgb, jnp.float32)[:, None, None], shift)
    np.testing.assert_allclose(np.asarray(got)[:, 0, 0], want, atol=2e-6)


def test_hsv_turns_the_hue_forward_and_raises_the_saturation():
    def hue(levels):
        return np.array([colorsys.rgb_to_hsv(*x[0, 0] / 255)[0] for x in levels]) * 360

    turns = np.sort(spread_of(Aug(2, hsv_p=1.0, hsv=(20.0, 0.0)), REDDISH, hue, 500))
    assert np.abs(turns - 20 * (np.arange(500) + 0.5) / 500).max() < 20 * 1.63 / np.sqrt(500)
    read = ENHANCE["saturation"][3]
    factors = np.sort(spread_of(Aug(2, hsv_p=1.0, hsv=(0.0, 0.2)), REDDISH, read, 500))
    uniform = 1 + 0.2 * (np.arange(500) + 0.5) / 500
    assert np.abs(factors - uniform).max() < 0.2 * 1.63 / np.sqrt(500)

    image = photos(8, 12, 12)
    aug = {"hsv_p": 1.0, "hsv": (60.0, 0.5)}
    probes = show(Aug(2, **aug), np.tile(REDDISH, (8, 1, 1, 1)))["levels"]  # the same factors
    for levels, x, turn, probe in zip(
        show(Aug(12, **aug), image)["levels"], image, hue(probes), probes
    ):
        turned = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(-1, 3) / 255]
        turned = np.array([colorsys.hsv_to_rgb((h + turn / 360) % 1, s, v) for h, s, v in turned])
        spread = np.ptp(probe[0, 0]) / 50  # the probe's, whose hue turns without changing it
        luma = turned @ [0.299, 0.587, 0.114]
        want = np.clip(luma[:, None] + spread * (turned - luma[:, None]), 0, 1) * 255
        np.testing.assert_allclose(levels.reshape(-1, 3), want, atol=0.1)


def test_jitter_leaves_a_share_of_the_images_alone():
    image = photos(400, 2, 2)
    out = show(Aug(2, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.7), image)
    alone = np.abs(out["levels"] - image).max((1, 2, 3)) < 1e-3
    assert abs(alone.mean() - 0.3) < 3 * np.sqrt(0.21 / 400)


def test_grayscale_is_the_luma_of_itu_601():
    image = photos(4, 12, 12)
    out = show(Aug(12, gray_p=1.0), image)
    for levels, x in zip(out["levels"], image):
        np.testing.assert_allclose(levels, levels[..., :1].repeat(3, -1), atol=1e-3)
        np.testing.assert_allclose(levels[..., 0], Image.fromarray(x).convert("L"), atol=1.0)


@pytest.mark.parametrize(("size", "taps_wanted"), [(12, 3), (64, 7)])
def test_blur_is_a_convolution_with_a_reflected_border(size, taps_wanted):
    sigma = 6.0  # in pixels of a 224-pixel view
    image = photos(2, size, size)
    out = show(Aug(size, blur_p=1.0, blur_sigma=(sigma, sigma)), image)
    radius = taps_wanted // 2
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (sigma * size / 224)) ** 2)
    kernel /= kernel.sum()
    want = np.pad(image.astype(float), ((0, 0), (radius,) * 2, (radius,) * 2, (0, 0)), "reflect")
    for axis in (1, 2):
        want = np.apply_along_axis(np.convolve, axis, want, kernel, "valid")
    np.testing.assert_allclose(out["levels"], want, atol=1e-3)


def test_solarize_inverts_the_upper_half():
    image = photos(2, 12, 12)
    out = show(Aug(12, solarize_p=1.0), image)
    np.testing.assert_allclose(out["levels"], np.where(image >= 128, 255 - image, image), atol=1e-3)


def test_a_cut_leaves_a_box_where_it_was_and_black_around_it():
    image = photos(400, 24, 24) // 2 + 100  # nothing is black by itself
    out = show(Aug(24, cut_p=1.0, cut=(0.25, 0.5)), image)
    kept = out["levels"].max(-1) > 50
    rows, columns = kept.any(2), kept.any(1)
    np.testing.assert_array_equal(kept, rows[:, :, None] & columns[:, None])
    for side in (rows, columns):  # one run of pixels each
        assert (np.abs(np.diff(np.pad(side, ((0, 0), (1, 1))).astype(int))).sum(1) == 2).all()
    np.testing.assert_allclose(out["levels"][kept], image[kept], atol=1e-3)
    np.testing.assert_allclose(out["levels"][~kept], 0, atol=1e-3)
    share = kept.mean((1, 2))
    assert abs(share.mean() - 0.375) < 0.01
    assert 0.2 < share.min() < share.max() < 0.57


@pytest.mark.parametrize("share", [1 / 5, 0.49, 2 / 3, 1.0])
def test_shrinking_is_pillows_resize_there_and_back(share):
    image = photos(2, 30, 30)
    out = show(Aug(30, shrink_p=1.0, shrink=(share, share)), image)
    side = round(30 * share)
    for levels, x in zip(out["levels"], image):
        for c in range(3):
            plane = Image.fromarray(x[..., c].astype(np.float32))
            small = plane.resize((side, side), Image.BILINEAR)
            want = np.asarray(small.resize((30, 30), Image.BILINEAR))
            np.testing.assert_allclose(levels[..., c], want, atol=1e-2)


@pytest.mark.parametrize(
    "name", ["flip", "cut_p", "shrink_p", "hsv_p", "gray_p", "blur_p", "solarize_p"]
)
def test_probabilities_are_met(name):
    image = photos(1000, 4, 4) // 2 + 100 if name == "cut_p" else photos(1000, 4, 4)
    hard = {"blur_sigma": (60.0, 60.0), "cut": (0.1, 0.1), "shrink": (0.25, 0.25)}
    out = show(Aug(4, **{name: 0.3}, **hard), image)
    changed = np.abs(out["levels"] - image).max((1, 2, 3)) > 0.01
    assert abs(changed.mean() - 0.3) < 3 * np.sqrt(0.21 / 1000)


# -------------------------------------------------------------------------------- randomness


@pytest.mark.parametrize("aug", [SIMCLR, ADAFACE], ids=["simclr", "adaface"])
def test_a_row_depends_on_its_global_number_alone(aug):
    batch = {
        "image": jnp.asarray(photos(6, 20, 20)),
        "regions": jnp.asarray(np.random.default_rng(0).integers(0, 11, (6, 20, 20), np.uint8)),
        "landmarks": jnp.asarray(np.random.default_rng(1).uniform(0, 20, (6, 5, 2)), jnp.float32),
    }
    run = partial(jitted, View(aug=aug))
    whole = run(batch, draw(jnp.arange(10, 16)))
    for rows in ([4, 1, 5, 0, 3, 2], [2]):
        index = np.array(rows)
        part = run({name: x[index] for name, x in batch.items()}, draw(jnp.asarray(index + 10)))
        for name, value in part.items():
            want = np.asarray(whole[name])[index]
            np.testing.assert_allclose(value, want, atol=1e-5, err_msg=name)


def test_views_of_different_sizes_and_draws_stand_side_by_side():
    image = {"image": jnp.asarray(photos(4, 24, 24))}
    crops = [View(aug=Aug(size, **CROP), draw=name) for size, name in ((16, "a"), (8, "b"))]
    large, small = (jitted(v, image, draw(4).fold(v.draw)) for v in crops)
    assert large["image"].shape == (4, 16, 16, 3)
    assert small["image"].shape == (4, 8, 8, 3)
    assert (np.abs(large["box"] - small["box"]).max(1) > 0.1).all()


def test_one_compilation_serves_every_batch():
    run = jax.jit(partial(views, View(aug=SIMCLR)))
    for seed in range(3):
        out = run({"image": jnp.asarray(photos(2, 20, 20, seed))}, draw(2, seed))["image"]
        assert np.isfinite(out).all()
        assert np.abs(out).max() <= 1 + 1e-6
    assert run._cache_size() == 1
