"""What becomes of fields that a record lacks; the rest is tested where batches are read."""

import numpy as np

from facejax.data.fields import batch_shape, collate
from facejax.data.records import Field


def test_where_no_picture_was_generated_the_image_is_shown_again():
    image, twin = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    records = [{"image": image, "generated": twin}, {"image": twin}, None]
    arrays = collate(records, {"generated": Field(dtype="uint8")}, 8)
    np.testing.assert_array_equal(arrays["generated"], [twin, twin, np.zeros_like(twin)])
    assert arrays["has_generated"].tolist() == [True, False, False]
    assert arrays["generated"].dtype == np.uint8


def test_sets_are_padded_and_counted():
    fields = {"faces": Field((3, 2), many=True), "names": Field((2,), "str", many=True)}
    faces = np.arange(8, dtype=np.float32).reshape(4, 2)
    records = [
        {"faces": faces[:2], "names": ("ada", "ben")},
        {"faces": faces, "names": ()},
        {"faces": faces[:0]},
        None,
    ]
    for record in records[:3]:
        record["image"] = np.zeros((8, 8, 3), np.uint8)
    arrays = collate(records, fields, 8)
    assert arrays["count_faces"].tolist() == [2, 3, 0, 0]  # there is room for three
    np.testing.assert_array_equal(arrays["faces"][0], [[0, 1], [2, 3], [0, 0]])
    np.testing.assert_array_equal(arrays["faces"][1], faces[:3])
    assert not arrays["faces"][2:].any()
    assert arrays["names"].tolist()[:2] == [["ada", "ben"], ["", ""]]
    assert arrays["has_faces"].tolist() == [True, True, True, False]
    assert arrays["has_names"].tolist() == [True, True, False, False]
    shapes = batch_shape({"faces": fields["faces"]}, 4, 8)
    del arrays["names"], arrays["has_names"], arrays["count_names"]
    assert {k: (v.shape, v.dtype.name) for k, v in arrays.items()} == shapes
