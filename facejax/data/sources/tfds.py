"""TFDS data sets prepared in ArrayRecord format, read without TensorFlow.

    {'name': 'tfds', 'path': 'tensorflow_datasets/lfw/0.1.1', 'identity': 'column',
     'identity_column': 'label'}

Prepare a data set with `tfds build --file_format=array_record`.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds

from facejax.data.decode import encode_jpeg, region_map
from facejax.data.records import BadRecord, Field, Record
from facejax.errors import UserError, nearest


@dataclass(frozen=True)
class Config:
    """Which data set, and which of its features are what.

    Attributes:
        path: directory of the prepared version (it holds `dataset_info.json`); with `dataset`,
            the TFDS data directory.
        dataset: a TFDS name such as 'celeb_a', or None.
        split: a TFDS split, 'train' or 'train[:80%]'.
        images: the image feature.
        identity: "column" takes identity from the feature `identity_column`.
        identity_column: a class label, number or text.
        attributes: feature of booleans or of -1/0/1: a dict by name, or a vector.
        landmarks: numeric feature: [K, 2], [2K] in the order x0, y0, ..., or a dict of
            <point>_x and <point>_y.
        landmark_points: the points of such a dict, in order.
        regions: image feature with one number per pixel.
        region_labels: the scheme that these numbers follow.
        captions: text feature.
    """

    path: str
    dataset: str | None = None
    split: str = "train"
    images: str = "image"
    identity: Literal["column", "none"] = "none"
    identity_column: str = "label"
    attributes: str | None = None
    landmarks: str | None = None
    landmark_points: tuple[str, ...] = ()
    regions: str | None = None
    region_labels: Literal["lapa", "celebamask"] = "lapa"
    captions: str | None = None

    @classmethod
    def tiny(cls, root: Path) -> "Config":
        """Six 20 x 20 images of three people with two attributes and two landmarks."""
        info = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["ada", "ben", "cy"]),
            "attributes": {"Smiling": np.bool_, "Male": np.bool_},
            "landmarks": dict.fromkeys(("left_x", "left_y", "right_x", "right_y"), np.int64),
            "text": tfds.features.Text(),
        }
        rng = np.random.default_rng(0)
        examples = [
            {
                "image": io.BytesIO(encode_jpeg(rng.integers(0, 256, (20, 20, 3), np.uint8), 90)),
                "label": i // 2,
                "attributes": {"Smiling": i % 2 == 0, "Male": i < 3},
                "landmarks": {"left_x": 5, "left_y": i, "right_x": 15, "right_y": i},
                "text": f"face {i}",
            }
            for i in range(6)
        ]

        identity = tfds.core.dataset_info.DatasetIdentity(
            "tiny_faces", tfds.core.Version("1.0.0"), str(root), "facejax"
        )
        writer = tfds.core.SequentialWriter(
            tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(info)),
            max_examples_per_shard=4,
            file_format="array_record",
        )
        writer.initialize_splits(["train"])
        writer.add_examples({"train": examples})
        writer.close_all()
        return cls(
            path=str(root),
            identity="column",
            attributes="attributes",
            landmarks="landmarks",
            landmark_points=("right", "left"),
            captions="text",
        )


def open(cfg: Config) -> "Tfds":
    """Opens the split and checks that the features named are there.

    Raises:
        UserError: no such data set, split or feature, or one that needs TensorFlow to be read.
    """
    try:
        if cfg.dataset:
            builder = tfds.builder(cfg.dataset, data_dir=cfg.path)
        else:
            builder = tfds.builder_from_directory(cfg.path)
        features = builder.info.features
        images = [n for n, f in features.items() if isinstance(f, tfds.features.Image)]
        decoders = {name: tfds.decode.SkipDecoding() for name in images}
        data = builder.as_data_source(split=cfg.split, decoders=decoders)
    except Exception as error:  # TFDS raises a dozen unrelated kinds for wrong input
        what = f"cannot be opened ({error})"
        remedy = "give a version prepared with --file_format=array_record"
        raise UserError(cfg.path, what, remedy) from error
    wanted = [cfg.images, cfg.attributes, cfg.landmarks, cfg.regions, cfg.captions]
    if cfg.identity == "column":
        wanted.append(cfg.identity_column)
    for name in filter(None, wanted):
        if name not in features:
            raise UserError(cfg.path, f"has no feature '{name}'", nearest(name, features))
    if cfg.landmarks and isinstance(features[cfg.landmarks], tfds.features.FeaturesDict):
        points = {name.rpartition("_")[0] for name in features[cfg.landmarks]}
        if not cfg.landmark_points or not points.issuperset(cfg.landmark_points):
            what = f"landmark_points={cfg.landmark_points} does not name points of the feature"
            raise UserError(cfg.path, what, f"put these in order: {', '.join(sorted(points))}")
    if len(data) == 0:
        raise UserError(cfg.path, f"split '{cfg.split}' is empty", "choose another split")
    return Tfds(cfg, data, features)


class Tfds:
    """A TFDS split. See `facejax.data.records.Source`."""

    def __init__(self, cfg: Config, data, features):
        self._cfg, self._data = cfg, data
        self.fields = {"image": Field(dtype="uint8")}
        if cfg.identity == "column":
            self._label = features[cfg.identity_column]
            people = self._people()
            self._number = {name: k for k, name in enumerate(people)}
            self.fields["identity"] = Field((), "int32", len(people), people)
        if cfg.attributes:
            width = _vector(data[0][cfg.attributes]).size
            names = features[cfg.attributes]
            titles = tuple(sorted(names)) if isinstance(names, tfds.features.FeaturesDict) else ()
            self.fields["attributes"] = Field((width,), "int8", names=titles)
        if cfg.landmarks:
            shape = _points(data[0][cfg.landmarks], cfg.landmark_points).shape
            self.fields["landmarks"] = Field(shape, "float32")
        if cfg.regions:
            self.fields["regions"] = Field(dtype="uint8")
        if cfg.captions:
            self.fields["caption"] = Field(dtype="str")

    def __len__(self) -> int:
        return len(self._data)

    def name(self, index: int) -> str:
        return f"{self._cfg.split}:{index}"

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        try:
            return [self._record(e) for e in self._data.__getitems__(list(indices))]
        except (ValueError, RuntimeError, OSError):
            return [self._read(index) for index in indices]

    def _read(self, index: int) -> Record | BadRecord:
        try:
            return self._record(self._data[index])
        except (ValueError, RuntimeError, OSError) as error:
            return BadRecord(str(error))

    def _record(self, example: Mapping[str, Any]) -> Record:
        cfg = self._cfg
        record = {"image": example[cfg.images]}
        if cfg.identity == "column":
            record["identity"] = self._number[self._person(example)]
        if cfg.attributes:
            record["attributes"] = _vector(example[cfg.attributes])
        if cfg.landmarks:
            record["landmarks"] = _points(example[cfg.landmarks], cfg.landmark_points)
        if cfg.regions:
            record["regions"] = region_map(example[cfg.regions], cfg.region_labels)
        if cfg.captions:
            record["caption"] = _text(example[cfg.captions])
        return record

    def _person(self, example: Mapping[str, Any]) -> str:
        value = example[self._cfg.identity_column]
        if isinstance(self._label, tfds.features.ClassLabel):
            return self._label.int2str(int(value))
        return _text(value)

    def _people(self) -> tuple[str, ...]:
        """The names of all people; without class names in the metadata it reads the whole split."""
        if isinstance(self._label, tfds.features.ClassLabel):
            return tuple(sorted(self._label.names))
        return tuple(sorted({self._person(example) for example in self._data}))


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _vector(value: Any) -> np.ndarray:
    """i8[A], +1 and -1 for booleans; a dict is read in sorted order."""
    if isinstance(value, Mapping):
        value = [value[name] for name in sorted(value)]
    values = np.asarray(value).ravel()
    if values.dtype == np.bool_:
        values = np.where(values, 1, -1)
    return values.astype(np.int8)


def _points(value: Any, order: Sequence[str]) -> np.ndarray:
    """f32[K, 2]."""
    if isinstance(value, Mapping):
        value = [[value[f"{name}_x"], value[f"{name}_y"]] for name in order]
    return np.asarray(value, np.float32).reshape(-1, 2)
