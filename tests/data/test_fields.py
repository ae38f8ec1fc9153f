"""What becomes of fields that a record lacks; the rest is tested where batches are read."""

import numpy as np

from facejax.data.fields import collate
from facejax.data.records import Field


def test_where_no_picture_was_generated_the_image_is_shown_again():
    image, twin = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    records = [{"image": image, "generated": twin}, {"image": twin}, None]
    arrays = collate(records, {"generated": Field(dtype="uint8")}, 8)
    np.testing.assert_array_equal(arrays["generated"], [twin, twin, np.zeros_like(twin)])
    assert arrays["has_generated"].tolist() == [True, False, False]
    assert arrays["generated"].dtype == np.uint8
