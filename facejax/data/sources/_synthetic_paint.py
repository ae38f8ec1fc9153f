"""Paints synthetic faces: layers over layers, each with a soft edge, and the region map with them.

Works on whole pixel grids of a few faces at a time, [n, size, size]. As in `_synthetic_shape`, only
operations that round the same way everywhere touch pixels.
"""

from functools import cache
from types import SimpleNamespace

import numpy as np

from facejax.data.align import LAPA
from facejax.data.sources import _synthetic_shape as shape

_TILE = 512
_LIGHT_SKIN, _MID_SKIN, _DARK_SKIN = (0.98, 0.82, 0.73), (0.80, 0.52, 0.35), (0.29, 0.17, 0.11)
_HAIR = np.array(  # in the order of HAIR_COLOURS
    [(0.06, 0.05, 0.05), (0.26, 0.15, 0.08), (0.82, 0.64, 0.36), (0.52, 0.20, 0.09)], np.float32
)
_GREY = (0.66, 0.65, 0.64)


@cache
def _tile() -> np.ndarray:
    """Cloudy noise f32[512, 512] that repeats, mean 0, about -1 to 1: four octaves of a lattice."""
    rng = np.random.Generator(np.random.PCG64(0))
    tile = np.zeros((_TILE, _TILE))
    for octave, weight in ((16, 1.0), (32, 0.6), (64, 0.4), (128, 0.3)):
        lattice = rng.random((octave, octave)) - 0.5
        at = np.arange(_TILE) * (octave / _TILE)
        cell, t = at.astype(np.int64), at % 1
        t = t * t * (3 - 2 * t)
        rows = lattice[cell] * (1 - t)[:, None] + lattice[(cell + 1) % octave] * t[:, None]
        tile += weight * (rows[:, cell] * (1 - t) + rows[:, (cell + 1) % octave] * t)
    return (tile * 1.2).astype(np.float32)


@cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x f32[1, 1, size] and y f32[1, size, 1] of the pixel centres, in [0, 1]."""
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return at[None, None], at[None, :, None]


def _noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cloudy noise of period 1 at any coordinates above 0 that broadcast."""
    rows = (y * _TILE).astype(np.int32) & (_TILE - 1)
    columns = (x * _TILE).astype(np.int32) & (_TILE - 1)
    return _tile().ravel()[rows * _TILE + columns]


def _clip(value: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(value, 0), 1)


def _rgb(*channels: np.ndarray) -> np.ndarray:
    """Per-face channels [n, 1, 1] to a colour [n, 3, 1, 1]."""
    return np.stack(channels, 1)


def _fixed(*channels: float) -> np.ndarray:
    """The same colour for all faces, f32[1, 3, 1, 1]."""
    return np.array(channels, np.float32)[None, :, None, None]


