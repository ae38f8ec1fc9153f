"""The views that objectives share."""

import dataclasses

import pytest
from made_up import SPEC

from facejax.contracts import Tower
from facejax.objectives import _views


def test_several_views_take_turns_with_the_two_recipes():
    a, b, c = _views.several(_views.Views(), SPEC, 3).values()
    assert (a.aug.blur_p, a.aug.solarize_p, a.aug.size) == (1.0, 0.0, SPEC.size)
    assert (b.aug.blur_p, b.aug.solarize_p) == (0.1, 0.2)
    assert a.aug == c.aug
    assert a != c
    assert (a.aug.mean, a.aug.jitter, a.aug.jitter_p) == (
        SPEC.aug["mean"],
        (0.4, 0.4, 0.2, 0.1),
        0.8,
    )


def test_equal_recipes_are_two_draws():
    cfg = _views.Views(blur=(0.5, 0.5), solarize=(0.0, 0.0))
    a, b = _views.several(cfg, SPEC).values()
    assert a.aug == b.aug
    assert a != b


def test_the_second_view_shows_another_field():
    views = _views.several(_views.Views(second="twin"), SPEC, 4)
    assert [v.field for v in views.values()] == ["image", "twin", "image", "image"]
    crops = _views.crops(_views.Crops(second="twin", local_crops=2), SPEC)
    assert [v.field for v in crops.values()] == ["image", "twin", "image", "image"]


def test_multi_crop_is_two_large_and_several_small_views():
    cfg = _views.Crops(local_crops=3)
    views = _views.crops(cfg, SPEC)
    assert list(views) == ["global_0", "global_1", "local_0", "local_1", "local_2"]
    assert len(set(views.values())) == 5
    globals_, locals_ = list(views.values())[:2], list(views.values())[2:]
    assert {v.aug.scale for v in globals_} == {(0.4, 1.0)}
    assert {v.aug.scale for v in locals_} == {(0.05, 0.4)}
    assert [v.aug.blur_p for v in views.values()] == [1.0, 0.1, 0.5, 0.5, 0.5]
    assert [v.aug.solarize_p for v in views.values()] == [0.0, 0.2, 0.0, 0.0, 0.0]
    assert len({v.aug for v in locals_}) == 1
    assert {v.aug.size for v in globals_} == {SPEC.size}


@pytest.mark.parametrize(
    ("size", "patch", "want"),
    [(224, 16, 96), (112, 16, 48), (112, 8, 48), (64, 16, 32), (16, 16, 16), (112, 0, 48)],
)
def test_local_crops_are_whole_patches(size, patch, want):
    spec = dataclasses.replace(SPEC, size=size, towers={"encoder": Tower(8, 8, patch, 1, size, 2)})
    assert _views.small_side(_views.Crops(), spec) == want
    assert _views.crops(_views.Crops(), spec)["local_0"].aug.size == want
