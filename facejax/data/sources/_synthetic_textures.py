"""The textures of presentation attacks, painted over synthetic faces, many pictures at a time.

Pictures are f32[n, 3, size, size] in [0, 1], maps of pixels [n, size, size], parameters [n, 1, 1].
As in `_synthetic_shape`, only operations that round the same way everywhere touch pixels: waves are
made of polynomials.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np

from facejax.data.sources._synthetic_shape import bump

_TILE = 256
_PIXEL = np.float32(1 / 64)  # unit of pitches and widths


@cache
def _tile() -> np.ndarray:
    """White noise f32[256, 256], mean 0 and deviation 1, about normal."""
    rng = np.random.Generator(np.random.PCG64(1))
    return ((rng.random((4, _TILE, _TILE)).sum(0) - 2) * 3**0.5).astype(np.float32)


def speckle(offset_x: np.ndarray, offset_y: np.ndarray, size: int, grain=1.0) -> np.ndarray:
    """White noise f32[n, size, size], in cells of `grain` pixels, from offsets [n, 1, 1]."""
    at = np.arange(size, dtype=np.float32)
    columns = (offset_x * _TILE + at[None, None] / grain).astype(np.int32) & (_TILE - 1)
    rows = (offset_y * _TILE + at[None, :, None] / grain).astype(np.int32) & (_TILE - 1)
    return _tile()[rows, columns]


def blurred(rgb: np.ndarray) -> np.ndarray:
    """The mean over 3 x 3 pixels, edges repeated."""
    for axis in (-2, -1):
        padded = np.concatenate(
            [rgb.take([0], axis), rgb, rgb.take([rgb.shape[axis] - 1], axis)], axis
        )
        n = rgb.shape[axis]
        parts = [padded.take(range(k, k + n), axis) for k in range(3)]
        rgb = (parts[0] + parts[1] + parts[2]) * np.float32(1 / 3)
    return rgb


def _wave(t: np.ndarray) -> np.ndarray:
    """A smooth wave of period 1 between -1 and 1, highest at whole numbers."""
    t = np.abs(2 * (t - np.floor(t)) - 1)
    return 2 * t * t * (3 - 2 * t) - 1


def _clip(value: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(value, 0), 1)


def _mix(a: np.ndarray, b: np.ndarray | float, cover: np.ndarray) -> np.ndarray:
    """Lays colours b over pictures a where the map `cover` says."""
    return a + cover[:, None] * (b - a)


@dataclass(frozen=True)
class Scene:
    """The live pictures, and where things are on them.

    Attributes:
        rgb: f32[n, 3, size, size].
        x: f32[1, 1, size], pixel centres in [0, 1]; `y` f32[1, size, 1].
        along: f32[n, size, size], coordinates turned by the look's angle; `across` too.
        u: f32[n, size, size], coordinates of the face, in distances between the eyes from the
            middle between them; `v` downwards.
        chin: f32[n, 1, 1], v of the chin; `mouth_u`, `mouth_v` of the mouth; `half` the face's
            half width at the ears.
    """

    rgb: np.ndarray
    x: np.ndarray
    y: np.ndarray
    along: np.ndarray
    across: np.ndarray
    u: np.ndarray
    v: np.ndarray
    chin: np.ndarray
    mouth_u: np.ndarray
    mouth_v: np.ndarray
    half: np.ndarray

    @classmethod
    def of(cls, rgb: np.ndarray, landmarks: np.ndarray, p: SimpleNamespace) -> "Scene":
        """Measures pictures f32[n, 3, size, size] by their landmarks f32[n, 68, 2]."""
        size = rgb.shape[-1]
        at = ((np.arange(size) + 0.5) / size).astype(np.float32)
        x, y = at[None, None], at[None, :, None]
        points = (landmarks + np.float32(0.5)) / np.float32(size)
        px, py = (points[..., k][:, :, None, None] for k in (0, 1))
        right = (px[:, 36] + px[:, 39]) / 2, (py[:, 36] + py[:, 39]) / 2
        left = (px[:, 42] + px[:, 45]) / 2, (py[:, 42] + py[:, 45]) / 2
        dx, dy = left[0] - right[0], left[1] - right[1]
        middle = (left[0] + right[0]) / 2, (left[1] + right[1]) / 2
        scale = dx * dx + dy * dy

        def to_face(x, y):
            x, y = x - middle[0], y - middle[1]
            return (x * dx + y * dy) / scale, (y * dx - x * dy) / scale

        mouth = to_face((px[:, 48] + px[:, 54]) / 2, (py[:, 51] + py[:, 57]) / 2)
        ears = to_face(px[:, 0], py[:, 0])[0], to_face(px[:, 16], py[:, 16])[0]
        u, v = to_face(x, y)
        return cls(
            rgb=rgb,
            x=x,
            y=y,
            along=p.angle_cos * x + p.angle_sin * y,
            across=p.angle_cos * y - p.angle_sin * x,
            u=u,
            v=v,
            chin=to_face(px[:, 8], py[:, 8])[1],
            mouth_u=mouth[0],
            mouth_v=mouth[1],
            half=(ears[1] - ears[0]) / 2,
        )

    def edge(self, distance: np.ndarray) -> np.ndarray:
        """Coverage from a signed distance in face units (inside positive), over about a pixel."""
        return _clip(0.5 + distance * (0.3 * self.rgb.shape[-1]))

    def outside(self, border: np.ndarray, p: SimpleNamespace) -> np.ndarray:
        """Coverage of what lies outside a tilted rectangle, `border` pixels of 64 from edges."""
        x, y = self.x - 0.5, self.y - 0.5
        across, down = p.tilt_cos * x + p.tilt_sin * y, p.tilt_cos * y - p.tilt_sin * x
        inside = 0.5 - border * _PIXEL - np.maximum(np.abs(across), np.abs(down))
        return _clip(0.5 - inside * self.rgb.shape[-1])

    def mask(self, square: np.ndarray | float) -> np.ndarray:
        """Signed distance from the rim of a mask over the face; `square` moves oval to box."""
        top = np.float32(-0.85)
        bottom = self.chin + np.float32(0.05)
        x = self.u / (self.half * np.float32(0.97))
        y = (self.v - (top + bottom) / 2) / ((bottom - top) / 2)
        oval, box = np.sqrt(x * x + y * y), np.maximum(np.abs(x), np.abs(y)) * np.float32(1.12)
        return 1 - (oval + square * (box - oval))

    def eyes(self, radius: np.ndarray, narrow: np.ndarray | float) -> np.ndarray:
        """Signed distance from the rims of two holes about the eyes."""
        x, y = np.abs(self.u) - np.float32(0.5), self.v * narrow
        return radius - np.sqrt(x * x + y * y)


def _screened(s: Scene, p: SimpleNamespace, hard: float) -> np.ndarray:
    """The picture in dots of ink: each channel's screen is a third of a period further on."""
    pitch = p.pitch * _PIXEL
    out = []
    for k in range(3):
        a = s.along / pitch + p.phase_x + np.float32(k / 3)
        b = s.across / pitch + p.phase_y + np.float32(k / 3)
        screen = np.float32(0.5) + np.float32(0.24) * (_wave(a) + _wave(b))
        out.append(_clip(0.5 + hard * (s.rgb[:, k] - screen)))
    return np.stack(out, 1)


