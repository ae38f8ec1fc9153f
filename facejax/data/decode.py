"""From encoded records to square uint8 images, with what belongs to their pixels moved along.

The fit is one crop and one resize: the largest centred square, the centred share `crop` of it,
then size x size. Resampling is Pillow's BICUBIC, which widens its kernel when it shrinks and so
does not alias; it is sharper than BOX or BILINEAR and rings less than LANCZOS. JPEGs that are much
too large are shrunk by powers of two while decoding (DCT scaling).

Coordinates: pixel i covers [i, i + 1) of the continuous axis, and a landmark at x means the centre
of pixel x, that is x + 0.5 on this axis. So x_out = (x_in + 0.5 - left) * scale - 0.5.

An EXIF orientation is not applied: label files refer to the pixels as they are stored.
"""

import io
import math
from collections.abc import Container
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from facejax.data.records import BadRecord, Record

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow decodes JPEGs too, at half the speed
    simplejpeg = None


class Box(NamedTuple):
    """The square of an image that is kept, in continuous pixel coordinates."""

    left: float
    top: float
    side: float


def fit(height: int, width: int, crop: float = 1.0) -> Box:
    """The centred square that holds the share `crop` (0..1] of the image's shorter side."""
    side = min(height, width) * crop
    return Box((width - side) / 2, (height - side) / 2, side)


def decode(
    record: Record | BadRecord,
    size: int,
    crop: float = 1.0,
    fields: Container[str] = (),
    into: np.ndarray | None = None,
) -> Record | BadRecord:
    """Decodes and fits one record.

    Args:
        record: as a source gave it.
        size: side of the result in pixels.
        crop: share of the largest centred square that is kept.
        fields: names of the fields wanted beside `image`; the others are dropped.
        into: u8[size, size, 3], which becomes the image where a JPEG needs no fitting: neither a
            copy nor memory of its own. Whatever it holds otherwise means nothing.

    Returns:
        The record with `image` and `generated` u8[size, size, 3] RGB, `regions` u8[size, size] and
        `landmarks` f32[K, 2] in pixels of the result; or why it could not be decoded.
    """
    if isinstance(record, BadRecord):
        return record
    out = {name: value for name, value in record.items() if name in fields}
    try:
        room = into if crop == 1.0 else None
        image, height, width = _image(record["image"], math.ceil(size / crop), room)
        box = fit(height, width, crop)
        out["image"] = into if image is into else _resize(image, height, width, box, size)
        if "generated" in out:
            twin, *sides = _image(out["generated"], math.ceil(size / crop))
            out["generated"] = _resize(twin, *sides, fit(*sides, crop), size)
        if "regions" in out:
            out["regions"] = _resize_nearest(region_map(out["regions"]), crop, size)
    except UnidentifiedImageError:  # whose words hold an address in memory
        return BadRecord("no format that Pillow knows")
    except Exception as error:  # Pillow's plug-ins raise nearly anything on broken data
        return BadRecord(f"{type(error).__name__}: {error}".strip(": "))
    if "landmarks" in out:
        out["landmarks"] = move(out["landmarks"], box, size)
    return out


def move(landmarks: np.ndarray, box: Box, size: int) -> np.ndarray:
    """f32[K, 2] landmarks of the image as pixels of its fitted version."""
    start = np.array([box.left, box.top], np.float32)
    return ((landmarks + 0.5 - start) * (size / box.side) - 0.5).astype(np.float32)


def region_map(data: bytes | np.ndarray, scheme: str = "lapa") -> np.ndarray:
    """Decodes a region map, u8[H, W], and translates it from `scheme` to the LaPa numbers.

    Raises:
        ValueError: not an image with one number per pixel.
    """
    if isinstance(data, bytes):
        picture = Image.open(io.BytesIO(data))
        if picture.mode not in ("L", "P", "1"):
            raise ValueError(f"a region map needs one 8-bit number per pixel, not {picture.mode}")
        data = np.asarray(picture, np.uint8)
    if scheme == "lapa":
        return data
    from facejax.data.align import to_lapa

    return to_lapa(data, scheme)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """u8[H, W, 3] RGB as JPEG without chroma subsampling."""
    if simplejpeg is not None:
        return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", "444")
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def encode_png(regions: np.ndarray) -> bytes:
    """u8[H, W] as PNG."""
    out = io.BytesIO()
    Image.fromarray(regions).save(out, "PNG")
    return out.getvalue()


def _image(
    data: bytes | np.ndarray, least: int, room: np.ndarray | None = None
) -> tuple[np.ndarray, int, int]:
    """u8[h, w, 3] RGB, maybe shrunken while decoding (not below `least`), and the stored sides.

    It is `room`, if a JPEG has just this shape.
    """
    if isinstance(data, np.ndarray):
        return data, *data.shape[:2]
    if simplejpeg is not None and data[:2] == b"\xff\xd8":
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("RGB", "YCbCr", "Gray"):
            # strict: a truncated file raises instead of coming out half grey
            if room is not None and room.shape[:2] == (height, width):
                simplejpeg.decode_jpeg(data, "RGB", buffer=room, strict=True)
                return room, height, width
            pixels = simplejpeg.decode_jpeg(
                data, "RGB", min_height=least, min_width=least, min_factor=2, strict=True
            )
            return pixels, height, width
    picture = Image.open(io.BytesIO(data))
    height, width = picture.height, picture.width
    picture.draft("RGB", (least, least))
    return _rgb(picture), height, width


def _rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):  # 16 bits; convert() would clip instead of scaling
        gray = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def _resize(image: np.ndarray, height: int, width: int, box: Box, size: int) -> np.ndarray:
    """`box` is in pixels of the stored height x width, `image` may be a shrunken decode of it."""
    sy, sx = image.shape[0] / height, image.shape[1] / width
    left, top, right, bottom = (
        box.left * sx,
        box.top * sy,
        (box.left + box.side) * sx,
        (box.top + box.side) * sy,
    )
    if right - left == bottom - top == size and left % 1 == top % 1 == 0:
        return np.ascontiguousarray(image[int(top) : int(bottom), int(left) : int(right)])
    resized = Image.fromarray(image).resize(
        (size, size), Image.Resampling.BICUBIC, (left, top, right, bottom)
    )
    return np.asarray(resized)


def _resize_nearest(regions: np.ndarray, crop: float, size: int) -> np.ndarray:
    """A map of another resolution than its image is taken to cover the same picture."""
    box = fit(*regions.shape, crop)
    centres = (np.arange(size) + 0.5) * (box.side / size)
    rows = np.floor(box.top + centres).astype(int)
    columns = np.floor(box.left + centres).astype(int)
    return regions[rows[:, None], columns]
