"""Images in a directory or a `.zip` archive, with label files beside or inside it.

    {'name': 'folder', 'path': 'celeba.zip', 'identity': 'column',
     'labels': ('attributes.csv', 'identity.csv')}

Label files are described in `facejax/data/labels.py`. A template, such as 'masks/{stem}.png', says
where within the set an image's companion lies: {stem} is the image's file name without its
extension, {parent} the path of its folder.
"""

import fnmatch
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from facejax.data import labels as tables
from facejax.data.align import regions_from_landmarks
from facejax.data.arrays import open_rows
from facejax.data.decode import encode_jpeg, region_map
from facejax.data.files import Files, open_files
from facejax.data.records import BadRecord, Field, Record
from facejax.errors import UserError, nearest

DRAWN = "landmarks"  # in place of a template of region maps
LARGEST = 512  # side of a drawn region map: it is shrunk to the training image's anyway
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2")


@dataclass(frozen=True)
class Config:
    """Where the images are and what is known about them.

    Attributes:
        path: a directory or a `.zip`, read in place.
        images: which files are images, a glob on the path within the set (`*` crosses folders);
            None means every common image extension, without the files of `regions` and `generated`.
        labels: CSV files with identity, expression, age, action units and attributes.
        identity: where identity comes from: the name of the image's folder, a column of `labels`.
        identity_column: that column.
        classes: further columns of `labels` that hold names of classes ("gender", "race"); each is
            a field of its own name.
        regions: template of the region maps, or "landmarks" to draw them from 68 landmarks.
        region_labels: the scheme that their numbers follow.
        landmarks: CSV file with file, x0, y0, x1, y1, ... in pixels.
        generated: template of another picture of what each image shows, for a second view.
        captions: CSV or `.parquet` file with a column `caption`, in one row or more per image, or a
            template of UTF-8 text files, one caption a line.
        features: vectors of the images, the field `feature`: a directory that `facejax.embed`
            wrote for this set, or a `.npy` file of one row per image in the order of their paths.
        codes: codes of the images' patches, the field `codes`: such a file.
        missing: what an image without its annotation is: an "error", or just "unknown".
    """

    path: str
    images: str | None = None
    labels: str | tuple[str, ...] = ()
    identity: Literal["parent", "column", "none"] = "none"
    identity_column: str = "identity"
    classes: tuple[str, ...] = ()
    regions: str | None = None
    region_labels: Literal["lapa", "celebamask"] = "lapa"
    landmarks: str | None = None
    generated: str | None = None
    captions: str | None = None
    features: str | None = None
    codes: str | None = None
    missing: Literal["error", "unknown"] = "error"

    @classmethod
    def tiny(cls, root: Path) -> "Config":
        """Six 24 x 20 JPEGs of three people, with every kind of annotation."""
        root = Path(root)
        rng = np.random.default_rng(0)
        lines = ["file,identity,age,Smiling,Male"]
        points = ["file,x0,y0,x1,y1"]
        captions = ["file,caption"]
        for folder in ("images", "masks", "generated"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(6):
            image = rng.integers(0, 256, (24, 20, 3), np.uint8)
            (root / f"images/{i}.jpg").write_bytes(encode_jpeg(image, 90))
            (root / f"generated/{i}.jpg").write_bytes(encode_jpeg(255 - image, 90))
            mask = np.zeros((24, 20), np.uint8)
            mask[8:16, 6:14] = 1
            Image.fromarray(mask).save(root / f"masks/{i}.png")
            lines.append(f"{i}.jpg,person {i // 2},{20 + i},{1 - 2 * (i % 2)},0")
            points.append(f"{i}.jpg,6,{8 + i},14,{8 + i}")
            captions.append(f'{i}.jpg,"a face, number {i}"')
        for name, rows in (("labels", lines), ("points", points), ("captions", captions)):
            (root / f"{name}.csv").write_text("\n".join(rows) + "\n")
        return cls(
            path=str(root),
            labels=str(root / "labels.csv"),
            identity="column",
            regions="masks/{stem}.png",
            landmarks=str(root / "points.csv"),
            generated="generated/{stem}.jpg",
            captions=str(root / "captions.csv"),
        )


def open(cfg: Config) -> "Folder":
    """Lists the images and reads the label files.

    Raises:
        UserError: no such path, no images, or label files that do not match them.
    """
    files = open_files(cfg.path)
    names = _images(cfg, files)
    companions = {}
    if cfg.regions and cfg.regions != DRAWN:
        companions["regions"] = _companions(cfg.regions, cfg, names, files)
    if cfg.generated:
        companions["generated"] = _companions(cfg.generated, cfg, names, files)
    if cfg.captions and "{" in cfg.captions:
        companions["caption"] = _companions(cfg.captions, cfg, names, files)
    annotations = _labels(cfg, names)
    if cfg.identity == "parent":
        annotations["identity"] = _parents(cfg.path, names)
    if cfg.landmarks:
        annotations["landmarks"] = _landmarks(cfg, names)
    if cfg.captions and "caption" not in companions:
        annotations["caption"] = _captions(cfg, names)
    for field, path in (("feature", cfg.features), ("codes", cfg.codes)):
        if path:
            rows = open_rows(path, names)
            annotations[field] = rows.field, rows
    draws = cfg.regions == DRAWN
    if draws and ("landmarks" not in annotations or annotations["landmarks"][0].shape[0] != 68):
        what = "regions are drawn from 68 landmarks, which this set does not have"
        raise UserError("regions", what, "set landmarks, or name the region maps")
    return Folder(files, names, annotations, companions, cfg.region_labels, draws)


class Folder:
    """The images of a set of files, sorted by path. See `facejax.data.records.Source`."""

    def __init__(self, files: Files, names, annotations, companions, scheme: str, draws: bool):
        self._files, self._names, self._scheme, self._draws = files, names, scheme, draws
        self._values = {name: values for name, (_, values) in annotations.items()}
        self._companions = companions
        self.fields = {"image": Field(dtype="uint8")}
        self.fields |= {name: field for name, (field, _) in annotations.items()}
        self.fields |= {
            name: Field(dtype="str" if name == "caption" else "uint8") for name in companions
        }
        if draws:
            self.fields["regions"] = Field(dtype="uint8")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def identities(self) -> np.ndarray:
        """i32[N], -1 where unknown."""
        return self._values["identity"]

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> Record | BadRecord:
        try:
            record = {"image": self._files.read(self._names[index])}
            for field, names in self._companions.items():
                if names[index] is not None:
                    value = self._companion(field, self._files.read(names[index]))
                    record |= {} if value is None else {field: value}
            points = self._values["landmarks"][index] if self._draws else None
            if points is not None:
                record["regions"] = _drawn(record["image"], points)
        except (OSError, ValueError) as error:
            return BadRecord(str(error) or type(error).__name__)
        for field, values in self._values.items():
            if _is_known(value := values[index]):
                record[field] = value
        return record

    def _companion(self, field: str, data: bytes) -> bytes | np.ndarray | str | tuple | None:
        if field == "caption":
            return tables.caption_lines(data)
        translated = field == "regions" and self._scheme != "lapa"
        return region_map(data, self._scheme) if translated else data


def _drawn(image: bytes, landmarks: np.ndarray) -> np.ndarray:
    """u8[H, W]: the region map of an image, at its size or smaller; only its header is read."""
    width, height = Image.open(io.BytesIO(image)).size
    share = min(1.0, LARGEST / max(width, height))
    size = np.array([max(round(width * share), 1), max(round(height * share), 1)])
    points = (landmarks + 0.5) * (size / [width, height]) - 0.5
    return regions_from_landmarks(points, (int(size[1]), int(size[0])))


def _is_known(value) -> bool:
    return value is not None and not (isinstance(value, np.floating) and np.isnan(value))


def _images(cfg: Config, files: Files) -> tuple[str, ...]:
    if cfg.images:
        names = tuple(n for n in files.names if fnmatch.fnmatchcase(n, cfg.images))
        remedy = f"change images='{cfg.images}'; the set holds {_some(files.names)}"
    else:
        templates = (t for t in (cfg.regions, cfg.generated) if t and t != DRAWN)
        others = [_fill(t, "*", "*") for t in templates]
        names = tuple(
            n
            for n in files.names
            if n.lower().endswith(EXTENSIONS)
            and not any(fnmatch.fnmatchcase(n, other) for other in others)
        )
        remedy = f"it holds {_some(files.names)}; name the images with images='GLOB'"
    if not names:
        raise UserError(cfg.path, "holds no images", remedy)
    return names


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "") if names else "no files"


