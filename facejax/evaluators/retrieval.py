"""Finding the picture of a caption, and a caption of a picture, among all of the set.

Cosines in the space of images and texts, over the whole set (Karpathy & Fei-Fei 2015,
arXiv:1412.2306; protocol of R@1/5/10). Text to image: the caption's picture is among the first K.
Image to text: any of the picture's captions is. Ties are broken against what is looked for, so a
space that collapses finds nothing. A caption that several pictures share is one text, and each of
these pictures is right for it; where no caption is shared this is the usual rule.

Metrics: `t2i_r@K` (share of captions) and `i2t_r@K` (share of pictures) for each `k`, and `rsum`,
their sum in percent, with `_low` and `_high` (95 %, bootstrap over people); `t2i_median_rank` and
`i2t_median_rank`, from 1; `chance/<metric>`, of a random order; `n` pictures, `captions` and
`shared_captions`, texts of several pictures; `without_caption` pictures, left out; `failed`
pictures, unreadable or without a finite embedding, left out with their captions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facejax.data.records import BadRecord
from facejax.errors import UserError
from facejax.evaluators import Joint, Result, _bootstrap, _options, _prompts
from facejax.evaluators._embed import drawn, embed_pictures
from facejax.evaluators._metrics import unit
from facejax.evaluators._pictures import CHUNK, Pictures, labels_of, open_pictures
from facejax.evaluators._ranks import best_ranks, chance

JOINT = True
WAYS = ("t2i", "i2t")


@dataclass(frozen=True)
class Config:
    """What is searched.

    Attributes:
        path: folder or zip of the pictures.
        captions: beside `path`, their captions; see the source `folder`.
        identity: beside `path`, who is on a picture: "parent" (the name of its folder) or "none"
            (every picture another person).
        source: the pictures instead of `path`, like an entry of `config.data.sources`.
        k: numbers K.
        per_image: captions of a picture at most, its first ones; 0: all.
        crop: share of the centred square of each picture that is kept.
        bootstrap: draws of the interval; 0 leaves it out.
        seed: of the draws.
    """

    path: str = ""
    captions: str = ""
    identity: str = "none"
    source: Mapping[str, Any] | None = None
    k: tuple[int, ...] = (1, 5, 10)
    per_image: int = 0
    crop: float = 1.0
    bootstrap: int = 1000
    seed: int = 0

    @classmethod
    def tiny(cls, root: str | Path) -> "Config":
        """Synthetic faces with three captions each; nothing is written beneath `root`."""
        captions = {"caption_from": "attributes", "caption_count": 3}
        faces = {"name": "synthetic", "n": 40, "identities": 10, "size": 32}
        return cls(source=faces | captions, k=(1, 5), bootstrap=50)


@dataclass(frozen=True)
class Data:
    """The checked lists.

    Attributes:
        size: side of the pictures in pixels.
        pictures: where they are.
        rows: i64[N], those with a caption.
        people: str[N].
        texts: the captions, each once.
        pairs: i64[P, 2], picture (a place in `rows`) and text of each caption.
        without: number of pictures without a caption.
        unread: number of pictures that could not be read.
    """

    size: int
    pictures: Pictures
    rows: np.ndarray
    people: np.ndarray
    texts: tuple[str, ...]
    pairs: np.ndarray
    without: int
    unread: int


def prepare(cfg: Config, size: int) -> Data:
    """Reads the captions.

    Raises:
        UserError: an illegal option, a source without captions, or fewer than two texts.
    """
    _options.choice("identity", cfg.identity, ("parent", "none"))
    _options.shares("crop", cfg.crop)
    if not cfg.k or min(cfg.k) < 1:
        raise UserError("k", f"{cfg.k} holds no ranks", "give numbers from 1")
    keys = {"captions": cfg.captions or None, "identity": cfg.identity, "missing": "unknown"}
    pictures = open_pictures(cfg.path, cfg.source, cfg.crop, **keys)
    if "caption" not in pictures.source.fields:
        raise UserError(pictures.where, "gives no captions", "set captions, or caption_from")
    told, people, unread = _captions(pictures, cfg.per_image)
    rows = np.flatnonzero([bool(captions) for captions in told])
    number = {text: k for k, text in enumerate(dict.fromkeys(t for row in rows for t in told[row]))}
    if len(number) < 2:
        raise UserError(pictures.where, f"{len(number)} captions to tell apart", "give more")
    pairs = [(i, number[text]) for i, row in enumerate(rows) for text in told[row]]
    return Data(
        size=size,
        pictures=pictures,
        rows=rows,
        people=people[rows],
        texts=tuple(number),
        pairs=np.array(pairs, np.int64),
        without=len(told) - len(rows) - unread,
        unread=unread,
    )


def run(cfg: Config, data: Data, joint: Joint) -> Result:
    """Ranks every caption's pictures and every picture's captions.

    `items` holds, for each picture: `valid` (not failed), `subjects` i64 (person), `captions`,
    their number, `t2i_r@K`, how many of them found it, and `i2t_r@K`, whether it found one of them
    (all 0 where failed).
    """
    raw, valid = embed_pictures(joint.image, data.pictures, data.rows, data.size)
    x, t = unit(raw), _prompts.embed_texts(joint, data.texts)
    pairs = data.pairs[valid[data.pairs[:, 0]]]
    seen, texts = np.flatnonzero(valid), np.unique(pairs[:, 1])
    image, text = np.searchsorted(seen, pairs[:, 0]), np.searchsorted(texts, pairs[:, 1])
    of_text = _ranks(t[texts], x[seen], text, image)
    ranks = {"t2i": of_text[text], "i2t": _ranks(x[seen], t[texts], image, text)}
    items = {
        "valid": valid,
        "subjects": np.unique(data.people, return_inverse=True)[1],
        "captions": np.bincount(pairs[:, 0], minlength=len(valid)).astype(np.float64),
    }
    for k in cfg.k:
        hits = ranks["t2i"] <= k
        items[f"t2i_r@{k}"] = np.bincount(pairs[:, 0], hits, minlength=len(valid))
        items[f"i2t_r@{k}"] = np.zeros(len(valid))
        items[f"i2t_r@{k}"][seen] = ranks["i2t"] <= k
    known = _bootstrap.subset(items, valid)
    metrics = _bootstrap.scores(known, _statistics(items), cfg.bootstrap, cfg.seed)
    metrics |= {f"{way}_median_rank": float(np.median(ranks[way])) for way in WAYS}
    sharing = np.bincount(text)
    for k in cfg.k:
        guessed = chance(sharing[text], np.full(len(text), len(seen)), k)
        metrics[f"chance/t2i_r@{k}"] = float(guessed.mean())
        guessed = chance(np.bincount(image), np.full(len(seen), len(texts)), k)
        metrics[f"chance/i2t_r@{k}"] = float(guessed.mean())
    metrics |= {
        "n": float(len(seen)),
        "captions": float(len(pairs)),
        "shared_captions": float(np.sum(sharing > 1)),
        "without_caption": float(data.without),
        "failed": float(np.sum(~valid) + data.unread),
    }
    return Result(metrics=metrics, items=items, **drawn(x, data.people, valid))


def difference(
    a: Result, b: Result, n: int = 1000, seed: int = 0
) -> dict[str, _bootstrap.Interval]:
    """Recalls and their sum of `a` minus those of `b`, of the pictures both could embed.

    Args:
        a: a result of `run`.
        b: another on the same pictures.
        n: bootstrap draws over people.
        seed: of the draws.

    Returns:
        name -> (difference, low, high), the 95 % interval.
    """
    return _bootstrap.differences(a.items, b.items, _statistics(a.items), n, seed)


def _statistics(items: _bootstrap.Items) -> dict[str, _bootstrap.Statistic]:
    recalls = {name: _recall(name) for name in items if "_r@" in name}

    def rsum(items: _bootstrap.Items, weights: np.ndarray) -> np.ndarray:
        return 100 * np.sum([recall(items, weights) for recall in recalls.values()], axis=0)

    return {**recalls, "rsum": rsum}


def _recall(name: str) -> _bootstrap.Statistic:
    def statistic(items: _bootstrap.Items, weights: np.ndarray) -> np.ndarray:
        of = items["captions"] if name.startswith("t2i") else np.ones(len(items["captions"]))
        return weights @ items[name] / (weights @ of)

    return statistic


def _ranks(queries: np.ndarray, gallery: np.ndarray, query: np.ndarray, item: np.ndarray):
    """i64[n] best rank of each query f64[n, D]; pair p says that item[p] is right for query[p]."""
    order = np.argsort(query, kind="stable")
    query, item = query[order], item[order]
    found = []
    for start in range(0, len(queries), CHUNK):
        part = slice(*np.searchsorted(query, (start, start + CHUNK)))
        scores = queries[start : start + CHUNK] @ gallery.T
        relevant = np.zeros(scores.shape, bool)
        relevant[query[part] - start, item[part]] = True
        found.append(best_ranks(scores, relevant))
    return np.concatenate(found)


def _captions(pictures: Pictures, most: int) -> tuple[list[tuple[str, ...]], np.ndarray, int]:
    """Captions of each record, each once, without blank ones; people str[N]; unreadable records."""
    source, told, numbers, unread = pictures.source, [], [], 0
    for start in range(0, len(source), CHUNK):
        for record in source.read(range(start, min(start + CHUNK, len(source)))):
            bad = isinstance(record, BadRecord)
            unread += bad
            found = () if bad else record.get("caption") or ()
            several = (found,) if isinstance(found, str) else found
            plain = dict.fromkeys(" ".join(text.split()) for text in several)
            told.append(tuple(text for text in plain if text)[: most or None])
            numbers.append(-1 if bad else record.get("identity", -1))
    people = np.array(pictures.names())
    if "identity" in source.fields:
        named = labels_of(source.fields["identity"], np.array(numbers))
        people = np.where(np.array(numbers) >= 0, named, people)
    return told, people, unread
