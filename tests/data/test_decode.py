"""Images of any kind become square RGB, and annotations follow their pixels."""

import io

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from facejax.data import decode as module
from facejax.data.decode import decode, encode_jpeg, encode_png, fit
from facejax.data.records import BadRecord


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def smooth(height, width):
    """A picture without fine detail, so that JPEG and resampling change it little."""
    y, x = np.mgrid[:height, :width]
    planes = [255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)]
    return np.stack(planes, -1).astype(np.uint8)


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(module, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_any_colour_space_becomes_rgb(mode):
    picture = Image.fromarray(smooth(40, 40)).convert(mode)
    out = decode({"image": encoded(picture, "JPEG", quality=95)}, 40)["image"]
    assert (out.shape, out.dtype) == ((40, 40, 3), np.uint8)
    wanted = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(out.astype(int) - wanted).mean() < 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_png_of_any_mode_becomes_rgb(mode):
    gray = smooth(20, 20)[:, :, 0]
    if mode == "I;16":
        picture, wanted = Image.fromarray(gray.astype(np.uint16) * 257), np.stack([gray] * 3, -1)
    else:
        picture = Image.fromarray(smooth(20, 20)).convert(mode)
        wanted = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decode({"image": encoded(picture, "PNG")}, 20)["image"], wanted)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.9, -2])
def test_truncated_jpeg_is_a_bad_record_with_a_reason(keep):
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), 90)
    kept = data[: int(keep * len(data))] if isinstance(keep, float) else data[:keep]
    if keep == -2 and module.simplejpeg is None:
        pytest.skip("Pillow takes a JPEG that lacks nothing but its end marker")
    out = decode({"image": kept}, 32)
    assert isinstance(out, BadRecord)
    assert out.reason


def test_broken_region_map_makes_the_record_bad():
    record = {"image": smooth(8, 8), "regions": encode_png(np.zeros((8, 8), np.uint8))[:40]}
    assert isinstance(decode(record, 8, fields=["regions"]), BadRecord)
    assert "regions" not in decode(record, 8)


def test_a_generated_picture_is_fitted_by_itself():
    image, twin = smooth(40, 60), 255 - smooth(64, 64)
    out = decode({"image": image, "generated": encode_jpeg(twin, 95)}, 16, 0.5, ["generated"])
    alone = decode({"image": encode_jpeg(twin, 95)}, 16, 0.5)["image"]
    np.testing.assert_array_equal(out["generated"], alone)
    np.testing.assert_array_equal(out["image"], decode({"image": image}, 16, 0.5)["image"])
    assert "generated" not in decode({"image": image, "generated": encode_jpeg(twin, 95)}, 16)


def test_image_of_the_right_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    np.testing.assert_array_equal(decode({"image": image}, 16)["image"], image[:, 2:18])


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize(("height", "width"), [(640, 480), (333, 517), (64, 64)])
def test_scaled_decoding_shows_the_same_picture(height, width):
    image = smooth(height, width)
    fitted = decode({"image": image}, 32)["image"].astype(int)
    scaled = decode({"image": encode_jpeg(image, 95)}, 32)["image"].astype(int)
    assert np.abs(fitted - scaled).max() <= 6


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(40, 90),
    width=st.integers(40, 90),
    size=st.integers(24, 100),
    crop=st.floats(0.7, 1.0),
    at=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
)
def test_landmarks_and_regions_stay_on_a_planted_blob(height, width, size, crop, at):
    x0, y0 = round(at[0] * (width - 1)), round(at[1] * (height - 1))
    box = fit(height, width, crop)
    margin = 3
    assume(box.left + margin < x0 < box.left + box.side - margin)
    assume(box.top + margin < y0 < box.top + box.side - margin)
    y, x = np.mgrid[:height, :width]
    blob = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 4)
    record = {
        "image": np.repeat((255 * blob).astype(np.uint8)[:, :, None], 3, 2),
        "landmarks": np.array([[x0, y0]], np.float32),
        "regions": (blob > 0.3).astype(np.uint8),
    }
    out = decode(record, size, crop, ["landmarks", "regions"])
    oy, ox = np.mgrid[:size, :size]
    scale = size / box.side
    for weight, slack in ((out["image"][:, :, 0].astype(float), 0.15), (out["regions"], 0.6)):
        centre = np.array([(ox * weight).sum(), (oy * weight).sum()]) / weight.sum()
        assert np.abs(centre - out["landmarks"][0]).max() < slack * max(scale, 1)


def test_a_map_of_other_resolution_covers_the_same_picture():
    image = smooth(40, 60)
    regions = np.zeros((80, 120), np.uint8)
    regions[:, 60:] = 7
    out = decode({"image": image, "regions": encode_png(regions)}, 20, 1.0, ["regions"])["regions"]
    assert set(out[:, :10].ravel()) == {0}
    assert set(out[:, 10:].ravel()) == {7}


def test_crop_keeps_the_centre():
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 10:30] = 200
    assert decode({"image": image}, 20, 0.5)["image"].min() == 200
    assert decode({"image": image}, 20, 1.0)["image"].min() == 0


def test_an_image_that_needs_no_fitting_is_decoded_in_place():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    data, room = encode_jpeg(picture, 95), np.zeros((16, 16, 3), np.uint8)
    alone = decode({"image": data}, 16)["image"]
    assert decode({"image": data}, 16, into=room)["image"] is room
    np.testing.assert_array_equal(room, alone)
    for size, crop in ((8, 1.0), (16, 0.5)):
        other = np.zeros((size, size, 3), np.uint8)
        fitted = decode({"image": data}, size, crop, into=other)["image"]
        np.testing.assert_array_equal(fitted, decode({"image": data}, size, crop)["image"])
        assert not np.shares_memory(fitted, other)
    cut = decode({"image": data[: len(data) // 2]}, 16, into=room)
    assert isinstance(cut, BadRecord)
