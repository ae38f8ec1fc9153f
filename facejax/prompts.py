"""What to call a live face and the attacks that pretend to be one, by class."""

from collections.abc import Mapping

ATTACKS: Mapping[str, tuple[str, ...]] = {
    "live": ("a live face", "a real person in front of the camera", "a genuine face"),
    "print": ("a printed photo of a face", "a face on a sheet of photo paper"),
    "screen": ("a face replayed on a screen", "a phone display that shows a face"),
    "paper_mask": ("a paper mask over a face", "someone wearing a printed mask"),
    "silicone_mask": ("a silicone mask of a face", "a person in a rubber mask"),
    "dark": ("a face in a dark environment", "a person barely lit at night"),
    "tampered_id": ("a tampered photo on an identity card", "a pasted portrait in a passport"),
    "reprint": ("a low-quality reprint of a face", "a badly copied portrait"),
    "cutout": ("a face partly covered by a cut photo", "a person behind a piece of a picture"),
}
"""facejax's own. CLIPC8's are not public, nor whether live faces are one of its eight classes."""