class _Canvas:
    """Pictures under way: rgb f32[n, 3, size, size] and regions u8[n, size, size]."""

    def __init__(self, rgb: np.ndarray, pixel: np.ndarray):
        self.rgb, self.pixel = rgb, pixel
        self.regions = np.zeros((len(rgb), *rgb.shape[2:]), np.uint8)

    def edge(self, distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
        """Coverage from a signed distance (inside positive), over about `softness` pixels."""
        return _clip(0.5 + distance / (self.pixel * softness))

    def over(self, cover: np.ndarray, colour: np.ndarray, label: str | np.ndarray | None = None):
        """Lays a colour over the pictures; pixels that it mostly covers take the label."""
        self.rgb += cover[:, None] * (colour - self.rgb)
        if label is not None:
            code = LAPA.index(label) if isinstance(label, str) else label
            np.copyto(self.regions, code, where=cover > 0.5, casting="unsafe")

    def shade(self, amount: np.ndarray):
        """Darkens by a share in [0, 1]."""
        self.rgb *= (1 - amount)[:, None]


def _mix(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    return a + t * (b - a)


def _skin_colour(p: SimpleNamespace) -> np.ndarray:
    m = p.melanin
    parts = [
        (1 - m) * (1 - m) * light + 2 * m * (1 - m) * middle + m * m * dark
        for light, middle, dark in zip(_LIGHT_SKIN, _MID_SKIN, _DARK_SKIN)
    ]
    return _rgb(parts[0] + p.undertone, parts[1], parts[2] - p.undertone)


def _hair_colour(p: SimpleNamespace) -> np.ndarray:
    base = _HAIR[p.hair_colour.astype(np.int64).ravel()][:, :, None, None]
    return _mix(base * p.hair_lightness[:, None], _fixed(*_GREY), p.grey[:, None])


def _background(p: SimpleNamespace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cloud = _noise(p.back_offset_x + x * p.back_zoom, p.back_offset_y + y * p.back_zoom)
    light = p.back_slope_x * (x - 0.5) + p.back_slope_y * (y - 0.5) + p.back_texture * cloud
    tint = p.back_tint * cloud
    grey = (p.back_r + p.back_g + p.back_b) / 3
    r, g, b = (grey + 0.45 * (k - grey) + light for k in (p.back_r, p.back_g, p.back_b))
    return np.stack([r + tint, g, b - tint], 1)


def _light(p: SimpleNamespace, bumps: np.ndarray, face: SimpleNamespace, size: int) -> np.ndarray:
    """How bright skin is, f32[n, size, size]: Lambert's law on the sphere with its relief."""
    slope = 0.5 * size * p.scale
    dx, dy = np.zeros_like(bumps), np.zeros_like(bumps)
    dx[:, :, 1:-1] = (bumps[:, :, 2:] - bumps[:, :, :-2]) * slope
    dy[:, 1:-1] = (bumps[:, 2:] - bumps[:, :-2]) * slope
    nx, ny, nz = face.x * 0.85 - 0.75 * dx, face.y * 0.8 - 0.75 * dy, face.z + 0.25
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    cosine = (nx * p.light_x + ny * p.light_y + nz * p.light_z) / length
    lambert = np.maximum(cosine + 0.25, 0) * 0.85
    gloss = np.maximum(cosine, 0)
    gloss = gloss * gloss
    gloss = gloss * gloss
    return p.ambient * (0.75 + 0.25 * nz / length) + (1 - p.ambient) * lambert + 0.06 * gloss


def _relief(p: SimpleNamespace, face: SimpleNamespace) -> np.ndarray:
    """Height of the face over the sphere: nose, sockets, cheeks, lips and chin."""
    u, v, a = face.u, face.v, face.a
    socket = shape.bump(((a - p.eye_gap * 0.92) * 3.6) ** 2 + ((v - p.eye_level + 0.03) * 5.5) ** 2)
    cheek = shape.bump(((a - 0.50) * 2.6) ** 2 + ((v - p.nose_tip + 0.06) * 3.2) ** 2)
    lips = shape.bump((u * 2.4) ** 2 + ((v - p.mouth_level) * 5.0) ** 2)
    chin = shape.bump((u * 3.0) ** 2 + ((v - p.mouth_level - 0.24) * 6.0) ** 2)
    cleft = np.maximum(p.chin_cleft - 0.3, 0) * shape.bump(
        (u * 16) ** 2 + ((v - p.mouth_level - 0.25) * 8) ** 2
    )
    return (
        1.3 * shape.nose_height(p, u, v)
        - 0.07 * socket
        + (0.05 + 0.3 * np.maximum(p.corners, 0)) * cheek
        + 0.04 * lips
        + 0.05 * chin
        - 0.04 * cleft
    )


def _body(c: _Canvas, p: SimpleNamespace, x: np.ndarray, y: np.ndarray, skin: np.ndarray) -> None:
    """Neck and clothing; they stay upright while the head turns."""
    x, y = (x - p.centre_x) / p.scale, (y - p.centre_y) / p.scale
    half = 0.50 * p.face_width + 0.06 * np.maximum(y - 0.8, 0)
    shadow = 0.72 + 0.25 * _clip((y - 1.0) * 2.5) + 0.10 * x * p.light_x
    neck = np.minimum(half - np.abs(x), y - 0.3)
    c.over(c.edge(neck), skin * shadow[:, None], "background")
    stripe = np.abs((x / p.stripe_width) % 2 - 1) > 0.5
    fabric = (1 - 0.35 * p.stripes * stripe) * (0.92 + 0.25 * x * p.light_x)
    shoulder = y - 1.02 - p.shoulders * x * x + 0.10 * shape.bump((x * 2.2) ** 2)
    collar = y - 1.10 - p.neckline * (1 - np.abs(x) / half)
    colour = _rgb(p.cloth_r, p.cloth_g, p.cloth_b) * fabric[:, None]
    c.over(c.edge(np.minimum(shoulder, collar)), colour, "background")


def _ears(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace, skin: np.ndarray) -> None:
    """Ears, on the outline; an ear that turns away goes behind the head."""
    for side, hidden in ((-1, p.sin_yaw < -0.2), (1, p.sin_yaw > 0.2)):
        x = face.x - side * (1.0 - 0.25 * np.abs(p.sin_yaw))
        y = face.y - 0.14 - 0.3 * p.sin_pitch
        r = np.sqrt(x * x * 2.6 + y * y)
        cover = c.edge(p.ear_size - r) * ~hidden
        inner = 0.62 + 0.28 * _clip(r / p.ear_size * 2 - 0.7)
        c.over(cover, skin * (p.ambient * 0.5 + 0.5 * inner)[:, None], "skin")


def _skin_marks(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace) -> None:
    """Moles, freckles, wrinkles and the creases of age."""
    u, v, a = face.u, face.v, face.a
    for mu, mv, radius in (
        (p.mole_a_u, p.mole_a_v, p.mole_a_size),
        (p.mole_b_u, p.mole_b_v, p.mole_b_size),
    ):
        du, dv = (u - mu) * p.face_width, v - mv
        c.shade(0.65 * (radius > 0.015) * c.edge(radius - np.sqrt(du * du + dv * dv)))
    spots = _clip(_noise(u * 0.65 + 2, v * 0.65 + 2) * 4 - 1.2)
    cheeks = shape.bump(((a - 0.33) * 2.2) ** 2 + ((v - p.nose_tip + 0.08) * 4) ** 2)
    c.shade(0.55 * np.maximum(p.freckles - 0.4, 0) * spots * cheeks)
    brow = _clip(1.4 - 2.2 * a) * shape.bump(((v - p.brow_level + 0.18) * 5.5) ** 2)
    lines = np.abs((v * 12 + 0.8 * u * u) % 2 - 1)
    c.shade(0.38 * p.wrinkles * brow * _clip(lines * 3 - 1.6))
    # From the wing of the nose past the corner of the mouth: deeper with age and with a smile.
    t = _clip((v - p.nose_tip) / (p.lip_gap + 0.06))
    fold = np.abs(a - p.nose_width - 0.03 - (p.mouth_half - p.nose_width + 0.09) * t)
    depth = 0.30 * p.wrinkles + 1.2 * np.maximum(p.corners, 0) + 0.15 * p.wrinkle
    along = (t * 2 - 1) ** 2
    c.shade(depth * shape.bump((fold * 16) ** 2) * shape.bump(along * along))
    bag = np.abs(v - p.eye_level - p.eye_down - 0.075 + 0.3 * (a - p.eye_gap) ** 2)
    c.shade(
        0.32 * p.wrinkles * shape.bump((bag * 22) ** 2) * shape.bump(((a - p.eye_gap) * 5) ** 2)
    )
    frown = shape.bump(((a - 0.07) * 20) ** 2) * shape.bump(((v - p.eye_level + 0.1) * 9) ** 2)
    c.shade(0.35 * np.maximum(p.wrinkle, 4 * np.maximum(-p.brow_inner, 0)) * frown)


def _nose(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace) -> None:
    u, v, a = face.u, face.v, face.a
    half = shape.nose_half(p, v)
    inside = np.minimum(half + 0.02 - a, np.minimum(v - p.eye_level + 0.08, p.nose_tip + 0.10 - v))
    np.copyto(c.regions, LAPA.index("nose"), where=inside > 0)
    side = (a - p.nose_width) * 11
    c.shade(0.30 * shape.bump(side * side + ((v - p.nose_tip - 0.01) * 9) ** 2))
    c.shade(0.22 * shape.bump((u / p.nose_width) ** 2 + ((v - p.nose_tip - 0.10) * 14) ** 2))
    hole = ((a - 0.5 * p.nose_width) / (0.34 * p.nose_width)) ** 2
    hole += ((v - p.nose_tip - 0.045) / 0.032) ** 2
    c.shade(0.60 * _clip(1.5 - hole))


def _eyes(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace, skin: np.ndarray) -> None:
    u, v, a = face.u, face.v, face.a
    t = (a - p.eye_gap) / p.eye_width
    middle, upper, lower = shape.eye_lids(p, t)
    crease = upper - 0.045
    near = shape.bump((t * 0.8) ** 2)
    c.shade(0.30 * shape.bump((v - crease) ** 2 * 900) * near)
    c.shade(0.18 * shape.bump((v - middle) ** 2 * 90) * near)
    cover = c.edge(np.minimum(v - upper, lower - v))
    white = _mix(np.float32(0.55), np.float32(0.93), _clip((v - upper) * 14))
    label = np.where(u < 0, LAPA.index("right_eye"), LAPA.index("left_eye"))
    c.over(cover, (white * (0.55 + 0.45 * face.light))[:, None], label)
    x = (a - p.eye_gap) - np.where(u < 0, -p.gaze_x, p.gaze_x)
    y = (v - p.eye_level - p.gaze_y + 0.2 * p.eye_up) / p.face_width
    r = np.sqrt(x * x + y * y)
    ring = 0.6 + 0.9 * _clip(1.2 - r / p.iris)
    c.over(cover * c.edge(p.iris - r), _fixed(0.24, 0.15, 0.09) * ring[:, None])
    c.shade(0.9 * cover * c.edge(0.45 * p.iris - r))
    glint = c.edge(0.30 * p.iris - np.sqrt((x + 0.03) ** 2 + (y + 0.035) ** 2))
    c.over(0.85 * cover * glint, np.float32(1.0))
    lash = c.edge(0.016 - np.abs(v - upper + 0.006)) * (np.abs(t) < 1.08)
    c.over(0.80 * lash, skin * 0.12)
    c.shade(0.25 * c.edge(0.010 - np.abs(v - lower - 0.006)) * (np.abs(t) < 1))


def _brows(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace, hair: np.ndarray) -> None:
    t = (face.a - shape.brow_centre(p)) / p.brow_length
    line, half = shape.brow_line(p, t)
    distance = np.minimum(half - np.abs(face.v - line), (1 - np.abs(t)) * p.brow_length)
    cover = 0.88 * c.edge(distance, 1.3)
    label = np.where(face.u < 0, LAPA.index("right_brow"), LAPA.index("left_brow"))
    c.over(cover, hair * (0.55 * face.light)[:, None], label)


def _mouth(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace, skin: np.ndarray) -> None:
    u, v = face.u, face.v
    t = u / p.mouth_half
    t2 = np.minimum(np.abs(t), 1.5)
    top, inner_top, inner_bottom, bottom = shape.lip_lines(p, t2)
    red = _fixed(0.62, 0.22, 0.22)
    lip = _mix(skin * red * 1.5, red, np.float32(0.35))
    ends = (1 - np.abs(t)) * p.mouth_half
    between = np.minimum(v - inner_top, inner_bottom - v)
    inside = c.edge(np.minimum(ends, between)) * (p.gap > 0.005)
    teeth = _clip((inner_top + 0.055 - v) * 30) * _clip((0.9 - np.abs(t)) * 6)
    lips = c.edge(np.minimum(ends, np.minimum(v - top, bottom - v)))
    above = v < (inner_top + inner_bottom) / 2
    # A sheen on the lower lip; the upper one turns away from the light.
    sheen = 1.02 + 0.22 * shape.bump((t * 1.6) ** 2 + ((v - (inner_bottom + bottom) / 2) * 30) ** 2)
    tone = np.where(above, 0.88, sheen) * face.light
    label = np.where(above, LAPA.index("upper_lip"), LAPA.index("lower_lip"))
    c.over(0.85 * lips, lip * tone[:, None], label)
    c.over(inside, _fixed(0.20, 0.06, 0.06), "inner_mouth")
    c.over(0.95 * inside * teeth, (0.88 * face.light)[:, None])
    seam = c.edge(0.012 - np.abs(v - (inner_top + inner_bottom) / 2)) * (np.abs(t) < 1.04)
    c.shade(0.55 * seam * (p.gap <= 0.06))
    c.shade(0.28 * shape.bump((u * 3.2) ** 2 + ((v - bottom - 0.05) * 14) ** 2))


def _facial_hair(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace, hair: np.ndarray) -> None:
    u, v, a = face.u, face.v, face.a
    fibre = 0.80 + 0.5 * _noise(u * 0.6 + 2, v * 0.35 + 2)
    colour = hair * (0.75 * face.light * fibre)[:, None]
    chin = v - p.mouth_level - 0.8 * p.lower_lip - 0.6 * p.gap - 0.02 + 0.8 * a * a
    cover = c.edge(np.minimum(chin, v - 0.2), 3.0) * face.cover
    c.over(p.beard * p.beard_density * cover, colour)
    t = np.minimum(a / (p.mouth_half * 1.05), 1.5)
    top = shape.lip_lines(p, t)[0]
    band = np.minimum(top + 0.01 - v, v - p.nose_tip - 0.085 - 0.10 * t * t)
    band = np.minimum(band, (1 - t) * p.mouth_half)
    c.over(p.moustache * p.beard_density * c.edge(band, 1.6), colour)


def _hair(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace, hair: np.ndarray) -> None:
    """The hair over the front of the head and its outline, drawn over the face."""
    u, v, a = face.u, face.v, face.a
    has = 1 - p.bald
    side = np.maximum(a - 0.58, 0)
    line = p.hairline + p.hairline_curve * (a * a - 0.1) + 2.6 * side * side
    strand = _noise((u - p.parting * (1 + v)) * 0.45 + 2, v * 0.1 + 2)
    fringe = np.minimum(p.brow_level - 0.05 + 0.08 * strand, 0.1) + 1.2 * side * side
    line = np.where(p.bangs > 0, np.maximum(line, fringe), line)
    # Hair on the skull, and the volume that stands out of its outline and ends above the ears.
    front = np.maximum(line + 0.03 * strand - v, -0.12 - face.w)
    reach = p.hair_volume * _clip(1.0 - 1.2 * (face.y + 0.1 - 0.5 * p.hair_length))
    skull = np.minimum(1 + reach - face.r, np.where(face.r < 1, front, 1))
    skull = np.minimum(skull, 0.30 + 0.5 * p.hair_length - face.y)
    gleam = 0.62 + 0.45 * face.light + 0.30 * strand
    gleam *= 1 - 0.25 * shape.bump((u - p.parting) ** 2 * 300) * (v < p.hairline)
    c.over(has * c.edge(skull, 1.4), hair * gleam[:, None], "hair")


def _long_hair(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace, hair: np.ndarray) -> None:
    """Hair that falls behind the head and onto the shoulders."""
    end = 0.2 + 1.76 * np.maximum(p.hair_length - 0.35, 0)
    # An ellipse about the ears above, and below it strands that narrow towards their ends.
    above, below = np.minimum(face.y - 0.1, 0), np.maximum(face.y - 0.1, 0)
    width = 1.05 + 0.8 * p.hair_volume - 0.22 * below * below
    across = np.sqrt(face.x * face.x + 0.9 * above * above)
    distance = np.minimum(width - across, end - face.y - 0.15 * face.x * face.x)
    distance = np.where(p.hair_length > 0.35, distance, -1)
    strand = _noise(face.x * 0.45 + 2, face.y * 0.08 + 2)
    c.over((1 - p.bald) * c.edge(distance, 1.4), hair * (0.6 + 0.3 * strand)[:, None], "hair")


def _glasses(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace) -> None:
    v, a = face.v, face.a
    x, y = a - p.eye_gap, (v - p.eye_level - 0.02) / (p.face_width * p.lens_height)
    radius = np.minimum(p.eye_gap - 0.08, 0.31)
    # A rounded square: the fourth power of the distance, without a logarithm.
    x2, y2 = x * x, y * y
    r = np.sqrt(np.sqrt(x2 * x2 + y2 * y2))
    ring = p.frame_width - np.abs(r - radius)
    bridge = np.minimum(
        p.frame_width * 0.8 - np.abs(v - p.eye_level + 0.02), p.eye_gap - radius - a
    )
    temple = np.minimum(p.frame_width - np.abs(v - p.eye_level + 0.03), a - p.eye_gap - radius)
    frame = np.maximum(ring, np.maximum(bridge, temple))
    show = p.glasses * face.cover
    c.over(0.12 * show * c.edge(radius - r), np.float32(0.85))
    c.over(show * c.edge(frame), _rgb(p.frame_colour, p.frame_colour, p.frame_colour), "skin")


def _hat(c: _Canvas, p: SimpleNamespace, face: SimpleNamespace) -> None:
    line = p.hat_line + 0.12 * face.u * face.u
    dome = np.minimum(1.17 - face.r, line - face.v)
    fabric = (0.55 + 0.5 * face.light) * (1 - 0.35 * (line - face.v < 0.14))
    fabric *= 1 + 0.15 * _noise(face.u * 0.35 + 2, face.v * 0.35 + 2)
    c.over(p.hat * c.edge(dome), _rgb(p.hat_r, p.hat_g, p.hat_b) * fabric[:, None], "hair")


def paint(params: dict[str, np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Paints faces.

    Args:
        params: from `_synthetic_shape.derive`.
        size: side in pixels.

    Returns:
        u8[n, size, size, 3] RGB, and regions u8[n, size, size] in the LaPa scheme.
    """
    p = shape.shaped(params, 2, "float32")
    x, y = _grid(size)
    pixel = 1 / (size * p.scale * (0.5 + 0.5 * p.face_width))
    face = SimpleNamespace()
    face.x, face.y = shape.to_plane(p, x, y)
    face.u, face.v, face.w, face.z = shape.look_up(p, face.x, face.y)
    face.r = np.sqrt(face.x * face.x + face.y * face.y)
    face.a = np.abs(face.u)
    face.light = _light(p, _relief(p, face), face, size)

    skin, hair = _skin_colour(p), _hair_colour(p)
    c = _Canvas(_background(p, x, y), pixel)
    face.cover = c.edge(1 - face.r)
    _long_hair(c, p, face, hair)
    _body(c, p, x, y, skin)
    _ears(c, p, face, skin)
    tone = 1 + 0.03 * _noise(face.u * 0.25 + 2, face.v * 0.25 + 2)
    c.over(face.cover, skin * (tone * face.light)[:, None], "skin")
    blush = shape.bump(((face.a - 0.5) * 3.2) ** 2 + ((face.v - p.nose_tip + 0.04) * 4) ** 2)
    c.rgb[:, 1:] *= (1 - 0.10 * blush)[:, None]
    _skin_marks(c, p, face)
    _nose(c, p, face)
    _facial_hair(c, p, face, hair)
    _mouth(c, p, face, skin)
    _eyes(c, p, face, skin)
    _brows(c, p, face, hair)
    _hair(c, p, face, hair)
    _glasses(c, p, face)
    _hat(c, p, face)

    grain = p.grain * _noise(p.grain_x + x * (size * 0.027), p.grain_y + y * (size * 0.027))
    rgb = (c.rgb * (1 + p.warmth[:, None] * _fixed(1, 0, -1)) - 0.45) * p.contrast[:, None]
    rgb = (rgb + 0.45) * p.exposure[:, None] + grain[:, None]
    image = (_clip(rgb) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)), c.regions
