"""Face facts that live in one place: landmarks, templates, region labels, colour and normalisation.

Left and right are the subject's own: the subject's right eye is on the viewer's left. Landmarks
are x and y in pixels, and a landmark at x lies on the centre of pixel x.
"""

import numpy as np
from PIL import Image, ImageDraw

from facejax.errors import UserError, nearest

# ------------------------------------------------------------------------- colour and framing

COLOUR_ORDER = "RGB"

MEAN_STD = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "vggface2": ((0.5482, 0.4234, 0.3655), (0.2789, 0.2439, 0.2349)),
}
"""Mean and standard deviation per RGB channel of images in [0, 1].

"half" is the recognisers' choice (insightface), "imagenet" that of MAE, and "vggface2" was measured
by FSFM on its crops of VGGFace2.
"""

CROP_MARGIN = 1.3
"""Side of a square crop over the longer side of the detector's box (FSFM, FaceForensics++)."""

# ---------------------------------------------------------------------------------- alignment

TEMPLATE = np.array(
    [
        [38.2946, 51.6963],  # right eye
        [73.5318, 51.5014],  # left eye
        [56.0252, 71.7366],  # tip of the nose
        [41.5493, 92.3655],  # right corner of the mouth
        [70.7299, 92.2041],  # left corner of the mouth
    ]
)
"""The five points in an aligned image of 112 pixels (insightface, after SphereFace)."""
TEMPLATE.flags.writeable = False


def template(size: int) -> np.ndarray:
    """The five points in an aligned square image of `size` pixels, f64[5, 2].

    Multiples of 112 enlarge the 112-pixel framing. Every other size enlarges or shrinks the
    128-pixel framing, which shows 8 more pixels on the left and right and 16 more below. For
    multiples of 112 and 128 this is insightface's rule; it refuses other sizes.
    """
    if size % 112 == 0:
        return TEMPLATE * (size / 112)
    return (TEMPLATE + [8.0, 0.0]) * (size / 128)


def declared(alignment: str, size: int) -> np.ndarray | None:
    """The five points that `config.data.align` declares, f64[5, 2]; None where it declares none.

    Pictures of 112 pixels, resized to `size`, show the template between the same edges.
    """
    if alignment == "none":
        return None
    return (TEMPLATE + 0.5) * (size / 112) - 0.5


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, uniform scale and shift that take `source` nearest to `target`.

    Least squares without reflection (Umeyama 1991). In the plane such a transform is a complex
    line z -> a z + b, so the fit is a regression on one complex variable.

    Args:
        source: [K, 2] points, K >= 2.
        target: [K, 2] points.

    Returns:
        f64[2, 3], to be applied to (x, y, 1).

    Raises:
        UserError: the source points coincide or are not finite.
    """
    z, w = (np.asarray(p, np.float64) @ [1, 1j] for p in (source, target))
    centred = z - z.mean()
    spread = np.sum(np.abs(centred) ** 2)
    if not (np.isfinite(spread) and spread > 0):
        raise UserError("landmarks", "the points coincide or are not finite", "leave this face out")
    a = np.sum(np.conj(centred) * (w - w.mean())) / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def warp(image: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """Aligns a face: its five points are moved onto the template.

    Bilinear with a border of constant 0, like the warps that recognisers are trained on.

    Args:
        image: u8[H, W, 3].
        landmarks: [5, 2], in the order of `TEMPLATE`.
        size: side of the result in pixels.

    Returns:
        u8[size, size, 3].

    Raises:
        UserError: the landmarks coincide or are not finite.
    """
    # Fitted from the image to the template and then inverted: the error is in template pixels.
    forward = np.vstack([similarity(landmarks, template(size)), [0, 0, 1]])
    if np.linalg.det(forward) == 0:
        raise UserError("landmarks", "they do not resemble a face", "leave this face out")
    back = np.linalg.inv(forward)
    # Pillow counts from a pixel's edge, landmarks from its centre.
    back[:2, 2] += 0.5 - back[:2, :2] @ [0.5, 0.5]
    warped = Image.fromarray(image).transform(
        (size, size), Image.Transform.AFFINE, back[:2].ravel(), Image.Resampling.BILINEAR
    )
    return np.asarray(warped)


# ---------------------------------------------------------------------------------- landmarks

# The 68 points of iBUG (300-W), from the subject's right to left: outline 0-16, brows 17-21 and
# 22-26, bridge of the nose 27-30 and its base 31-35, eyes 36-41 and 42-47, outer lips 48-59,
# inner lips 60-67.

RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)
NOSE_TIP, RIGHT_CORNER, LEFT_CORNER = 30, 48, 54


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Reduces [..., 68, 2] to [..., 5, 2]: means of the eyes, tip of the nose, mouth's corners."""
    eyes = [landmarks[..., eye, :].mean(-2) for eye in (RIGHT_EYE, LEFT_EYE)]
    points = [landmarks[..., i, :] for i in (NOSE_TIP, RIGHT_CORNER, LEFT_CORNER)]
    return np.stack(eyes + points, -2)


FLIP_PAIRS = {
    5: ((0, 1), (3, 4)),
    68: (
        *((i, 16 - i) for i in range(8)),
        *((i, 43 - i) for i in range(17, 22)),
        (31, 35),
        (32, 34),
        *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
        *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58)),
        *((60, 64), (61, 63), (65, 67)),
    ),
}
"""Pairs of landmarks that change places in a mirrored image, by number of landmarks."""


