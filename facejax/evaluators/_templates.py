"""Templates: sets of pictures and video frames of one person, and the lists of IJB-B and IJB-C.

The lists are those that insightface publishes beside its IJB tools: `*_face_tid_mid.txt`,
`*_template_pair_label.txt`, `*_name_5pts_score.txt`, and the CSV files of galleries and probes.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facejax.errors import UserError
from facejax.evaluators._metrics import unit


@dataclass(frozen=True)
class Media:
    """What each template consists of.

    Attributes:
        names: names of the N pictures, a picture as often as it is listed.
        template: i64[N], template of each.
        media: i64[N], its medium: a picture, or the video that a frame is of.
        score: f64[N], the detector's score, 1 without a list of them.
    """

    names: tuple[str, ...]
    template: np.ndarray
    media: np.ndarray
    score: np.ndarray


def read_media(path: str, scores: str) -> Media:
    """Reads lines `name template media`, and `name ... score` of the file `scores` ("" for none).

    Raises:
        UserError: a file that is missing, a line of another form, or a picture without score.
    """
    names, template, media = [], [], []
    for number, columns in _lines(path):
        if len(columns) != 3:
            raise UserError(f"{path}:{number}", "not a picture", "write 'name template media'")
        names.append(columns[0])
        template.append(_whole(path, number, columns[1]))
        media.append(_whole(path, number, columns[2]))
    score = np.ones(len(names))
    if scores:
        by_name = {}
        for number, columns in _lines(scores):
            try:
                by_name[columns[0]] = float(columns[-1])
            except ValueError:
                where = f"{scores}:{number}"
                raise UserError(where, "no score", "write 'name x1 y1 ... x5 y5 score'") from None
        absent = [name for name in names if name not in by_name]
        if absent:
            raise UserError(scores, f"no score of '{absent[0]}'", "give the scores of this list")
        score = np.array([by_name[name] for name in names])
    return Media(tuple(names), np.array(template), np.array(media), score)


def read_template_pairs(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads lines `template template label`, the label 1 for one person and 0 for two.

    Returns:
        i64[P, 2] and bool[P].

    Raises:
        UserError: a file that is missing, or a line of another form.
    """
    _exists(path)
    try:
        table = np.loadtxt(path, np.int64, ndmin=2)
    except ValueError as error:
        remedy = "write 'template template 1' or 'template template 0'"
        raise UserError(path, f"not pairs of templates ({error})", remedy) from None
    if table.shape[1] != 3 or not np.isin(table[:, 2], (0, 1)).all():
        what = f"{table.shape[1]} columns, the last not 0 or 1"
        raise UserError(path, what, "write 'template template 1' or 'template template 0'")
    return table[:, :2], table[:, 2] == 1


def read_subjects(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a CSV with a header whose first columns are template and subject; more are ignored.

    Returns:
        i64[T] templates in rising order, each once, and i64[T] their subjects.

    Raises:
        UserError: a file that is missing, a line of another form, or a template of two subjects.
    """
    _exists(path)
    rows = {}
    for number, line in enumerate(Path(path).read_text().splitlines()[1:], 2):
        columns = line.split(",")
        if len(columns) < 2:
            raise UserError(f"{path}:{number}", "not a template", "write 'template,subject,...'")
        template, subject = (_whole(path, number, c.strip()) for c in columns[:2])
        if rows.setdefault(template, subject) != subject:
            raise UserError(f"{path}:{number}", f"template {template} of two subjects", "mend it")
    if not rows:
        raise UserError(path, "no templates", "give a header line and a line per template")
    templates = np.array(sorted(rows))
    return templates, np.array([rows[t] for t in templates.tolist()])


def fuse(
    features: np.ndarray,
    picture: np.ndarray,
    template: np.ndarray,
    media: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Unit vectors of templates: the mean within each medium, the sum over media, normalised.

    Args:
        features: f32[M, D] of pictures.
        picture: i64[N], row of `features`, or -1 for a picture that is left out.
        template: i64[N], 0 to T - 1.
        media: i64[N].
        weight: f64[N], factors of the features.

    Returns:
        f64[T, D]; 0 for a template of which no picture is left.
    """
    out = np.zeros((int(template.max()) + 1, features.shape[1]))
    kept = np.flatnonzero(picture >= 0)
    order = kept[np.lexsort((media[kept], template[kept]))]
    starts = np.flatnonzero(np.diff(template[order], prepend=-1, append=-1))
    for start, stop in itertools.pairwise(starts):
        rows = order[start:stop]
        values = features[picture[rows]].astype(np.float64) * weight[rows][:, None]
        firsts = np.flatnonzero(np.diff(media[rows], prepend=media[rows[0]] - 1))
        counts = np.diff(firsts, append=len(rows))
        means = np.add.reduceat(values, firsts, axis=0) / counts[:, None]
        out[template[rows[0]]] = means.sum(axis=0)
    return unit(out)


def _lines(path: str) -> list[tuple[int, list[str]]]:
    _exists(path)
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return [(i, line.split()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]


def _exists(path: str) -> None:
    if not Path(path).is_file():
        raise UserError(path, "no such file", "give the path of a list")


def _whole(path: str, number: int, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{path}:{number}", f"'{text}' is no number", "give a number") from None
