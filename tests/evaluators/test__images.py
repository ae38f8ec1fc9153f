import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from facejax.errors import UserError
from facejax.evaluators._images import list_images, read_images


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def halves(height: int, width: int) -> np.ndarray:
    """Red left of the middle, blue right of it."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = image[:, width // 2 :, 2] = 255
    return image


@pytest.fixture(params=["folder", "zip"])
def store(request, tmp_path):
    """Writes files into a folder or a zip; returns its path."""

    def write(files: dict[str, bytes]) -> str:
        if request.param == "zip":
            with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            return str(tmp_path / "a.zip")
        for name, data in files.items():
            (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "a" / name).write_bytes(data)
        return str(tmp_path / "a")

    return write


def test_lists_images_only_and_reads_them_in_the_order_asked(store):
    colours = {f"x/{i}.png": np.full((4, 4, 3), 10 * i, np.uint8) for i in range(5)}
    path = store({"notes.txt": b"", **{n: png(c) for n, c in colours.items()}})
    assert list_images(path) == sorted(colours)
    names = ["x/3.png", "x/1.png", "x/4.png"]
    chunks = list(read_images({"path": path}, names, 4, chunk=2))
    assert [len(images) for images, _ in chunks] == [2, 1]
    got = np.concatenate([images for images, _ in chunks])
    np.testing.assert_array_equal(got[:, 0, 0, 0], [30, 10, 40])


@pytest.mark.parametrize(("height", "width"), [(20, 40), (40, 40)])
def test_crops_the_centred_square(store, height, width):
    path = store({"a.png": png(halves(height, width))})
    ((images, readable),) = read_images({"path": path, "crop": 0.5}, ["a.png"], 10)
    assert readable.all()
    np.testing.assert_array_equal(images[0, 5, [0, -1]], [[255, 0, 0], [0, 0, 255]])


def test_crop_keeps_its_share(store):
    ring = np.zeros((40, 40, 3), np.uint8)
    ring[10:30, 10:30] = 200
    path = store({"a.png": png(ring)})
    ((inner, _),) = read_images({"path": path, "crop": 0.5}, ["a.png"], 20)
    ((whole, _),) = read_images({"path": path}, ["a.png"], 20)
    assert (inner == 200).all()
    assert (whole[0, 0] == 0).all()


def test_resizing_down_is_antialiased(store):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    path = store({"a.png": png(stripes)})
    ((images, _),) = read_images({"path": path}, ["a.png"], 16)
    assert np.abs(images[0, 4:-4, 4:-4].astype(int) - 127).max() < 10


def test_a_damaged_image_is_marked_and_the_others_are_read(store):
    good = png(halves(16, 16))
    path = store({"a.png": good, "b.png": good[: len(good) // 2], "c.png": b"", "d.png": good})
    ((images, readable),) = read_images({"path": path}, ["a.png", "b.png", "c.png", "d.png"], 8)
    np.testing.assert_array_equal(readable, [True, False, False, True])
    assert not images[~readable].any()


def test_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    for name, what in (
        ("nowhere", "no such"),
        ("empty", "no images"),
        ("text.zip", "neither a folder nor a zip"),
    ):
        with pytest.raises(UserError, match=what):
            list_images(str(tmp_path / name))
