"""The views that objectives share: two or more of the whole image, or large and small crops."""

from dataclasses import dataclass

from facejax.contracts import Aug, Spec, View

RATIO = (3 / 4, 4 / 3)
NAMES = "abcdefgh"


@dataclass(frozen=True)
class Views:
    """Options of the views of an image; the values are BYOL's (arXiv:2006.07733, app. B).

    Attributes:
        scale: area range of the random resized crops.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast, saturation and hue.
        jitter_p: probability of the colour jitter.
        gray: probability of grayscale.
        blur: probability of blur of the first and of the second view.
        solarize: probability of solarisation of the first and of the second view.
        second: batch field that the second view shows, such as a generated twin of the image.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_p: float = 0.8
    gray: float = 0.2
    blur: tuple[float, float] = (1.0, 0.1)
    solarize: tuple[float, float] = (0.0, 0.2)
    second: str = "image"


def several(cfg: Views, spec: Spec, count: int = 2) -> dict[str, View]:
    """`count` views "a", "b", ...: every other one has the recipe of the second.

    Two views differ in their draw even where their recipes are equal.
    """
    out = {}
    for i, name in enumerate(NAMES[:count]):
        aug = Aug(
            spec.size,
            scale=cfg.scale,
            ratio=RATIO,
            flip=cfg.flip,
            jitter=cfg.jitter,
            jitter_p=cfg.jitter_p,
            gray_p=cfg.gray,
            blur_p=cfg.blur[i % 2],
            solarize_p=cfg.solarize[i % 2],
            **spec.aug,
        )
        out[name] = View(field=cfg.second if i == 1 else "image", aug=aug, draw=name)
    return out


@dataclass(frozen=True)
class Crops:
    """Options of multi-crop: two large views and several small ones; the values are DINO's.

    Attributes:
        scale: area range of the two global crops.
        local_scale: area range of the local crops.
        local_crops: number of local crops.
        local_size: side of a local crop, as a share of the image's; rounded to whole patches.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast, saturation and hue.
        jitter_p: probability of the colour jitter.
        gray: probability of grayscale.
        blur: probability of blur of the first and second global crop and of the local crops.
        solarize: the same of solarisation.
        second: batch field that the second global crop shows.
    """

    scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    local_crops: int = 8
    local_size: float = 96 / 224
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_p: float = 0.8
    gray: float = 0.2
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    solarize: tuple[float, float, float] = (0.0, 0.2, 0.0)
    second: str = "image"


def small_side(cfg: Crops, spec: Spec, tower: str = "encoder") -> int:
    """Pixels of a local crop's side: the nearest whole number of patches, at least one."""
    patch = max(spec.towers[tower].patch, 1)
    return max(round(cfg.local_size * spec.size / patch), 1) * patch


def crops(cfg: Crops, spec: Spec, tower: str = "encoder") -> dict[str, View]:
    """Views "global_0", "global_1", "local_0", ... in this order."""

    def aug(kind: int, size: int, scale: tuple[float, float]) -> Aug:
        return Aug(
            size,
            scale=scale,
            ratio=RATIO,
            flip=cfg.flip,
            jitter=cfg.jitter,
            jitter_p=cfg.jitter_p,
            gray_p=cfg.gray,
            blur_p=cfg.blur[kind],
            solarize_p=cfg.solarize[kind],
            **spec.aug,
        )

    fields = ("image", cfg.second)
    out = {
        f"global_{i}": View(fields[i], aug(i, spec.size, cfg.scale), f"global_{i}")
        for i in range(2)
    }
    small = aug(2, small_side(cfg, spec, tower), cfg.local_scale)
    return out | {f"local_{i}": View(aug=small, draw=f"local_{i}") for i in range(cfg.local_crops)}
