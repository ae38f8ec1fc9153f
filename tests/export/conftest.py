"""What the tests of the exports share."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from facejax.export._timm import import_timm


@pytest.fixture(scope="session")
def torch_and_timm():
    """The modules (torch, timm), or a skip that says why not."""
    try:
        return import_timm()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")


@pytest.fixture(scope="session")
def preprocess():
    return {
        "size": 24,
        "mean": [0.5, 0.45, 0.4],
        "std": [0.25, 0.3, 0.35],
        "color": "RGB",
        "alignment": "none",
        "flip": "none",
        "embedding": "raw",
    }


@pytest.fixture(scope="session")
def faces(real_faces):
    """(size, count) to real faces u8[count, size, size, 3], of as many people."""

    def read(size, count):
        with zipfile.ZipFile(real_faces / "lfw128.zip") as archive:
            named = [n for n in archive.namelist() if n.endswith("_0001.jpg")][:count]
            pictures = [Image.open(io.BytesIO(archive.read(n))) for n in named]
        return np.stack([np.asarray(p.resize((size, size))) for p in pictures])

    return read
