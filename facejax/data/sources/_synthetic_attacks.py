"""Presentation attacks: which there are, how a picture draws one, what it looks like and is called.

Every picture, live or not, then passes the same second camera: exposure, colour balance, blur and
noise. Before it, an attack's channels get the tones of the live picture that it was made from, by
their quantiles, so that brightness and colours tell little and textures have to (as a camera with
automatic exposure would see to). The textures are in `_synthetic_textures`.

Each attack comes in `VARIANTS` looks, whose pitches, angles and the like differ; those of
`HELD_OUT` can be kept from training, so that evaluation sees looks that training has not.
"""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from facejax.data.sources import _synthetic_textures as textures

LIVE = "live"
VARIANTS = 6
HELD_OUT = (2, 5)
LOOKS = {  # option -> the variants that it allows
    "all": tuple(range(VARIANTS)),
    "seen": tuple(v for v in range(VARIANTS) if v not in HELD_OUT),
    "unseen": HELD_OUT,
}

_UNIFORMS = 40  # per picture, so that a new parameter moves no other
_FIRST_OF_LOOK = 16
_CHUNK = 2**15  # pixels at once, as in painting
_RANKS = (0.02, 0.15, 0.35, 0.5, 0.65, 0.85, 0.98)  # quantiles that the tones are matched at

# Attack -> parameter -> its value in each variant, and by how much a picture may depart from it.
# Pitches, widths and shifts are in pixels of a picture of 64, angles in degrees.
_TABLE: dict[str, dict[str, tuple[tuple[float, ...], float]]] = {
    "print": {
        "pitch": ((2.6, 3.3, 4.0, 3.6, 5.0, 2.9), 0.1),
        "angle": ((15, 45, 75, 0, 30, 60), 3),
        "ink": ((0.75, 0.9, 0.8, 0.6, 0.85, 0.7), 0.08),
        "border": ((3.0, 5.0, 2.0, 4.0, 2.5, 6.0), 0.5),
        "paper_r": ((0.97, 0.98, 0.93, 0.95, 0.99, 0.90), 0.02),
        "paper_b": ((0.93, 0.98, 0.86, 0.99, 0.90, 0.95), 0.02),
    },
    "screen": {
        "pitch": ((9.0, 14.0, 7.0, 11.0, 18.0, 8.0), 0.4),
        "angle": ((10, 80, 35, 55, -20, -60), 4),
        "bend": ((0.3, 0.6, 0.9, -0.4, -0.8, 0.5), 0.1),
        "stripe": ((2.0, 2.3, 3.0, 2.6, 3.4, 2.15), 0.04),
        "border": ((2.0, 3.5, 1.5, 0.5, 3.0, 4.0), 0.4),
        "glare": ((0.20, 0.12, 0.28, 0.16, 0.24, 0.10), 0.03),
    },
    "paper_mask": {
        "angle": ((0, 12, -20, 6, -9, 25), 3),
        "crease": ((0.12, 0.20, 0.16, 0.10, 0.24, 0.18), 0.03),
        "square": ((0.0, 0.4, 0.2, 0.6, 0.1, 0.5), 0.05),
        "hole": ((0.34, 0.42, 0.38, 0.30, 0.46, 0.40), 0.02),
        "narrow": ((1.6, 1.2, 2.2, 1.8, 1.4, 1.0), 0.1),
        "pitch": ((2.4, 3.0, 2.7, 3.4, 2.1, 3.8), 0.1),
    },
    "silicone_mask": {
        "angle": ((20, -35, 60, 5, -70, 40), 5),
        "smooth": ((0.85, 0.95, 0.9, 0.8, 1.0, 0.88), 0.04),
        "gloss": ((0.35, 0.5, 0.6, 0.3, 0.45, 0.55), 0.05),
        "spot": ((0.20, 0.28, 0.16, 0.34, 0.24, 0.12), 0.02),
        "seam": ((0.44, 0.38, 0.50, 0.41, 0.47, 0.35), 0.02),
        "pitch": ((4.6, 6.0, 5.2, 3.9, 7.0, 8.0), 0.2),
    },
    "dark": {
        "angle": ((0, 90, 45, 10, 80, -45), 4),
        "pitch": ((5.0, 8.0, 6.0, 11.0, 4.0, 7.0), 0.3),
        "grain": ((1.0, 2.0, 1.0, 2.0, 1.0, 2.0), 0.0),
        "noise": ((0.10, 0.12, 0.14, 0.09, 0.13, 0.11), 0.01),
        "band": ((0.05, 0.03, 0.06, 0.04, 0.02, 0.05), 0.01),
        "spot": ((0.7, 0.5, 0.6, 0.9, 0.45, 0.8), 0.05),
    },
    "tampered_id": {
        "angle": ((0, 8, -6, 3, -10, 12), 2),
        "pitch": ((4.0, 5.5, 4.7, 6.5, 3.6, 7.5), 0.2),
        "wave": ((1.2, 2.0, 2.8, 1.6, 2.4, 3.4), 0.2),
        "length": ((16.0, 24.0, 20.0, 30.0, 13.0, 36.0), 1.0),
        "width": ((1.05, 1.25, 1.15, 1.35, 0.95, 1.30), 0.04),
        "ring": ((9.0, 13.0, 11.0, 15.0, 8.0, 17.0), 0.5),
    },
    "reprint": {
        "angle": ((0, 90, 5, 85, -4, 94), 1),
        "pitch": ((6.0, 8.0, 7.0, 10.0, 5.0, 12.0), 0.3),
        "shift_x": ((2.0, -1.0, -2.0, 1.0, 0.0, 2.0), 0.0),
        "shift_y": ((0.0, 2.0, 1.0, -2.0, 2.0, -2.0), 0.0),
        "block": ((2.0, 3.0, 2.0, 3.0, 2.0, 3.0), 0.0),
        "levels": ((5.0, 7.0, 6.0, 8.0, 5.0, 6.0), 0.0),
    },
    "cutout": {
        "angle": ((90, 0, 45, 180, -90, -45), 6),
        "start": ((0.15, 0.05, 0.10, 0.08, -0.45, 0.20), 0.05),
        "pitch": ((2.5, 3.2, 2.8, 3.6, 2.2, 4.0), 0.1),
        "hole": ((0.0, 0.36, 0.30, 0.40, 0.0, 0.34), 0.02),
        "slip": ((3.0, -4.0, 5.0, -3.0, 4.0, -5.0), 0.0),
        "shadow": ((0.5, 0.35, 0.45, 0.6, 0.4, 0.55), 0.05),
    },
}
ATTACKS = tuple(_TABLE)
CLASSES = (LIVE, *ATTACKS)
"""Names of the classes, in the order of their numbers: 0 is live."""

