"""The factors behind a synthetic face: which there are, their ranges, and how one face draws them.

A factor is a group of parameters that vary together; a parameter is one number. Everything that
makes a person is in `identity`; every other factor is drawn for each image anew.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
HAIR_COLOURS = ("black", "brown", "blond", "red")
COLUMNS = 40  # uniforms set aside per factor, so that a new parameter moves no other factor


@dataclass(frozen=True)
class Param:
    """How a uniform number in [0, 1) becomes a parameter.

    Attributes:
        low: value at 0.
        high: value at 1.
        neutral: value while the factor is held; None means the middle of the range.
        classes: above 0, the value is a class number, evenly drawn.
        share: above 0, the value is 1.0 in this share of the faces and 0.0 in the others.
    """

    low: float = 0.0
    high: float = 1.0
    neutral: float | None = None
    classes: int = 0
    share: float = 0.0

    def value(self, uniform: np.ndarray) -> np.ndarray:
        """Maps uniforms f64[n] to parameters f64[n]."""
        if self.classes:
            return np.floor(uniform * self.classes)
        if self.share:
            return (uniform < self.share).astype(np.float64)
        return self.low + (self.high - self.low) * uniform

    def held(self) -> float:
        """The value while the factor is held."""
        if self.neutral is not None:
            return self.neutral
        return 0.0 if self.classes or self.share else (self.low + self.high) / 2


# Lengths of `identity` are in half head heights, or half face widths where they are horizontal;
# see `_synthetic_shape`. Angles are in degrees, colours in [0, 1].
FACTORS: dict[str, dict[str, Param]] = {
    "identity": {
        "face_width": Param(0.65, 0.90),
        "jaw": Param(-0.18, 0.28),
        "cheek": Param(-0.07, 0.10),
        "forehead": Param(-0.08, 0.08),
        "eye_level": Param(0.01, 0.13),
        "eye_gap": Param(0.34, 0.51),
        "eye_width": Param(0.16, 0.24),
        "eye_height": Param(0.050, 0.105),
        "eye_tilt": Param(-0.22, 0.32),
        "iris": Param(0.085, 0.115),
        "brow_gap": Param(0.14, 0.26),
        "brow_length": Param(0.18, 0.30),
        "brow_thickness": Param(0.018, 0.068),
        "brow_arch": Param(0.00, 0.12),
        "brow_slope": Param(-0.08, 0.12),
        "nose_length": Param(0.22, 0.39),
        "nose_width": Param(0.12, 0.29),
        "nose_bridge": Param(0.055, 0.11),
        "nose_height": Param(0.10, 0.23),
        "lip_gap": Param(0.15, 0.25),
        "mouth_width": Param(0.22, 0.43),
        "upper_lip": Param(0.03, 0.085),
        "lower_lip": Param(0.05, 0.12),
        "cupid_bow": Param(0.0, 0.5),
        "hairline": Param(-0.66, -0.44),
        "hairline_curve": Param(-0.35, 0.5),
        "ear_size": Param(0.15, 0.25),
        "chin_cleft": Param(-1.0, 1.0),
        "mole_a_u": Param(-0.65, 0.65),
        "mole_a_v": Param(0.15, 0.60),
        "mole_a_size": Param(-0.04, 0.07),
        "mole_b_u": Param(-0.65, 0.65),
        "mole_b_v": Param(-0.35, 0.75),
        "mole_b_size": Param(-0.04, 0.07),
        "freckles": Param(-1.0, 1.0),
    },
    "age": {"age": Param(18.0, 80.0, neutral=30.0)},
    "expression": {
        "expression": Param(classes=len(EXPRESSIONS)),
        "intensity": Param(0.5, 1.0, neutral=1.0),
    },
    "pose": {
        "pitch": Param(-10.00, 10.00),
        "yaw": Param(-24.00, 24.00),
        "roll": Param(-10.00, 10.00),
    },
    "framing": {
        "centre_x": Param(0.47, 0.53),
        "centre_y": Param(0.47, 0.52),
        "scale": Param(0.37, 0.42),
    },
    "gaze": {"gaze_x": Param(-0.06, 0.06), "gaze_y": Param(-0.012, 0.012)},
    "light": {
        "azimuth": Param(-70.0, 70.0),
        "elevation": Param(-10.0, 60.0),
        "ambient": Param(0.42, 0.68),
        "warmth": Param(-0.04, 0.08),
    },
    "background": {
        "back_r": Param(0.08, 0.92),
        "back_g": Param(0.08, 0.92),
        "back_b": Param(0.08, 0.92),
        "back_slope_x": Param(-0.35, 0.35),
        "back_slope_y": Param(-0.35, 0.35),
        "back_texture": Param(0.0, 0.40),
        "back_tint": Param(-0.2, 0.2),
        "back_zoom": Param(0.10, 0.5),
        "back_offset_x": Param(0.0, 1.0, neutral=0.0),
        "back_offset_y": Param(0.0, 1.0, neutral=0.0),
    },
    "clothing": {
        "cloth_r": Param(0.10, 0.75),
        "cloth_g": Param(0.10, 0.75),
        "cloth_b": Param(0.10, 0.75),
        "neckline": Param(0.0, 0.5),
        "stripes": Param(share=0.3),
        "stripe_width": Param(0.10, 0.25),
        "shoulders": Param(0.20, 0.45),
    },
    "skin": {"melanin": Param(0.0, 1.0, neutral=0.35), "undertone": Param(-0.02, 0.04)},
    "hair_colour": {
        "hair_colour": Param(classes=len(HAIR_COLOURS), neutral=1.0),
        "hair_lightness": Param(0.75, 1.25),
        "greying": Param(0.3, 1.0),
    },
    "hair": {
        "bald": Param(share=0.10),
        "bangs": Param(share=0.25),
        "hair_length": Param(0.0, 1.0, neutral=0.3),
        "hair_volume": Param(0.05, 0.22),
        "parting": Param(-0.6, 0.6),
    },
    "facial_hair": {
        "beard": Param(share=0.2),
        "moustache": Param(share=0.2),
        "beard_density": Param(0.55, 0.95),
    },
    "glasses": {
        "glasses": Param(share=0.2),
        "frame_width": Param(0.022, 0.040),
        "lens_height": Param(0.75, 1.05),
        "frame_colour": Param(0.02, 0.45),
    },
    "hat": {
        "hat": Param(share=0.12),
        "hat_r": Param(0.05, 0.90),
        "hat_g": Param(0.05, 0.90),
        "hat_b": Param(0.05, 0.90),
        "hat_line": Param(-0.50, -0.34),
    },
    "camera": {
        "exposure": Param(0.82, 1.15),
        "contrast": Param(0.85, 1.15),
        "grain": Param(0.0, 0.06, neutral=0.0),
        "grain_x": Param(0.0, 1.0, neutral=0.0),
        "grain_y": Param(0.0, 1.0, neutral=0.0),
    },
}

PARAMS = {name: param for group in FACTORS.values() for name, param in group.items()}


def _uniforms(seed: int, *key: int) -> np.ndarray:
    """Uniforms f64[factors, COLUMNS] of the stream `key`."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *key))))
    return rng.random((len(FACTORS), COLUMNS))