def _print(s: Scene, p: SimpleNamespace) -> np.ndarray:
    ink = (p.ink * np.minimum(p.strength, 1))[:, None]
    paper = np.stack([p.paper_r, (p.paper_r + p.paper_b) / 2, p.paper_b], 1)
    rgb = (s.rgb + ink * (_screened(s, p, 2.5) - s.rgb)) * paper
    border = s.outside(p.border, p)
    rim = border * (1 - border) * 2
    return _mix(_mix(rgb, paper, border), np.float32(0.3), rim)


def _screen(s: Scene, p: SimpleNamespace) -> np.ndarray:
    bent = s.along + p.bend * s.across * s.across
    fine = s.x / (p.stripe * _PIXEL) + p.phase_y
    light = np.stack(
        [
            1
            + np.float32(0.22) * p.strength * _wave(bent / (p.pitch * _PIXEL) + p.phase_x + third)
            + np.float32(0.16) * p.strength * _wave(fine + third)
            for third in np.float32([0, 1 / 3, 2 / 3])
        ],
        1,
    )
    rgb = s.rgb * light * np.float32(0.85) + np.float32(0.06)
    away = (s.x - p.place_x) ** 2 + ((s.y - p.place_y) * np.float32(1.4)) ** 2
    glare = bump(away / (p.glare * p.glare))
    rgb = _mix(rgb, np.float32(1), np.float32(0.7) * glare)
    frame = s.outside(p.border, p)
    inner = s.outside(p.border + 1, p) * (1 - frame)
    return _mix(_mix(rgb, np.float32(0.75), np.float32(0.6) * inner), np.float32(0.04), frame)


