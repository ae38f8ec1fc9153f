"""Views of a batch of images, drawn on the device inside the step.

    crop and resize -> flip -> cut -> shrink -> colour jitter -> hsv -> grayscale -> blur
    -> solarise -> normalise

Definitions follow torchvision's transforms of the same names and the recipes of SimCLR and BYOL;
cut and shrink are those that AdaFace trains with. arcface_torch's optional recipe is a shrink to
(.5, .8) with probability .1, blur of sigma (1.6, 2.2) with .2, hsv with .2 and grayscale with .1.
Departures: the jitter's order is fixed (brightness, contrast, saturation, hue), and the edges of a
crop are not rounded to whole pixels.

Coordinates: pixel i covers [i, i + 1) and has its centre at i + 0.5, while a landmark at x lies
on the centre of pixel x. A crop whose left edge is `left` therefore sends a landmark to
(x + 0.5 - left) * scale - 0.5. A flip is a box whose left and right edges have changed places;
image, regions and landmarks all read the same box.

Inside, an image is three planes, f32[3, S, S] in [0, 1]. What a recipe leaves off costs nothing:
each stage is traced only if the recipe asks for it.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from facejax.contracts import Aug, Draw, View
from facejax.data import align

PROPOSALS = 10  # of a random crop, before it falls back to the centre
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def views(view: View, batch: Mapping[str, jax.Array], draw: Draw) -> dict[str, jax.Array]:
    """Draws one view of every image in a batch.

    A row's view depends on `draw.key` and on the row's global number only.

    Args:
        view: the field to show and the recipe; static under jit.
        batch: `view.field` u8[B, H, W, 3] RGB, optionally `regions` u8[B, H, W] in the LaPa scheme
            and `landmarks` f32[B, K, 2], x and y in pixels.
        draw: the view's own randomness.

    Returns:
        `image` f32[B, S, S, 3], normalised; `regions` u8[B, S, S] and `landmarks` f32[B, K, 2] in
        pixels of the view where the batch has them; `box` f32[B, 4], the crop's left, top, right
        and bottom edge in pixels of the image; `flipped` bool[B]. Without a recipe, only the field
        itself, untouched: integers i32[B, ..., L] are token ids, by the name `text` whatever
        their field.

    Raises:
        UserError: the recipe flips and K landmarks have no known mirror order.
    """
    aug = view.aug
    if aug is None:
        values = batch[view.field]
        return {"text" if values.dtype == jnp.int32 else view.field: values}
    image = batch[view.field]
    height, width = image.shape[1:3]
    flipped = _flips(aug, draw)
    if _whole(aug):
        box = jnp.tile(jnp.array([[0, 0, width, height]], jnp.float32), (len(image), 1))
    else:
        box = jax.vmap(partial(random_box, aug, height, width))(draw.fold("crop").keys())
    left, top, right, bottom = box.T
    start, end = jnp.where(flipped, right, left), jnp.where(flipped, left, right)

    out = {"box": box, "flipped": flipped}
    out["image"] = _colour(aug, _crop(aug, image, (start, end, top, bottom), flipped), draw)
    if "regions" in batch:
        regions = jax.vmap(partial(_resample_regions, size=aug.size))(
            batch["regions"], start, end, top, bottom
        )
        if aug.flip:
            mirrored = jnp.asarray(align.REGION_FLIP)[regions]
            regions = jnp.where(flipped[:, None, None], mirrored, regions)
        out["regions"] = regions
    if "landmarks" in batch:
        points = batch["landmarks"].astype(jnp.float32)
        if aug.flip:
            order = jnp.asarray(align.landmark_flip(points.shape[1]))
            points = jnp.where(flipped[:, None, None], points[:, order], points)
        near, far = jnp.stack([start, top], -1)[:, None], jnp.stack([end, bottom], -1)[:, None]
        out["landmarks"] = (points + 0.5 - near) * (aug.size / (far - near)) - 0.5
    return out


# ---------------------------------------------------------------------------------- geometry


def _whole(aug: Aug) -> bool:
    return aug.scale == (1.0, 1.0) and aug.ratio == (1.0, 1.0)


def _flips(aug: Aug, draw: Draw) -> jax.Array:
    if not aug.flip:
        return jnp.zeros(draw.rows.shape, bool)
    return jax.vmap(jax.random.uniform)(draw.fold("flip").keys()) < aug.flip


def between(low: float, high: float, u: jax.Array) -> jax.Array:
    """Stretches `u` from [0, 1) to [low, high)."""
    return low + (high - low) * u


def random_box(aug: Aug, height: int, width: int, key: jax.Array) -> jax.Array:
    """Draws a crop: its area uniform in `scale`, its width / height log-uniform in `ratio`.

    The first of ten proposals that fits inside the image, at a uniform place; if none fits, the
    largest centred box whose shape is within `ratio` (torchvision's fallback).

    Args:
        aug: the recipe.
        height: of the image, in pixels.
        width: of the image, in pixels.
        key: of this row.

    Returns:
        f32[4], left, top, right and bottom edge in pixels.
    """
    low, high = aug.ratio
    u = jax.random.uniform(key, (2 * PROPOSALS + 2,))
    area = height * width * between(*aug.scale, u[:PROPOSALS])
    root = jnp.exp(0.5 * between(math.log(low), math.log(high), u[PROPOSALS:-2]))
    w, h = jnp.sqrt(area) * root, jnp.sqrt(area) / root
    fits = (w <= width) & (h <= height)
    first = jnp.argmax(fits)

    shape = min(max(width / height, low), high)
    fallback = jnp.array([min(width, height * shape), min(height, width / shape)], jnp.float32)
    extent = jnp.where(fits[first], jnp.stack([w[first], h[first]]), fallback)
    place = jnp.where(fits[first], u[-2:], 0.5)
    corner = place * (jnp.array([width, height], jnp.float32) - extent)
    return jnp.concatenate([corner, corner + extent])


def _crop(
    aug: Aug, image: jax.Array, edges: tuple[jax.Array, ...], flipped: jax.Array
) -> jax.Array:
    """u8[B, H, W, 3] -> f32[B, 3, S, S] in [0, 1]."""
    height, width = image.shape[1:3]
    if _whole(aug) and height == width == aug.size:
        if aug.flip:
            image = jnp.where(flipped[:, None, None, None], image[:, :, ::-1], image)
        return image.transpose(0, 3, 1, 2).astype(jnp.float32) / 255
    return jax.vmap(partial(_resample, size=aug.size))(image, *edges)


def taps(start: jax.Array, end: jax.Array, size: int, source: int) -> jax.Array:
    """Weights f32[size, source] that resample [start, end) of a line of `source` pixels.

    Antialiased bilinear, as Pillow's BILINEAR: a triangle as wide as an output pixel, but never
    narrower than an input pixel. start > end mirrors the line.
    """
    step = (end - start) / size
    centre = start + (jnp.arange(size) + 0.5) * step
    distance = jnp.abs((jnp.arange(source) + 0.5)[None] - centre[:, None])
    weights = jnp.maximum(0.0, 1 - distance / jnp.maximum(jnp.abs(step), 1.0))
    return weights / weights.sum(1, keepdims=True)


def _separable(planes: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Applies one matrix to the columns and one to the rows of each plane: [C, H, W] -> [C, S, T].

    In full fp32: the default of tensor cores would cost a grey level.
    """
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    return product("tw,csw->cst", columns, product("sh,chw->csw", rows, planes))


def _resample(image, start, end, top, bottom, size: int) -> jax.Array:
    height, width = image.shape[:2]
    planes = image.transpose(2, 0, 1).astype(jnp.float32) / 255
    return _separable(planes, taps(top, bottom, size, height), taps(start, end, size, width))


def _resample_regions(regions, start, end, top, bottom, size: int) -> jax.Array:
    """Resamples a region map [H, W] by nearest neighbour; start > end mirrors it."""

    def index(low, high, source):
        centre = low + (jnp.arange(size) + 0.5) * ((high - low) / size)
        return jnp.clip(jnp.floor(centre).astype(jnp.int32), 0, source - 1)

    height, width = regions.shape
    return regions[index(top, bottom, height)][:, index(start, end, width)]


# ------------------------------------------------------------------------------------ colour


def _colour(aug: Aug, planes: jax.Array, draw: Draw) -> jax.Array:
    """f32[B, 3, S, S] in [0, 1] -> f32[B, S, S, 3], normalised."""
    stages = (
        ("cut", cut, aug.cut_p),
        ("shrink", shrink, aug.shrink_p),
        ("jitter", jitter, any(aug.jitter) and aug.jitter_p),
        ("hsv", hue_and_saturation, aug.hsv_p),
        ("gray", grayscale, aug.gray_p),
        ("blur", blur, aug.blur_p),
        ("solarize", solarize, aug.solarize_p),
    )
    for name, stage, wanted in stages:
        if wanted:
            planes = jax.vmap(partial(stage, aug))(planes, draw.fold(name).keys())
    mean, std = (np.asarray(v, np.float32)[None, None, None] for v in (aug.mean, aug.std))
    return (planes.transpose(0, 2, 3, 1) - mean) / std


def cut(aug: Aug, planes: jax.Array, key: jax.Array) -> jax.Array:
    """Blackens all but a box, with probability `cut_p`.

    The box is that of a random crop of area `cut` and width / height in [3/4, 4/3]; what is in it
    stays where it is. Regions and landmarks tell of the face, not of what can be seen of it.

    Source: Kim et al. 2022, arXiv:2204.00964 (AdaFace), and its authors' code.
    """
    size = planes.shape[-1]
    recipe = dataclasses.replace(aug, scale=aug.cut, ratio=(3 / 4, 4 / 3))
    left, top, right, bottom = random_box(recipe, size, size, key)
    off = jax.random.uniform(jax.random.fold_in(key, 1)) >= aug.cut_p
    at = jnp.arange(size) + 0.5
    rows, columns = (at >= top) & (at < bottom), (at >= left) & (at < right)
    return jnp.where(off | (rows[:, None] & columns[None])[None], planes, 0.0)


def shrink(aug: Aug, planes: jax.Array, key: jax.Array) -> jax.Array:
    """Makes the view smaller and as large as before, with probability `shrink_p`.

    The side is round(S u) pixels in between, u uniform in `shrink`; both ways are bilinear, the way
    down antialiased. (AdaFace's code draws one of five interpolations for each.)
    """
    size = planes.shape[-1]
    u = jax.random.uniform(key, (2,))
    side = jnp.where(u[0] < aug.shrink_p, jnp.round(size * between(*aug.shrink, u[1])), size)
    there_and_back = resized(jnp.maximum(side, 1.0), size)
    return _separable(planes, there_and_back, there_and_back)


def resized(side: jax.Array, size: int) -> jax.Array:
    """The matrix f32[size, size] that makes a line `side` pixels long and `size` long again."""
    exists = jnp.arange(size) < side
    scale = size / side
    centre = (jnp.arange(size) + 0.5) * scale
    distance = jnp.abs((jnp.arange(size) + 0.5)[None] - centre[:, None])
    down = jnp.maximum(0.0, 1 - distance / scale)
    down = down / jnp.maximum(down.sum(1, keepdims=True), 1e-6)
    up = taps(jnp.float32(0), side, size, size) * exists[None]
    return (up / up.sum(1, keepdims=True)) @ (down * exists[:, None])


def _luma(planes: jax.Array) -> jax.Array:
    """[3, S, S] -> [1, S, S]."""
    return sum(w * plane for w, plane in zip(LUMA, planes))[None]


def _blend(planes: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(factor * planes + (1 - factor) * other, 0.0, 1.0)


def jitter(aug: Aug, planes: jax.Array, key: jax.Array) -> jax.Array:
    """Changes brightness, contrast, saturation and hue, in this order, with probability `jitter_p`.

    The first three are blends with black, with the mean luma and with the luma, by factors uniform
    in [max(0, 1 - s), 1 + s], clipped to [0, 1] after each; the hue turns by a share of the circle
    uniform in [-h, h].
    """
    u = jax.random.uniform(key, (5,))
    on = u[4] < aug.jitter_p
    *strengths, hue = aug.jitter
    others = (jnp.zeros_like, lambda x: jnp.mean(_luma(x), keepdims=True), _luma)
    for i, (strength, other) in enumerate(zip(strengths, others)):
        if strength:
            factor = between(max(0.0, 1 - strength), 1 + strength, u[i])
            planes = _blend(planes, other(planes), jnp.where(on, factor, 1.0))
    if hue:
        planes = turn_hue(planes, jnp.where(on, between(-hue, hue, u[3]), 0.0))
    return planes


def turn_hue(planes: jax.Array, shift: jax.Array) -> jax.Array:
    """Turns the hue of HSV by `shift` (a share of the circle), keeping saturation and value."""
    red, green, blue = planes
    value = jnp.max(planes, 0)
    chroma = value - jnp.min(planes, 0)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixth = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * shift

    def channel(offset):
        k = offset + sixth
        k = k - 6 * jnp.floor(k / 6)  # jnp.mod, at half its time on a CPU
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)

    return jnp.stack([channel(5), channel(3), channel(1)])


def hue_and_saturation(aug: Aug, planes: jax.Array, key: jax.Array) -> jax.Array:
    """Turns the hue forward and raises the saturation, with probability `hsv_p`.

    The turn is uniform in [0, `hsv[0]`] degrees. Saturation is a blend with the luma by a factor
    uniform in [1, 1 + `hsv[1]`], clipped to [0, 1].

    Source: arcface_torch (`dali_aug`), whose library turns and scales in a linear colour space.
    """
    u = jax.random.uniform(key, (3,))
    on = u[2] < aug.hsv_p
    degrees, more = aug.hsv
    planes = turn_hue(planes, jnp.where(on, u[0] * degrees / 360, 0.0))
    return _blend(planes, _luma(planes), jnp.where(on, 1 + u[1] * more, 1.0))


def grayscale(aug: Aug, planes: jax.Array, key: jax.Array) -> jax.Array:
    """Replaces the colours by their luma with probability `gray_p`."""
    on = jax.random.uniform(key) < aug.gray_p
    return jnp.where(on, jnp.broadcast_to(_luma(planes), planes.shape), planes)


def blur(aug: Aug, planes: jax.Array, key: jax.Array) -> jax.Array:
    """Gaussian blur with probability `blur_p`; sigma uniform in `blur_sigma` times S / 224."""
    u = jax.random.uniform(key, (2,))
    on, sigma = u[0] < aug.blur_p, between(*aug.blur_sigma, u[1]) * (aug.size / 224)
    kernel = jnp.where(on, gaussian(sigma, aug.size), jnp.eye(aug.size))
    return _separable(planes, kernel, kernel)


def gaussian(sigma: jax.Array, size: int) -> jax.Array:
    """The matrix f32[size, size] that blurs a line, reflected at its ends (without the end pixel).

    The kernel has 2 * (size // 20) + 1 taps, at least 3: SimCLR's tenth of the view.
    """
    radius = max(1, size // 20)
    i, j = np.arange(size)[:, None], np.arange(size)[None]
    last = size - 1

    def taps_at(distance, exists):
        weight = jnp.exp(-0.5 * jnp.square(distance / jnp.maximum(sigma, 1e-3)))
        return jnp.where(exists & (np.abs(distance) <= radius), weight, 0.0)

    # Pixel j is met at its own place and, near the ends, at its two mirror images.
    matrix = taps_at(i - j, True) + taps_at(i + j, j > 0) + taps_at(2 * last - i - j, j < last)
    return matrix / matrix.sum(1, keepdims=True)


def solarize(aug: Aug, planes: jax.Array, key: jax.Array) -> jax.Array:
    """Inverts the values from one half up with probability `solarize_p`."""
    on = jax.random.uniform(key) < aug.solarize_p
    return jnp.where(on & (planes >= 0.5), 1 - planes, planes)
