"""What the tests of the exports share."""

import contextlib

import pytest


@pytest.fixture(scope="session")
def torch_and_timm():
    """The modules (torch, timm), or a skip that says why not.

    torchvision, which timm imports, does not import where its compiled operators don't fit torch;
    with the two operators that it looks up at import declared, it does.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # a torchvision that works has declared it
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    yield torch, timm
    del library


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