def _parents(path: str, names: Sequence[str]):
    parents = [PurePosixPath(name).parent.name for name in names]
    if "" in parents:
        what = f"'{names[parents.index('')]}' is in no folder that could name its identity"
        raise UserError(path, what, "set identity='none' or 'column'")
    numbers, people = tables.classes(parents)
    return Field((), "int32", len(people), people), numbers


def _labels(cfg: Config, names: Sequence[str]) -> dict:
    """Field and per-record values by field name, of all label files together."""
    paths = (cfg.labels,) if isinstance(cfg.labels, str) else cfg.labels
    found, blocks, titles, columns = {}, [], [], set()
    for path in paths:
        table = tables.read_table(path)
        columns |= {*table.columns}
        rows = tables.match(table, names, cfg.missing)
        labelled = {title: title for title in ("expression", *cfg.classes)}
        if cfg.identity == "column":
            labelled["identity"] = cfg.identity_column
        for field, title in labelled.items():
            if title in table.columns:
                numbers, classes = tables.classes(tables.column(table, rows, title))
                found[field] = Field((), "int32", len(classes), classes), numbers
        if "age" in table.columns and "age" not in cfg.classes:
            found["age"] = Field((), "float32"), tables.numbers(table, rows, ["age"])[:, 0]
        units = tables.units(table)
        if units:
            field = Field((len(units),), "int8", names=units)
            found["units"] = field, tables.unit_values(table, rows, units)
        skip = (cfg.identity_column, "identity", "expression", "age", *cfg.classes, *titles, *units)
        attributes = tables.attributes(table, skip)
        blocks.append(tables.attribute_values(table, rows, attributes))
        titles += attributes
    if titles:
        values = np.concatenate(blocks, axis=1)
        found["attributes"] = Field((len(titles),), "int8", names=tuple(titles)), values
    where = paths[0] if paths else "labels"
    if cfg.identity == "column" and "identity" not in found:
        what = f"has no column '{cfg.identity_column}' for identity='column'"
        raise UserError(where, what, "set labels and identity_column")
    for title in cfg.classes:
        if title not in found:
            raise UserError(where, f"has no column '{title}'", nearest(title, columns))
    if paths and not found:
        what = "holds no identity, expression, age, action unit or -1/1 attribute"
        raise UserError(paths[0], what, "correct it or leave it out of labels")
    return found