# What a caption calls each; no phrase holds " with ", after which captions list attributes.
PHRASES = {
    LIVE: (
        "a live face",
        "a real person in front of the camera",
        "a genuine face of someone present",
        "a bona fide live portrait",
    ),
    "print": (
        "a printed photo of a face",
        "a face on a sheet of photo paper",
        "a paper photograph held up to the camera",
        "a halftone print of a portrait",
    ),
    "screen": (
        "a face replayed on a screen",
        "a phone display that shows a face",
        "a portrait filmed from a monitor",
        "a screen replay of a person",
    ),
    "paper_mask": (
        "a paper mask over a face",
        "a person behind a paper face whose eyes are cut out",
        "a cut and folded paper mask",
        "someone wearing a printed mask",
    ),
    "silicone_mask": (
        "a silicone mask of a face",
        "a person in a rubber mask",
        "a glossy three-dimensional mask",
        "a smooth artificial face",
    ),
    "dark": (
        "a face in a dark environment",
        "a person barely lit at night",
        "a noisy portrait in the dark",
        "a face in a dim room",
    ),
    "tampered_id": (
        "a tampered photo on an identity card",
        "a pasted portrait in a passport",
        "an identity document whose photo was replaced",
        "a forged photo of an identity card",
    ),
    "reprint": (
        "a low-quality reprint of a face",
        "a coarse copy of a photo, its colours out of register",
        "a badly copied portrait",
        "a blurred and banded reprint of a person",
    ),
    "cutout": (
        "a face partly covered by a cut photo",
        "a person behind a piece of a picture",
        "a partial photo held before the face",
        "a cut-out that hides part of a face",
    ),
}


def draw(
    seed: int,
    streams: np.ndarray,
    shots: np.ndarray,
    attacks: Sequence[str],
    live: float,
    look: str,
) -> dict[str, np.ndarray]:
    """Draws what each picture presents, from its own row alone.

    Args:
        seed: of the whole set.
        streams: i64[n], with `shots` the stream of the picture, as in drawing factors.
        shots: i64[n].
        attacks: names of those that occur, all as often.
        live: share of live pictures.
        look: a key of `LOOKS`.

    Returns:
        `attack` i64[n] class numbers, `variant` i64[n] and `uniforms` f64[n, 40].
    """
    uniforms = np.empty((len(streams), _UNIFORMS))
    for row, (stream, shot) in enumerate(zip(streams, shots)):
        key = np.random.SeedSequence((seed, 2, int(stream), int(shot)))
        uniforms[row] = np.random.Generator(np.random.PCG64(key)).random(_UNIFORMS)
    numbers = np.array([CLASSES.index(name) for name in attacks])
    allowed = np.array(LOOKS[look])
    kind = numbers[(uniforms[:, 1] * len(numbers)).astype(np.int64)]
    return {
        "attack": np.where(uniforms[:, 0] < live, 0, kind),
        "variant": allowed[(uniforms[:, 2] * len(allowed)).astype(np.int64)],
        "uniforms": uniforms,
    }