def _paper_mask(s: Scene, p: SimpleNamespace) -> np.ndarray:
    rim = s.mask(p.square)
    holes = s.eyes(p.hole, p.narrow)
    fold = p.angle_cos * s.u + p.angle_sin * s.v
    second = p.angle_cos * (s.v - np.float32(0.4)) - p.angle_sin * s.u
    # Facets between two folds, each lit by itself, and a light line where the paper is creased.
    facets = np.where(fold > 0, 1, -1) * p.crease + np.where(second > 0, 0.6, -0.6) * p.crease
    line = bump((fold * 16) ** 2) + bump((second * 16) ** 2)
    printed = np.float32(0.55) * _screened(s, p, 2.0) + np.float32(0.45) * s.rgb
    paper = (printed * np.float32(0.75) + np.float32(0.2)) * (1 + facets * p.strength)[:, None]
    paper = _mix(paper, np.float32(0.95), np.float32(0.6) * np.minimum(line, 1))
    paper = _mix(paper, np.float32(0.97), _clip(1 - np.abs(rim - np.float32(0.05)) * 18))
    inside = s.rgb * np.float32(0.55)
    cover = s.edge(rim)
    cut = s.edge(holes)
    rgb = _mix(_mix(s.rgb, paper, cover), inside, cut)
    rgb = _mix(rgb, np.float32(0.95), cover * _clip(1 - np.abs(holes + np.float32(0.05)) * 16))
    shadow = _clip(1 - np.abs(rim + np.float32(0.09)) * 12) * (1 - cover)
    return rgb * (1 - np.float32(0.5) * shadow)[:, None]


def _silicone_mask(s: Scene, p: SimpleNamespace) -> np.ndarray:
    rim = s.mask(0.0)
    holes = s.eyes(p.seam, 1.5)
    lips = (s.u - s.mouth_u) * np.float32(0.75), (s.v - s.mouth_v) * np.float32(2.0)
    slit = p.seam * np.float32(0.8) - np.sqrt(lips[0] * lips[0] + lips[1] * lips[1])
    soft = s.rgb
    for _ in range(8):  # one pigment all over: what is small in a face is lost
        soft = blurred(soft)
    pitch = p.pitch * _PIXEL
    pores = _wave(s.along / pitch + p.phase_x) * _wave(s.across / pitch + p.phase_y)
    skin = soft * (1 + np.float32(0.22) * p.strength * pores)[:, None]
    for side, high in ((-0.55, 0.55), (0.5, 0.6), (0.0, -0.5)):
        x = s.u - np.float32(side) - np.float32(0.3) * (p.place_x - 0.5)
        y = s.v - np.float32(high) - np.float32(0.3) * (p.place_y - 0.5)
        shine = bump((x * x + y * y) / (p.spot * p.spot))
        skin = _mix(skin, np.float32(1), p.gloss * p.strength * shine)
    opening = np.maximum(s.edge(holes), s.edge(slit))
    cover = s.edge(rim) * (1 - opening) * p.smooth
    rgb = _mix(s.rgb, skin, cover)
    for seam in (holes, slit, rim):
        rgb = rgb * (1 - np.float32(0.65) * _clip(1 - np.abs(seam) * 10))[:, None]
    return rgb


def _dark(s: Scene, p: SimpleNamespace) -> np.ndarray:
    x, y = s.x - np.float32(0.2) - np.float32(0.6) * p.place_x, s.y - np.float32(0.5) * p.place_y
    lit = np.float32(0.10) + np.float32(0.22) * bump((x * x + y * y) / (p.spot * p.spot))
    size = s.rgb.shape[-1]
    noise = np.stack(
        [
            speckle((p.phase_x + np.float32(k * 0.31)) % 1, p.phase_y, size, p.grain * size / 64)
            for k in range(3)
        ],
        1,
    )
    bands = p.band * _wave(s.across / (p.pitch * _PIXEL) + p.phase_x)
    level = np.float32(0.25) * (p.noise * p.strength)[:, None]
    lift = np.float32(0.08) + np.float32(0.4) * bands
    return s.rgb * lit[:, None] + level * noise + lift[:, None]


