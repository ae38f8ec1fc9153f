"""What one sees in a synthetic face, as binary attributes and as a sentence."""

import numpy as np

from facejax.data.sources._synthetic_factors import EXPRESSIONS, HAIR_COLOURS, PARAMS

# Attribute -> how a caption says it. The phrases are distinct, and none is part of another.
PHRASES = {
    "smiling": "a smile",
    "mouth_open": "an open mouth",
    "eyeglasses": "eyeglasses",
    "hat": "a hat",
    "beard": "a beard",
    "moustache": "a moustache",
    "bald": "no hair on top",
    "bangs": "bangs",
    "long_hair": "long hair",
    "black_hair": "black hair",
    "brown_hair": "brown hair",
    "blond_hair": "blond hair",
    "red_hair": "red hair",
    "grey_hair": "grey hair",
    "young": "a young look",
    "big_nose": "a big nose",
    "thick_brows": "thick eyebrows",
    "arched_brows": "arched eyebrows",
    "narrow_eyes": "narrow eyes",
    "big_lips": "full lips",
    "wide_face": "a wide face",
    "square_jaw": "a square jaw",
    "receding_hairline": "a high forehead",
    "pale_skin": "pale skin",
    "striped_clothing": "striped clothing",
}
ATTRIBUTES = tuple(PHRASES)

_OPENINGS = (
    "a photo of a person with",
    "a portrait of someone with",
    "a picture of a face with",
    "a close-up of a person with",
)
_PLAIN = ("a photo of a person", "a portrait of someone", "a picture of a face")

# Parameter -> what it is called when it is moved up, and down; others are "more" and "less" of it.
_MOVES = {
    "age": ("older", "younger"),
    "yaw": ("turned to the right", "turned to the left"),
    "pitch": ("looking up", "looking down"),
    "roll": ("leaning to the right", "leaning to the left"),
    "melanin": ("with darker skin", "with paler skin"),
    "hair_length": ("with longer hair", "with shorter hair"),
    "exposure": ("in a brighter picture", "in a darker picture"),
}
_SHARES = {"bald": "bald", "glasses": "eyeglasses", "stripes": "striped_clothing"}
_CHANGES = ("the same person {}", "now {}", "{}", "but {}")


def attributes(p: dict[str, np.ndarray]) -> np.ndarray:
    """What is visible, i8[n, len(ATTRIBUTES)], +1 or -1.

    Args:
        p: parameters from `_synthetic_shape.derive`.
    """
    hat, hair = p["hat"] > 0, p["bald"] == 0
    grey = p["grey"] > 0.5
    seen = {
        "smiling": p["corners"] > 0.03,
        "mouth_open": p["gap"] > 0.06,
        "eyeglasses": p["glasses"] > 0,
        "hat": hat,
        "beard": p["beard"] > 0,
        "moustache": p["moustache"] > 0,
        "bald": ~hair & ~hat,
        "bangs": hair & ~hat & (p["bangs"] > 0),
        "long_hair": hair & (p["hair_length"] > 0.6),
        "grey_hair": hair & grey,
        "young": p["age"] < 40,
        "big_nose": p["nose_width"] + p["nose_height"] > 0.44,
        "thick_brows": p["brow_thickness"] > 0.054,
        "arched_brows": p["brow_arch"] > 0.085,
        "narrow_eyes": p["eye_height"] < 0.060,
        "big_lips": p["upper_lip"] + p["lower_lip"] > 0.16,
        "wide_face": p["face_width"] > 0.84,
        "square_jaw": p["jaw"] > 0.14,
        "receding_hairline": hair & ~hat & (p["bangs"] == 0) & (p["hairline"] < -0.60),
        "pale_skin": p["melanin"] < 0.15,
        "striped_clothing": p["stripes"] > 0,
    }
    for k, colour in enumerate(HAIR_COLOURS):
        seen[f"{colour}_hair"] = hair & ~grey & (p["hair_colour"] == k)
    columns = np.stack([seen[name] for name in ATTRIBUTES], 1)
    return np.where(columns, 1, -1).astype(np.int8)


def caption(row: np.ndarray, number: int) -> str:
    """A sentence that names each attribute that is +1 and no other.

    Args:
        row: i8[len(ATTRIBUTES)].
        number: of the picture; it picks the wording and the order.
    """
    phrases = [PHRASES[name] for name, value in zip(ATTRIBUTES, row) if value > 0]
    if not phrases:
        return _PLAIN[number % len(_PLAIN)]
    turn = number // len(_OPENINGS) % len(phrases)
    phrases = phrases[turn:] + phrases[:turn]
    listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)
    return f"{_OPENINGS[number % len(_OPENINGS)]} {listed}"


def change(name: str, before: float, after: float, number: int) -> str:
    """How a picture changes when its parameter `name` does.

    Args:
        number: of the picture; it picks the wording.
    """
    up, words = after > before, name.replace("_", " ")
    if name == "expression":
        what = f"with the expression of {EXPRESSIONS[int(after)]}"
    elif name == "hair_colour":
        what = f"with {PHRASES[f'{HAIR_COLOURS[int(after)]}_hair']}"
    elif PARAMS[name].share:
        what = f"{'with' if up else 'without'} {PHRASES[_SHARES.get(name, name)]}"
    else:
        what = _MOVES.get(name, (f"with more {words}", f"with less {words}"))[not up]
    return _CHANGES[number % len(_CHANGES)].format(what)
