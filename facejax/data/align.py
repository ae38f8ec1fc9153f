"""Face facts that live in one place: landmarks, templates, region labels, colour and normalisation.

Left and right are the subject's own: the subject's right eye is on the viewer's left.
"""

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