def _tampered_id(s: Scene, p: SimpleNamespace) -> np.ndarray:
    pitch, length = p.pitch * _PIXEL, p.length * _PIXEL
    swing = p.wave * _PIXEL * _wave(s.along / length + p.phase_x)
    one = _clip(3 * _wave((s.across + swing) / pitch + p.phase_y) - 2)
    two = _clip(3 * _wave((s.across - swing) / pitch + p.phase_y) - 2)
    # The photo that was pasted: a rectangle about the face, off in tone, its edges lifted.
    box = np.minimum(p.width - np.abs(s.u), np.minimum(s.v + 1, s.chin + np.float32(0.3) - s.v))
    pasted = s.edge(box)
    washed = s.rgb * np.float32(0.55) + np.float32(0.35)
    tinted = s.rgb * np.float32(0.9)
    rgb = _mix(washed, tinted, pasted)
    lines = np.maximum(one, two) * (np.float32(0.55) - np.float32(0.3) * pasted) * p.strength
    colour = np.array([0.25, 0.45, 0.55], np.float32)[None, :, None, None]
    rgb = _mix(rgb, colour, _clip(lines))
    rgb = _mix(rgb, np.float32(1), np.float32(0.8) * _clip(1 - np.abs(box - np.float32(0.03)) * 22))
    rgb = rgb * (1 - np.float32(0.5) * _clip(1 - np.abs(box + np.float32(0.06)) * 18))[:, None]
    # A stamp over one corner of it: two rings.
    x, y = s.x - np.float32(0.75), s.y - np.float32(0.65) - np.float32(0.2) * p.place_y
    r = np.sqrt(x * x + y * y) / _PIXEL
    rings = np.maximum(_clip(1.2 - np.abs(r - p.ring)), _clip(1.2 - np.abs(r - p.ring + 3)))
    return _mix(rgb, np.array([0.5, 0.2, 0.4], np.float32)[None, :, None, None], 0.7 * rings)


def _moved(rgb: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Moves maps [n, size, size] by whole pixels of 64, [n, 1, 1] each, edges repeated."""
    size = rgb.shape[-1]
    at = np.arange(size)
    row, column = (
        np.clip(grid - np.rint(d * (size / 64)).astype(np.int64), 0, size - 1)
        for grid, d in ((at[None, :, None], dy), (at[None, None], dx))
    )
    return rgb[np.arange(len(rgb))[:, None, None], row, column]


def _reprint(s: Scene, p: SimpleNamespace) -> np.ndarray:
    size = s.rgb.shape[-1]
    block = p.block * _PIXEL
    row, column = (
        np.minimum(((np.floor(at / block) + 0.5) * block * size).astype(np.int64), size - 1)
        for at in (s.y, s.x)
    )
    coarse = s.rgb[np.arange(len(s.rgb))[:, None, None], :, row, column].transpose(0, 3, 1, 2)
    plates = [
        _moved(coarse[:, 0], p.shift_x, p.shift_y),
        coarse[:, 1],
        _moved(coarse[:, 2], -p.shift_x, -p.shift_y),
    ]
    rgb = np.stack(plates, 1)
    steps = np.floor(rgb * p.levels[:, None] + np.float32(0.5)) / p.levels[:, None]
    rgb = rgb + np.float32(0.7) * (steps - rgb)
    bands = _clip(2 * _wave(s.across / (p.pitch * _PIXEL) + p.phase_y) - 1)
    return _mix(rgb, np.float32(0.85), np.float32(0.45) * p.strength * bands)


def _cutout(s: Scene, p: SimpleNamespace) -> np.ndarray:
    ahead = p.angle_cos * s.u + p.angle_sin * (s.v - np.float32(0.35)) - p.start
    slipped = np.stack([_moved(s.rgb[:, k], p.slip, -p.slip / 2) for k in range(3)], 1)
    pitch = p.pitch * _PIXEL
    weave = _wave(s.along / pitch + p.phase_x) * _wave(s.across / pitch + p.phase_y)
    piece = slipped * np.float32(0.8) + np.float32(0.12)
    piece = piece * (1 + np.float32(0.22) * p.strength * weave)[:, None]
    open_ = np.where(p.hole > 0.1, s.eyes(p.hole, 1.3), -1)
    rim = np.minimum(np.minimum(ahead, s.mask(0.3) + np.float32(0.25)), -open_)
    shadow = p.shadow * _clip(1 - np.abs(rim + np.float32(0.1)) * 8)
    rgb = s.rgb * (1 - shadow)[:, None]
    rgb = _mix(rgb, piece, s.edge(rim))
    return _mix(rgb, np.float32(0.98), np.float32(0.9) * _clip(1 - np.abs(rim - 0.04) * 18))


TEXTURES: dict[str, Callable[[Scene, SimpleNamespace], np.ndarray]] = {
    "print": _print,
    "screen": _screen,
    "paper_mask": _paper_mask,
    "silicone_mask": _silicone_mask,
    "dark": _dark,
    "tampered_id": _tampered_id,
    "reprint": _reprint,
    "cutout": _cutout,
}
"""Attack -> what makes pictures of it."""
