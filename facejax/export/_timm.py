"""Importing timm and transformers beside a torch that torchvision was not built for."""

import contextlib
from types import ModuleType

_declared = []


def import_timm() -> tuple[ModuleType, ModuleType]:
    """The modules (torch, timm).

    Raises:
        ImportError or RuntimeError: one of them is not installed, or broken in another way.
    """
    torch = import_torch()
    import timm

    return torch, timm


def import_torch() -> ModuleType:
    """torch, after which torchvision can be imported.

    timm and transformers import torchvision, which on a CPU build of torch fails because its
    compiled operators are missing. The two that it looks up at import are never called by us;
    declaring them is enough.

    Raises:
        ImportError: it is not installed.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # a torchvision that works has declared it
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)  # the declarations go when the library object does
    return torch
