"""Procedural faces with every annotation: a test bed and the default data, not real faces.

Record i depends on the config and i alone, bit for bit, on any machine. It shows person
`first_identity + i % identities`, in picture number `i // identities` of that person. The person is
geometry (bones, features, moles); all else is drawn for each picture anew, colours among it.

Any factor (`FACTORS`) can be held at a neutral value while the others vary, without moving them:

    open(Config(hold=("background", "light")))      # everything else varies
    open(Config(vary=("pose",)))                    # one face, turning

To move one parameter of one face, edit what `factors` returns:

    values = factors(cfg, [7])
    records = render_factors(values | {"yaw": np.array([20.0])}, cfg.size)

With `move` the set does so by itself: of each face, one picture per parameter and level, in which
all else is the face's own. The fields `face`, `factor` and `level` say which it is. With `changes`
captions tell, of every picture but those of a parameter's last level, what leads to the next level;
`generated` is that picture and `target` its record.

With `clip` the set is short videos: records 2 * clip * c to 2 * clip * (c + 1) - 1 are two frames,
one after the other, of a scene with `clip` people, each as a crop. Between the frames people move
(`MOTION`); the background and the light are those of the scene, all else is the person's own.

With `crowd` records are the faces of pictures of several people, one picture after the other; the
fields `picture` and `name` say which it is and what the person is called, see `_synthetic_crowd`.

With `attacks` a share of the pictures shows a presentation attack on a liveness check, made of the
face that would have been there live; see `_synthetic_attacks`. Their field `attack` is the class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from facejax.data.records import Field, Record
from facejax.data.sources import _synthetic_attacks as presented
from facejax.data.sources import _synthetic_crowd as crowded
from facejax.data.sources import _synthetic_paint as paint
from facejax.data.sources import _synthetic_shape as shape
from facejax.data.sources import _synthetic_words as words
from facejax.data.sources._synthetic_factors import EXPRESSIONS, PARAMS, draw
from facejax.data.sources._synthetic_factors import FACTORS as _GROUPS
from facejax.errors import UserError, nearest

FACTORS = tuple(_GROUPS)
"""Names of the factors."""

ATTRIBUTES = words.ATTRIBUTES
"""Names of the binary attributes, in the order of the field."""

ATTACKS = presented.ATTACKS
"""Names of the presentation attacks."""

MOTION = ("pose", "expression", "gaze", "framing", "camera")
"""Factors that differ between two frames of a clip."""

SCENE = ("background", "light")
"""Factors that the people of a clip share."""

_FAR = 2**31
_CHUNK = 2**15  # pixels painted at once, so that the layers stay in the cache


@dataclass(frozen=True)
class Config:
    """What the set holds.

    Attributes:
        n: number of pictures.
        identities: number of people; each has about `n / identities` pictures.
        seed: another seed gives other people and other pictures.
        size: side of the pictures in pixels.
        first_identity: number of the first person; sets whose ranges do not overlap share nobody.
        vary: factors that vary; the others are held.
        hold: factors that are held although `vary` names them. While `identity` is held, every
            picture shows person `first_identity`; other factors have a neutral value.
        clip: people of a clip, or 0 for single pictures.
        move: parameter (`PARAMS`) -> levels that each face shows it at; none: faces as drawn. A
            face fills as many pictures, one after the other, as there are levels of all parameters.
        changes: what captions of `move` tell: how to get from a picture to its face's next level,
            in place of what is in it.
        crowd: people of a picture of several at most, or 0 for single pictures.
        strangers: share of the people of such pictures who have no name.
        attacks: presentation attacks that occur beside live faces, all as often; none: every
            picture is what it was without this option, and there is no field `attack`.
        live: share of live pictures, beside attacks.
        looks: "all" variants of each attack, those that are "seen", or those held out ("unseen").
    """

    n: int = 10_000
    identities: int = 500
    seed: int = 0
    size: int = 64
    first_identity: int = 0
    vary: tuple[str, ...] = FACTORS
    hold: tuple[str, ...] = ()
    clip: int = 0
    # A mapping has no hash; equality still compares it.
    move: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    changes: bool = False
    crowd: int = 0
    strangers: float = 0.2
    attacks: tuple[str, ...] = ()
    live: float = 0.5
    looks: str = "all"

    @classmethod
    def tiny(cls, root: str) -> "Config":
        """A few small faces; nothing is written beneath `root`."""
        return cls(n=12, identities=4, size=32)


class _Synthetic:
    """The source; it has no state, so any number of threads may read it."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        people = cfg.identities if "identity" in _varies(cfg) else 1
        self.fields = {
            "image": Field((), "uint8"),
            "identity": Field((), "int32", classes=people),
            "attributes": Field((len(ATTRIBUTES),), "int8", names=ATTRIBUTES),
            "regions": Field((), "uint8"),
            "landmarks": Field((68, 2), "float32"),
            "caption": Field((), "str"),
            "age": Field((), "float32"),
            "expression": Field((), "int32", classes=len(EXPRESSIONS), names=EXPRESSIONS),
            "intensity": Field((), "float32"),
            "pose": Field((3,), "float32"),
            "light": Field((3,), "float32"),
        }
        if cfg.clip:
            clips = -(-cfg.n // (2 * cfg.clip))
            self.fields["clip"] = Field((), "int32", classes=clips)
            self.fields["frame"] = Field((), "int32", classes=2)
        if cfg.move:
            names = tuple(cfg.move)
            faces, levels = -(-cfg.n // _steps(cfg)), max(map(len, cfg.move.values()))
            self.fields["face"] = Field((), "int32", classes=faces)
            self.fields["factor"] = Field((), "int32", classes=len(names), names=names)
            self.fields["level"] = Field((), "int32", classes=levels)
        if cfg.changes:
            self.fields["generated"] = Field((), "uint8")
            self.fields["target"] = Field((), "int32", classes=cfg.n)
        if cfg.crowd:
            pictures = int(_place(cfg, np.array([cfg.n - 1])).picture[0]) + 1
            people = range(crowded.known(cfg.identities, cfg.strangers))
            names = tuple(crowded.name(cfg.first_identity + p) for p in people)
            self.fields["picture"] = Field((), "int32", classes=pictures)
            self.fields["name"] = Field((), "int32", classes=len(names), names=names)
        if cfg.attacks:
            classes = presented.CLASSES
            self.fields["attack"] = Field((), "int32", classes=len(classes), names=classes)

    def __len__(self) -> int:
        return self.cfg.n

    def read(self, indices: Sequence[int]) -> list[Record]:
        columns = render(self.cfg, indices)
        return [
            {k: v[row].item() if v.ndim == 1 else v[row] for k, v in columns.items()}
            for row in range(len(indices))
        ]

    def identities(self) -> np.ndarray:
        """i32[n]."""
        person = _who(self.cfg, np.arange(self.cfg.n))[0] - self.cfg.first_identity
        return (person if "identity" in _varies(self.cfg) else np.zeros_like(person)).astype(
            np.int32
        )

    def name(self, index: int) -> str:
        person, shot = _who(self.cfg, np.array([index]))
        if self.cfg.move:
            name, level = _moves(self.cfg)[index % _steps(self.cfg)]
            return f"person {person[0]}, picture {shot[0]}, {name} {self.cfg.move[name][level]:g}"
        if self.cfg.crowd:
            return f"picture {shot[0]}, face {_place(self.cfg, np.array([index])).face[0]}"
        if not self.cfg.clip:
            return f"person {person[0]}, picture {shot[0]}"
        return f"person {person[0]}, clip {shot[0]}, frame {_frame(self.cfg, index)}"


def open(cfg: Config) -> _Synthetic:
    """Returns the source.

    Raises:
        UserError: a number that is too small, or an unknown factor.
    """
    least = {"n": 1, "identities": 1, "seed": 0, "size": 16, "first_identity": 0}
    for key, low in least.items():
        if getattr(cfg, key) < low:
            raise UserError(key, f"{getattr(cfg, key)} is too small", f"use at least {low}")
    if not 0 <= cfg.clip <= cfg.identities:
        what = f"{cfg.clip} people of {cfg.identities}"
        raise UserError("clip", what, "use at most `identities`, or 0 for pictures")
    if cfg.clip and cfg.move:
        raise UserError("move", "clips move by themselves", "leave out clip or move")
    if not 0 <= cfg.crowd <= cfg.identities:
        what = f"{cfg.crowd} people of {cfg.identities}"
        raise UserError("crowd", what, "use at most `identities`, or 0 for pictures")
    if cfg.crowd and (cfg.clip or cfg.move):
        raise UserError("crowd", "beside clips or moves", "leave out the others")
    if cfg.changes and not cfg.move:
        raise UserError("changes", "nothing moves", "set move")
    if not (0 <= cfg.strangers <= 1 and crowded.known(cfg.identities, cfg.strangers)):
        raise UserError("strangers", f"{cfg.strangers} leaves nobody with a name", "lower it")
    for name, levels in cfg.move.items():
        if len(levels) < 2:
            raise UserError(f"move.{name}", f"{len(levels)} levels", "give two or more")
    if not 0 <= cfg.live <= 1:
        raise UserError("live", f"{cfg.live} is not a share", "use a number from 0 to 1")
    named = {
        "vary": ("factor", cfg.vary, FACTORS),
        "hold": ("factor", cfg.hold, FACTORS),
        "move": ("parameter", cfg.move, tuple(PARAMS)),
        "attacks": ("attack", cfg.attacks, ATTACKS),
        "looks": ("looks", (cfg.looks,), tuple(presented.LOOKS)),
    }
    for key, (what, names, legal) in named.items():
        for name in names:
            if name not in legal:
                raise UserError(key, f"no {what} called '{name}'", nearest(name, legal))
    return _Synthetic(cfg)


def _varies(cfg: Config) -> set[str]:
    return set(cfg.vary) - set(cfg.hold)


def _steps(cfg: Config) -> int:
    """How many pictures in a row show one face."""
    return sum(map(len, cfg.move.values())) or 1


def _moves(cfg: Config) -> list[tuple[str, int]]:
    """Parameter and number of its level, for each of a face's pictures."""
    return [(name, level) for name, levels in cfg.move.items() for level in range(len(levels))]


def _who(cfg: Config, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Person and picture (or clip) numbers, i64[n] each, as if identity varied."""
    if cfg.crowd:
        place = _place(cfg, indices)
        return cfg.first_identity + place.person, place.picture
    indices = indices // _steps(cfg)
    if cfg.clip:
        clip = indices // (2 * cfg.clip)
        person = (clip * cfg.clip + indices % cfg.clip) % cfg.identities
        return cfg.first_identity + person, clip
    return cfg.first_identity + indices % cfg.identities, indices // cfg.identities


def _place(cfg: Config, indices: np.ndarray) -> crowded.Place:
    return crowded.places(cfg.seed, cfg.crowd, cfg.identities, indices)


def _frame(cfg: Config, indices: np.ndarray) -> np.ndarray:
    return indices // cfg.clip % 2


def factors(cfg: Config, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """Draws the parameters of records: name -> f64[n] (`PARAMS` has their ranges)."""
    indices = np.asarray(indices, np.int64)
    if indices.size and not (indices.min() >= 0 and indices.max() < cfg.n):
        raise IndexError(f"the set has {cfg.n} records")
    streams, shots = _who(cfg, indices)
    varies = _varies(cfg)
    people = streams if "identity" in varies else np.full_like(streams, cfg.first_identity)
    values = draw(cfg.seed, people, streams, shots, varies)
    if cfg.clip:
        # Streams and pictures that no person and no clip has.
        moved = draw(cfg.seed, people, streams, _FAR + 2 * shots + _frame(cfg, indices), varies)
        scene = draw(cfg.seed, people, np.full_like(streams, _FAR), shots, varies)
        values |= {name: moved[name] for factor in MOTION for name in _GROUPS[factor]}
        values |= {name: scene[name] for factor in SCENE for name in _GROUPS[factor]}
    for place, (name, level) in enumerate(_moves(cfg)):
        values[name][indices % _steps(cfg) == place] = cfg.move[name][level]
    return values


def render_factors(values: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Renders faces from their parameters, as `factors` returns them, changed at will.

    Args:
        values: name -> f64[n], every name of `PARAMS`.
        size: side of the pictures in pixels.

    Returns:
        `image` u8[n, size, size, 3], `regions` u8[n, size, size] (LaPa scheme; glasses and ears are
        skin, a hat is hair, neck and clothing are background), `landmarks` f32[n, 68, 2] (iBUG
        scheme, x and y in pixels, pixel centres at integers), `attributes` i8[n, A], `age` f32[n],
        `expression` i64[n], `intensity` f32[n], `pose` f32[n, 3] (pitch, yaw, roll in degrees:
        positive looks up, looks to the viewer's right, leans clockwise), `light` f32[n, 3] (unit
        vector towards the light: x right, y down, z to the viewer).

    Raises:
        KeyError: a parameter is missing.
    """
    given = {name: np.asarray(values[name], np.float64) for name in PARAMS}
    derived = shape.derive(given)
    n, step = len(given["yaw"]), max(1, _CHUNK // size**2)
    chunks = [
        paint.paint({k: v[start : start + step] for k, v in derived.items()}, size)
        for start in range(0, n, step)
    ]
    empty = np.zeros((0, size, size, 3), np.uint8), np.zeros((0, size, size), np.uint8)
    image, regions = (np.concatenate(parts) for parts in zip(empty, *chunks))
    return {
        "image": image,
        "regions": regions,
        "landmarks": shape.landmarks(derived, size),
        "attributes": words.attributes(derived),
        "age": given["age"].astype(np.float32),
        "expression": given["expression"].astype(np.int64),
        "intensity": given["intensity"].astype(np.float32),
        "pose": np.stack([given[k] for k in ("pitch", "yaw", "roll")], 1).astype(np.float32),
        "light": np.stack([derived[k] for k in ("light_x", "light_y", "light_z")], 1).astype(
            np.float32
        ),
    }


def render(cfg: Config, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """Renders records: what `render_factors` returns, `identity` i64[n] and `caption` str[n].

    With clips also `clip` and `frame`, with `move` `face`, `factor` and `level`, with changes
    `target`, -1 where there is none, and `generated` u8[n, size, size, 3], with a crowd `picture`
    and `name`, -1 for strangers, with attacks `attack`, i64[n] each but pictures.
    """
    indices = np.asarray(indices, np.int64)
    columns = render_factors(factors(cfg, indices), cfg.size)
    streams, shots = _who(cfg, indices)
    person = streams - cfg.first_identity
    if cfg.clip:
        columns |= {"clip": shots, "frame": _frame(cfg, indices)}
    if cfg.move:
        moved = [(list(cfg.move).index(name), level) for name, level in _moves(cfg)]
        factor, level = np.array(moved)[indices % _steps(cfg)].reshape(-1, 2).T
        columns |= {"face": indices // _steps(cfg), "factor": factor, "level": level}
    if cfg.crowd:
        named = crowded.known(cfg.identities, cfg.strangers)
        columns |= {"picture": shots, "name": np.where(person < named, person, -1)}
    columns["identity"] = person if "identity" in _varies(cfg) else np.zeros_like(person)
    sentences = [words.caption(row, int(i)) for row, i in zip(columns["attributes"], indices)]
    if cfg.changes:
        last = [level + 1 == len(cfg.move[name]) for name, level in _moves(cfg)]
        next_ = np.minimum(indices + 1, cfg.n - 1)
        there = ~np.array(last)[indices % _steps(cfg)] & (next_ > indices)
        after = render_factors(factors(cfg, next_), cfg.size)["image"]
        columns["target"] = np.where(there, next_, -1)
        columns["generated"] = np.where(there[:, None, None, None], after, columns["image"])
        sentences = [_change(cfg, int(i)) if told else "" for i, told in zip(indices, there)]
    if cfg.attacks:
        drawn = presented.draw(cfg.seed, streams, shots, cfg.attacks, cfg.live, cfg.looks)
        columns["attack"] = drawn["attack"]
        columns["image"] = presented.present(columns["image"], columns["landmarks"], drawn)
        told = zip(drawn["attack"], indices, sentences)
        sentences = [presented.caption(int(kind), int(i), text) for kind, i, text in told]
    columns["caption"] = np.array(sentences, dtype=np.str_)
    return columns


def _change(cfg: Config, index: int) -> str:
    """What leads from a picture to its face's next level."""
    name, level = _moves(cfg)[index % _steps(cfg)]
    levels = cfg.move[name]
    return words.change(name, levels[level], levels[level + 1], index // _steps(cfg))


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Derives eye centres, nose tip and mouth corners, subject's right first.

    Args:
        landmarks: f32[..., 68, 2] of the iBUG scheme.

    Returns:
        f32[..., 5, 2].
    """
    eyes = [landmarks[..., 36:42, :].mean(-2), landmarks[..., 42:48, :].mean(-2)]
    return np.stack([*eyes, *(landmarks[..., i, :] for i in (30, 48, 54))], -2)
