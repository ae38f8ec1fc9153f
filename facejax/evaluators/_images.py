"""Reads and decodes the images that an evaluator names, a chunk at a time."""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from facejax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
CHUNK = 512

# What Pillow and zipfile raise on damaged data; anything else is a bug and must be seen.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)


def list_images(path: str) -> list[str]:
    """Returns the names of all images beneath a folder or in a zip, sorted, with "/" between parts.

    Raises:
        UserError: nothing at `path`, not a zip, or no image in it.
    """
    root = Path(path)
    if root.is_dir():
        names = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
    elif not root.exists():
        raise UserError(path, "no such folder or zip", "give the path of the images")
    elif not zipfile.is_zipfile(root):
        raise UserError(path, "neither a folder nor a zip", "give a folder or a .zip of images")
    else:
        with zipfile.ZipFile(root) as archive:
            names = archive.namelist()
    images = sorted(n for n in names if n.lower().endswith(SUFFIXES))
    if not images:
        raise UserError(path, "no images in it", f"images end in {', '.join(SUFFIXES)}")
    return images


def read_images(
    spec: Mapping, names: Sequence[str], size: int, chunk: int = CHUNK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the named images in order, at most `chunk` at a time.

    The shorter side, times the share `crop`, gives a centred square, which is resized by an
    antialiased bicubic filter.

    Args:
        spec: `path` of a folder or zip, and `crop`, the share of the square that is kept (0..1].
        names: as `list_images` gives them.
        size: side of the output in pixels.
        chunk: images held at once.

    Yields:
        u8[n, size, size, 3] RGB and bool[n]; an image that can't be read is black and false.
    """
    read, close = _opened(Path(spec["path"]))
    try:
        for start in range(0, len(names), chunk):
            part = names[start : start + chunk]
            images = np.zeros((len(part), size, size, 3), np.uint8)
            readable = np.zeros(len(part), bool)
            for row, name in enumerate(part):
                try:
                    images[row] = _decode(read(name), size, spec.get("crop", 1.0))
                    readable[row] = True
                except _DAMAGED:
                    continue
            yield images, readable
    finally:
        close()


def _opened(root: Path) -> tuple[Callable[[str], bytes], Callable[[], None]]:
    if root.is_dir():
        return (lambda name: (root / name).read_bytes()), (lambda: None)
    archive = zipfile.ZipFile(root)
    return archive.read, archive.close


def _decode(data: bytes, size: int, crop: float) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    half = min(rgb.size) * crop / 2
    x, y = rgb.width / 2, rgb.height / 2
    box = (x - half, y - half, x + half, y + half)
    return np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC, box=box))