def landmark_flip(count: int) -> np.ndarray:
    """The order i64[count] that landmarks take in a mirrored image; its own inverse.

    Raises:
        UserError: the mirror order of so many landmarks is not known.
    """
    if count not in FLIP_PAIRS:
        known = " or ".join(map(str, FLIP_PAIRS))
        raise UserError(
            "landmarks", f"no mirror order for {count} points", f"use {known}, or no flip"
        )
    return _swapped(count, FLIP_PAIRS[count])


def _swapped(count: int, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    order = np.arange(count)
    for a, b in pairs:
        order[[a, b]] = b, a
    return order


# ------------------------------------------------------------------------------------ regions

LAPA = (
    "background",
    "skin",
    "right_brow",
    "left_brow",
    "right_eye",
    "left_eye",
    "nose",
    "upper_lip",
    "inner_mouth",
    "lower_lip",
    "hair",
)
"""Region numbers used everywhere inside facejax (the LaPa scheme), by position."""

REGION_FLIP_PAIRS = ((2, 3), (4, 5))
"""Regions that change places in a mirrored image."""

REGION_FLIP = _swapped(256, REGION_FLIP_PAIRS).astype(np.uint8)
"""u8[256], the number that a region takes in a mirrored image."""

SCHEMES = {
    "lapa": {name: name for name in LAPA},
    "celebamask": {
        "background": "background",
        "skin": "skin",
        "nose": "nose",
        "glasses": "skin",
        "left_eye": "left_eye",
        "right_eye": "right_eye",
        "left_brow": "left_brow",
        "right_brow": "right_brow",
        "left_ear": "skin",
        "right_ear": "skin",
        "mouth": "inner_mouth",
        "upper_lip": "upper_lip",
        "lower_lip": "lower_lip",
        "hair": "hair",
        "hat": "hair",
        "earring": "background",
        "necklace": "background",
        "neck": "background",
        "cloth": "background",
    },
}
"""Parsing schemes: their regions in the order of their numbers, and what each is called in LaPa.

CelebAMask-HQ in its 19-class numbering: glasses and ears count as skin, a hat as hair; neck, cloth
and jewellery as background.
"""


def to_lapa(regions: np.ndarray, scheme: str) -> np.ndarray:
    """Renumbers a region map into the LaPa scheme.

    Args:
        regions: integers, of any shape.
        scheme: of `regions`: a key of `SCHEMES`.

    Returns:
        u8 of the same shape.

    Raises:
        UserError: the scheme is unknown, or the map holds a number that the scheme lacks.
    """
    if scheme not in SCHEMES:
        raise UserError("regions", f"no parsing scheme called '{scheme}'", nearest(scheme, SCHEMES))
    table = np.array([LAPA.index(name) for name in SCHEMES[scheme].values()], np.uint8)
    regions = np.asarray(regions)
    if regions.size and not 0 <= regions.min() <= regions.max() < len(table):
        raise UserError(
            "regions",
            f"{regions.min()} to {regions.max()} are not all regions of '{scheme}'",
            f"name the scheme that this map follows ({', '.join(SCHEMES)})",
        )
    return table[regions]


BROW_THICKNESS = 0.25
"""Depth of a brow over the distance from brow to eye; iBUG marks only its upper edge."""

FOREHEAD = 0.75
"""Height of the forehead over the distance from the brows to the base of the nose.

The classical thirds of a face say 1; 0.77 is the median of the visible skin above the nose in 400
parsing maps of CelebAMask-HQ.
"""


def regions_from_landmarks(landmarks: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Draws a region map from landmarks, for faces that no parser has seen.

    The face's outline is closed by a forehead (`FOREHEAD`) that falls to half its height at the
    temples. Hair is not drawn: landmarks do not know it.

    Args:
        landmarks: [68, 2], iBUG order.
        size: side of the map in pixels, or its height and width.

    Returns:
        u8[H, W] in the LaPa scheme.
    """
    height, width = np.broadcast_to(size, 2).tolist()
    # Drawn three times as large, and every third pixel taken: edges are true to a third of a pixel.
    p = (np.asarray(landmarks, np.float64) + 0.5) * 3 - 0.5
    right_brow, left_brow = p[17:22], p[22:27]
    up = FOREHEAD * (p[17:27].mean(0) - p[31:36].mean(0))
    from_middle = np.linspace(-1, 1, 10)[:, None]
    forehead = p[17:27][::-1] + up * (1 - 0.5 * from_middle**2)

    def brow(points, eye):
        return [*points, *(points + BROW_THICKNESS * (eye.mean(0) - points.mean(0)))[::-1]]

    # Later shapes lie on top of earlier ones.
    shapes = (
        ("skin", [*p[:17], *forehead]),
        ("nose", p[[27, 31, 32, 33, 34, 35]]),
        ("right_brow", brow(right_brow, p[RIGHT_EYE])),
        ("left_brow", brow(left_brow, p[LEFT_EYE])),
        ("right_eye", p[RIGHT_EYE]),
        ("left_eye", p[LEFT_EYE]),
        ("inner_mouth", p[60:68]),
        ("upper_lip", p[[*range(48, 55), 64, 63, 62, 61, 60]]),
        ("lower_lip", p[[*range(54, 60), 48, 60, 67, 66, 65, 64]]),
    )
    canvas = Image.new("L", (3 * width, 3 * height))
    pen = ImageDraw.Draw(canvas)
    for name, corners in shapes:
        pen.polygon([tuple(corner) for corner in corners], fill=LAPA.index(name))
    return np.asarray(canvas)[1::3, 1::3]
