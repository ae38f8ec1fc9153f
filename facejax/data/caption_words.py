"""The words of captions that are written from labels; `facejax.data.captions` uses them.

A clause starts with one of LEADS, holds no comma and is negated by its lead alone.
"""

import re

LEADS = {"with": "without", "wearing": "not wearing", "who is": "who is not"}
"""How a clause starts -> how its negation does; others take "not" before them."""

# The words of an attribute's name -> clauses that mean it. The names are CelebA's (Liu et al. 2015,
# arXiv:1411.7766), and some that other sets have for the same.
CLAUSES = {
    "5 o clock shadow": ("with a five o'clock shadow", "with stubble"),
    "arched eyebrows": ("with arched eyebrows", "with curved eyebrows"),
    "attractive": ("who is attractive", "with attractive features"),
    "bags under eyes": ("with bags under the eyes", "with puffy lower eyelids"),
    "bald": ("who is bald", "with a bald head"),
    "bangs": ("with bangs", "with a fringe"),
    "beard": ("with a beard",),
    "big lips": ("with big lips", "with full lips"),
    "big nose": ("with a big nose", "with a large nose"),
    "black hair": ("with black hair",),
    "blond hair": ("with blond hair", "with fair hair"),
    "blurry": ("out of focus", "blurred"),
    "brown hair": ("with brown hair",),
    "bushy eyebrows": ("with bushy eyebrows", "with thick eyebrows"),
    "chubby": ("with a chubby face", "with a plump face"),
    "double chin": ("with a double chin",),
    "eyeglasses": ("wearing eyeglasses", "wearing glasses", "with spectacles"),
    "goatee": ("with a goatee",),
    "gray hair": ("with gray hair", "with grey hair"),
    "grey hair": ("with grey hair", "with gray hair"),
    "hat": ("wearing a hat",),
    "heavy makeup": ("wearing heavy makeup", "with a lot of makeup"),
    "high cheekbones": ("with high cheekbones",),
    "mouth open": ("with an open mouth", "with the mouth open"),
    "mouth slightly open": ("with the mouth slightly open", "with parted lips"),
    "moustache": ("with a moustache", "with a mustache"),
    "mustache": ("with a mustache", "with a moustache"),
    "narrow eyes": ("with narrow eyes",),
    "no beard": ("clean-shaven", "with a beardless face"),
    "oval face": ("with an oval face",),
    "pale skin": ("with pale skin", "with a pale complexion"),
    "pointy nose": ("with a pointy nose", "with a pointed nose"),
    "receding hairline": ("with a receding hairline", "with receding hair"),
    "rosy cheeks": ("with rosy cheeks", "with flushed cheeks"),
    "sideburns": ("with sideburns", "with side whiskers"),
    "smiling": ("smiling", "with a smile"),
    "straight hair": ("with straight hair",),
    "wavy hair": ("with wavy hair", "with curls in the hair"),
    "wearing earrings": ("wearing earrings", "with earrings"),
    "wearing hat": ("wearing a hat", "with a hat on"),
    "wearing lipstick": ("wearing lipstick", "with lipstick"),
    "wearing necklace": ("wearing a necklace", "with a necklace"),
    "wearing necktie": ("wearing a necktie", "wearing a tie"),
}

# Names of attributes that the subject itself can say -> (its part, the value there of +1).
SEX, YOUTH = "sex", "youth"
SUBJECTS = {
    "male": (SEX, 1),
    "man": (SEX, 1),
    "female": (SEX, -1),
    "woman": (SEX, -1),
    "young": (YOUTH, 1),
    "old": (YOUTH, -1),
}
NOUNS = {
    1: ("man", "guy", "gentleman"),
    -1: ("woman", "lady"),
    0: ("person", "individual", "human being"),
}
ADJECTIVES = {1: ("young", "youthful"), -1: ("older", "mature"), 0: ("",)}
OPENINGS = (
    "a photo of",
    "a portrait of",
    "a picture of",
    "a close-up of",
    "a headshot of",
    "the face of",
    "this is",
    "",
)

AGES = ("aged {}", "{} years old", "at the age of {}")

# The name of an expression -> the adjective for it.
EXPRESSIONS = {
    "anger": "angry",
    "contempt": "contemptuous",
    "disgust": "disgusted",
    "fear": "afraid",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprise": "surprised",
}

# FACS (Ekman, Friesen & Hager 2002): action unit -> what moves; intensities A to E in words.
UNITS = {
    1: "raising of the inner brows",
    2: "raising of the outer brows",
    4: "lowering of the brows",
    5: "raising of the upper eyelids",
    6: "raising of the cheeks",
    7: "tightening of the eyelids",
    9: "wrinkling of the nose",
    10: "raising of the upper lip",
    11: "deepening of the nasolabial folds",
    12: "pulling of the lip corners",
    13: "puffing of the cheeks",
    14: "dimpling",
    15: "lowering of the lip corners",
    16: "lowering of the lower lip",
    17: "raising of the chin",
    18: "puckering of the lips",
    20: "stretching of the lips",
    22: "funneling of the lips",
    23: "tightening of the lips",
    24: "pressing of the lips",
    25: "parting of the lips",
    26: "dropping of the jaw",
    27: "stretching of the mouth",
    28: "sucking of the lips",
    43: "closing of the eyes",
    45: "blinking",
    46: "winking",
}
INTENSITIES = {
    1: ("a trace of", "barely visible"),
    2: ("slight", "mild"),
    3: ("marked", "pronounced"),
    4: ("severe", "strong"),
    5: ("maximal", "extreme"),
}

_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[^\W_]+")


def words(name: str) -> str:
    """The lower-case words of a name: "Bags_Under_Eyes", "BagsUnderEyes" -> "bags under eyes"."""
    return " ".join(_WORD.findall(_HUMP.sub(" ", name))).lower() or "something"


def with_article(noun: str) -> str:
    """ "older man" -> "an older man"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def negated(clause: str) -> str:
    """What says the opposite of a clause."""
    for lead, opposite in LEADS.items():
        if clause.startswith(f"{lead} "):
            return opposite + clause.removeprefix(lead)
    return f"not {clause}"


def of_attribute(name: str) -> tuple[tuple[str, ...], str]:
    """Clauses that mean an attribute, and a plain one of its name's words alone."""
    plain = words(name)
    if plain in SUBJECTS:
        return (), f"who is {plain}"
    participle = plain.split()[0].endswith("ing")
    return CLAUSES.get(plain, ()), plain if participle else f"with {plain}"


def of_expression(name: str) -> tuple[tuple[str, ...], str]:
    """Clauses that mean an expression class, and a plain one of its name's words alone."""
    plain = words(name)
    known = EXPRESSIONS.get(plain, plain)
    good = f"looking {known}", f"with {with_article(known)} expression"
    return good, f"with the expression {plain}"


def of_unit(number: int, intensity: int) -> tuple[str, ...]:
    """Clauses that mean an action unit of an intensity 1 to 5 (A to E), or -1: it is at rest."""
    moved = UNITS.get(number, f"action unit {number}")
    if intensity < 0:
        return f"without {moved}", f"with no {moved}"
    return tuple(f"with {word} {moved}" for word in INTENSITIES[intensity])
