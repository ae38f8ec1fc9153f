"""InsightFace's verification sets: `lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`, ...

A `.bin` is a pickle of (list of 2N encoded images, list of N booleans); images 2i and 2i + 1 are
pair i. An image is bytes or a u8 array, of encoded bytes or of RGB pixels. Python 2 wrote some.

A pickle can name any function to call. Only what this format needs is rebuilt here, and by
functions of this file: bytes, booleans and u8 and bool arrays. Anything else is refused unread.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facejax.data.records import BadRecord, Field, Record
from facejax.errors import UserError

SUFFIX = ".bin"
_DTYPES = ("u1", "|u1", "b1", "|b1", "bool", "uint8")


@dataclass(frozen=True)
class Bin:
    """A verification set.

    Attributes:
        source: the 2N images, in their order.
        same: bool[N], whether images 2i and 2i + 1 show one person.
    """

    source: "Pictures"
    same: np.ndarray


class Pictures:
    """The images of a `.bin`, held in memory. See `facejax.data.records.Source`."""

    def __init__(self, images: Sequence[bytes | np.ndarray]):
        self._images = images
        self.fields = {"image": Field(dtype="uint8")}

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return f"pair {index // 2}, {'right' if index % 2 else 'left'}"

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        return [{"image": self._images[index]} for index in indices]


def read_bin(path: str) -> Bin:
    """Reads a `.bin`.

    Raises:
        UserError: no such file, a pickle of anything else, or not two images per pair.
    """
    try:
        with Path(path).open("rb") as stream:
            content = _Restricted(stream, encoding="bytes").load()
    except OSError as error:
        raise UserError(path, error.strerror, "give the path of a .bin") from error
    except Exception as error:  # a torn or foreign pickle raises nearly anything
        what = f"no verification set ({error or type(error).__name__})"
        raise UserError(path, what, "fetch it again, from a source that you trust") from error
    remedy = "fetch it again"
    match content:
        case [list() as images, list() | np.ndarray() as flags]:
            pass
        case _:
            raise UserError(path, "holds no list of images and list of pairs", remedy)
    if len(images) != 2 * len(flags) or not images:
        what = f"holds {len(images)} images for {len(flags)} pairs"
        raise UserError(path, what, f"{remedy}: two images belong to each pair")
    pictures = [_image(image) for image in images]
    unfit = [number for number, picture in enumerate(pictures) if picture is None]
    if unfit:
        what = f"image {unfit[0]} is neither an encoded image nor RGB pixels"
        raise UserError(path, what, remedy)
    if not all(isinstance(flag, bool | int | np.bool_) and flag in (0, 1) for flag in flags):
        raise UserError(path, "its pairs are not marked by True and False", remedy)
    return Bin(Pictures(pictures), np.array(flags, bool))


def _image(value: Any) -> bytes | np.ndarray | None:
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        if value.ndim == 1:
            return value.tobytes()
        return value if value.ndim == 3 and value.shape[2] == 3 and value.size else None
    return value if isinstance(value, bytes) else None


# ------------------------------------------------------------------------- the restricted pickle


class _Array(np.ndarray):
    """An array under construction; a pickle sets its state once."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, np.dtype(_plain(dtype)), fortran, data))


class _Dtype:
    """What a pickle says of a dtype: only its name counts."""

    def __init__(self, name: str | bytes, *_: Any):
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, state: tuple) -> None:
        pass


def _plain(dtype: Any) -> str:
    if not isinstance(dtype, _Dtype) or dtype.name not in _DTYPES:
        raise pickle.UnpicklingError(f"an array of {getattr(dtype, 'name', dtype)}")
    return dtype.name


def _reconstruct(cls: Any, shape: Any, code: Any) -> np.ndarray:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _from_buffer(data: bytes, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(data, _plain(dtype)).reshape(shape, order=order)


def _scalar(dtype: Any, data: bytes) -> np.generic:
    return np.frombuffer(data, _plain(dtype), 1)[0]


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the protocols of Python 2."""
    return text.encode("latin1")


def _empty() -> bytes:
    return b""


_RECONSTRUCTED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _RECONSTRUCTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None