def _landmarks(cfg: Config, names: Sequence[str]):
    table = tables.read_table(cfg.landmarks)
    wanted = [f"{axis}{k}" for k in range(len(table.columns) // 2) for axis in "xy"]
    if not wanted or set(wanted) != set(table.columns):
        raise UserError(cfg.landmarks, "the columns are not file,x0,y0,x1,y1,...", "rename them")
    rows = tables.match(table, names, cfg.missing)
    points = tables.numbers(table, rows, wanted).reshape(len(names), -1, 2)
    known = [None if np.isnan(p).any() else p for p in points]
    return Field(points.shape[1:], "float32"), known


def _captions(cfg: Config, names: Sequence[str]):
    table = tables.read_captions(cfg.captions)
    rows = tables.match(table, names, cfg.missing)
    told = [tables.captions(row or ()) for row in rows]
    if not any(told):
        raise UserError(cfg.captions, "no image has a caption with words", "fill in the captions")
    return Field(dtype="str"), told


def _companions(template: str, cfg: Config, names: Sequence[str], files: Files) -> list[str | None]:
    """The companion file of each image, None where there is none."""
    paths = [PurePosixPath(name) for name in names]
    wanted = [_fill(template, p.stem, p.parent.as_posix()) for p in paths]
    there = set(files.names)
    absent = [name for name, other in zip(names, wanted) if other not in there]
    if len(absent) == len(names):
        raise UserError(template, f"no such file, as '{wanted[0]}'", f"correct it for {cfg.path}")
    tables.check_missing(template, absent, cfg.missing)
    return [other if other in there else None for other in wanted]


def _fill(template: str, stem: str, parent: str) -> str:
    try:
        return PurePosixPath(template.format(stem=stem, parent=parent)).as_posix()
    except (KeyError, IndexError, ValueError) as error:
        what = f"the template has an unknown part ({error})"
        raise UserError(template, what, "use {stem} and {parent}") from None
