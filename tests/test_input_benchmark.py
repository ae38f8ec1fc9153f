"""The comparison of loaders: all of them give what they are asked for, of the same files."""

import numpy as np
import pytest

from benchmarks import input as benchmark


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "BATCH", 16)
        patch.setattr(benchmark, "FILES", 32)
        yield benchmark.sides(tmp_path_factory.mktemp("input"), 48, 16)


@pytest.mark.parametrize("name", ["packed", "folder", "grain", "torch"])
def test_a_side_gives_uint8_batches(made, name):
    if name == "torch":
        pytest.importorskip("torch")
    every, paths = made
    stream = every[name](1)
    seen = {bytes(image) for image in np.concatenate([next(stream), next(stream)])}
    want = np.asarray(next(stream))
    assert want.dtype == np.uint8
    assert want.shape == (16, 16, 16, 3)
    assert len(seen) == len(paths)  # an epoch holds every file once


def test_the_ceiling_decodes_in_full_or_by_half(made):
    images = next(made[0]["ceiling"](1))
    assert len(images) == 16
    assert all(min(image.shape[:2]) >= 16 for image in images)


def test_pixels_agree_with_pillow(made):
    apart = benchmark.pixel_difference(made[1], 16)
    assert apart["mean"] < 2