def present(image: np.ndarray, landmarks: np.ndarray, drawn: dict[str, np.ndarray]) -> np.ndarray:
    """Shows live pictures as what was drawn for them, through the second camera.

    Args:
        image: u8[n, size, size, 3].
        landmarks: f32[n, 68, 2], iBUG scheme.
        drawn: from `draw`.

    Returns:
        u8[n, size, size, 3].
    """
    size = image.shape[1]
    step, out = max(1, _CHUNK // size**2), np.empty_like(image)
    for number, name in enumerate(CLASSES):
        rows = np.flatnonzero(drawn["attack"] == number)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            u = drawn["uniforms"][some]
            rgb = image[some].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
            if number:
                p = _parameters(name, drawn["variant"][some], u)
                shown = textures.TEXTURES[name](textures.Scene.of(rgb, landmarks[some], p), p)
                rgb = _toned(np.clip(shown, 0, 1), rgb)
            out[some] = _camera(rgb, u)
    return out


def caption(attack: int, number: int, sentence: str) -> str:
    """What a caption says of an attack and of the attributes that `sentence` lists.

    Args:
        attack: class number.
        number: of the picture; it picks the words.
        sentence: the caption of the live face.
    """
    phrases = PHRASES[CLASSES[attack]]
    _, said, listed = sentence.partition(" with ")
    return f"{phrases[number % len(phrases)]}{said}{listed}"


def _parameters(name: str, variant: np.ndarray, u: np.ndarray) -> SimpleNamespace:
    """The look's parameters as attributes f32[n, 1, 1], for maps of pixels."""
    values = {
        "phase_x": u[:, 3],
        "phase_y": u[:, 4],
        "strength": 0.75 + 0.4 * u[:, 5],
        "tilt": 8 * u[:, 6] - 4,
        "place_x": u[:, 7],
        "place_y": u[:, 8],
    }
    for column, (key, (levels, spread)) in enumerate(_TABLE[name].items(), _FIRST_OF_LOOK):
        values[key] = np.array(levels)[variant] + spread * (2 * u[:, column] - 1)
    for key in ("angle", "tilt"):
        radians = [math.radians(float(d)) for d in values[key]]
        values[f"{key}_cos"] = np.array([math.cos(a) for a in radians])
        values[f"{key}_sin"] = np.array([math.sin(a) for a in radians])
    return SimpleNamespace(**{k: v.astype(np.float32).reshape(-1, 1, 1) for k, v in values.items()})


def _toned(shown: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Maps each channel of `shown` so that its quantiles are those of `live`, f32[n, 3, S, S]."""
    out = np.empty_like(shown)
    ranks = [int(r * (shown[0, 0].size - 1)) for r in _RANKS]
    ends = [np.zeros((*shown.shape[:2], 1), np.float32), np.ones((*shown.shape[:2], 1), np.float32)]
    knots = []
    for pictures in (shown, live):
        ordered = np.sort(pictures.reshape(*pictures.shape[:2], -1), axis=-1)
        knots.append(np.concatenate([ends[0], ordered[..., ranks], ends[1]], -1))
    for i, j in np.ndindex(shown.shape[:2]):
        out[i, j] = np.interp(shown[i, j], knots[0][i, j], knots[1][i, j])
    return out


def _camera(rgb: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Exposure, colour balance, blur and noise, drawn alike for every class: u8[n, S, S, 3]."""

    def column(k: int, low: float, high: float) -> np.ndarray:
        return (low + (high - low) * u[:, k]).astype(np.float32)[:, None, None]

    size = rgb.shape[-1]
    soft = column(10, 0.0, 0.6)[:, None]
    rgb = rgb + soft * (textures.blurred(rgb) - rgb)
    exposure = column(11, 0.4, 1.2)
    gains = [exposure * column(12, 0.75, 1.25), exposure, exposure * column(13, 0.75, 1.25)]
    noise = column(14, 0.0, 0.03) * textures.speckle(column(8, 0, 1), column(9, 0, 1), size)
    rgb = rgb * np.stack(gains, 1) + noise[:, None]
    return (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)