def draw(
    seed: int, people: np.ndarray, streams: np.ndarray, shots: np.ndarray, varies: Collection[str]
) -> dict[str, np.ndarray]:
    """Draws the parameters of faces, each of which depends on its own row alone.

    Args:
        seed: of the whole set.
        people: i64[n], whose geometry the face has.
        streams: i64[n], with `shots` the stream of the factors that are drawn per image.
        shots: i64[n], which picture of the stream it is.
        varies: names of the factors that vary; the others are held at their neutral value.

    Returns:
        Parameter name -> f64[n].
    """
    person = np.empty((len(people), len(FACTORS), COLUMNS))
    shot = np.empty_like(person)
    for row, (who, stream, number) in enumerate(zip(people, streams, shots)):
        person[row] = _uniforms(seed, 0, int(who))
        shot[row] = _uniforms(seed, 1, int(stream), int(number))
    # Pushed towards both ends: distinctive faces are easier to tell apart than average ones.
    person = person * person * (3 - 2 * person)
    values = {}
    for row, (factor, group) in enumerate(FACTORS.items()):
        uniforms = person if factor == "identity" else shot
        for column, (name, param) in enumerate(group.items()):
            # Held people are one person, not a face between all people, so identity is looked up.
            if factor in varies or factor == "identity":
                values[name] = param.value(uniforms[:, row, column])
            else:
                values[name] = np.full(len(people), param.held())
    return values
