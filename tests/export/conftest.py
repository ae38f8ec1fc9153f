"""What the tests of the exports share."""

import pytest

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
