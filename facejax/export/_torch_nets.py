"""The recognition encoders as plain PyTorch modules, with the names of arcface_torch.

Each function builds a `torch.nn.Module` from plain options: f32[B, 3, S, S] in, f32[B, embed] out.
Their state-dict keys and shapes are those of insightface's recognition/arcface_torch/backbones
(iresnet.py, mobilefacenet.py and vit.py), so its checkpoints load strictly; the modules were
written from the architecture, and no published checkpoint was at hand to try. Batch normalisation
trains as there; stochastic depth and the dropping of tokens don't exist here.

Nothing of facejax is imported, so the file works on its own.
"""

from collections.abc import Sequence
from typing import Any


def iresnet(
    blocks: Sequence[int] = (3, 4, 14, 3),
    widths: Sequence[int] = (64, 128, 256, 512),
    se: bool = False,
    embed: int = 512,
    size: int = 112,
) -> Any:
    """The network of facejax/encoders/iresnet.py.

    Args:
        blocks, widths: of the stages.
        se: squeeze-and-excitation, under keys of our own (`se.fc1`, `se.fc2`).
        embed: width of the embedding.
        size: side of the images.
    """
    from torch import nn

    def conv(inputs, outputs, kernel, stride=1):
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    class SqueezeExcite(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.fc1 = nn.Linear(width, width // 16)
            self.fc2 = nn.Linear(width // 16, width)

        def forward(self, x):
            gate = self.fc2(self.fc1(x.mean((2, 3))).relu()).sigmoid()
            return x * gate[:, :, None, None]

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            self.bn1 = nn.BatchNorm2d(inputs)
            self.conv1 = conv(inputs, width, 3)
            self.bn2 = nn.BatchNorm2d(width)
            self.prelu = nn.PReLU(width)
            self.conv2 = conv(width, width, 3, stride)
            self.bn3 = nn.BatchNorm2d(width)
            self.se = SqueezeExcite(width) if se else nn.Identity()
            self.downsample = nn.Identity()
            if stride > 1:
                shortcut = conv(inputs, width, 1, stride), nn.BatchNorm2d(width)
                self.downsample = nn.Sequential(*shortcut)

        def forward(self, x):
            y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
            return self.se(self.bn3(self.conv2(y))) + self.downsample(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            inputs = widths[0]
            self.conv1 = conv(3, inputs, 3)
            self.bn1 = nn.BatchNorm2d(inputs)
            self.prelu = nn.PReLU(inputs)
            for stage, (width, count) in enumerate(zip(widths, blocks), 1):
                first = Block(inputs, width, 2)
                rest = [Block(width, width, 1) for _ in range(count - 1)]
                setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
                inputs = width
            self.bn2 = nn.BatchNorm2d(inputs)
            self.fc = nn.Linear(inputs * (size // 16) ** 2, embed)
            self.features = nn.BatchNorm1d(embed)
            self.features.weight.requires_grad = False

        def forward(self, x):
            x = self.prelu(self.bn1(self.conv1(x)))
            for stage in range(1, len(widths) + 1):
                x = getattr(self, f"layer{stage}")(x)
            return self.features(self.fc(self.bn2(x).flatten(1)))

    return Net()


def mobilefacenet(
    blocks: Sequence[int] = (1, 4, 6, 2),
    width: int = 128,
    hidden: int = 128,
    head: int = 512,
    embed: int = 512,
    size: int = 112,
) -> Any:
    """The network of facejax/encoders/mobilefacenet.py; the arguments are options of its config."""
    from torch import nn

    class Layers(nn.Module):
        """`layers` in a row, and the input added to what they give."""

        def __init__(self, *layers, residual=False):
            super().__init__()
            self.layers = nn.Sequential(*layers)
            self.residual = residual

        def forward(self, x):
            y = self.layers(x)
            return x + y if self.residual else y

    def conv(inputs, outputs, kernel=1, stride=1, groups=1, padding=None, active=True):
        padding = kernel // 2 if padding is None else padding
        layers = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        return Layers(*layers, *([nn.PReLU(outputs)] if active else []))

    def bottleneck(inputs, outputs, inside, stride):
        return Layers(
            conv(inputs, inside),
            conv(inside, inside, 3, stride, groups=inside),
            conv(inside, outputs, active=False),
            residual=stride == 1,
        )

    def residuals(channels, inside, count):
        return Layers(*(bottleneck(channels, channels, inside, 1) for _ in range(count)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            w, h = width, hidden
            grouped = conv(w, w, 3, groups=h // 2)
            self.layers = nn.ModuleList(
                [
                    conv(3, w, 3, 2),
                    grouped if blocks[0] == 1 else residuals(w, h, blocks[0]),
                    bottleneck(w, w, h, 2),
                    residuals(w, h, blocks[1]),
                    bottleneck(w, 2 * w, 2 * h, 2),
                    residuals(2 * w, 2 * h, blocks[2]),
                    bottleneck(2 * w, 2 * w, 4 * h, 2),
                    residuals(2 * w, 2 * h, blocks[3]),
                ]
            )
            self.conv_sep = conv(2 * w, head)
            self.features = Layers(
                conv(head, head, size // 16, groups=head, padding=0, active=False),
                nn.Flatten(),
                nn.Linear(head, embed, bias=False),
                nn.BatchNorm1d(embed),
            )

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.features(self.conv_sep(x))

    return Net()


def face_vit(
    width: int = 512,
    depth: int = 24,
    heads: int = 8,
    mlp_ratio: float = 4.0,
    patch: int = 9,
    embed: int = 512,
    size: int = 112,
) -> Any:
    """The network of facejax/encoders/face_vit.py; the arguments are options of its config.

    `mask_token` is loaded and not used.
    """
    import torch
    from torch import nn

    count = (size // patch) ** 2

    class PatchEmbed(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Conv2d(3, width, patch, patch)

        def forward(self, x):
            return self.proj(x).flatten(2).transpose(1, 2)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(width, 3 * width, bias=False)
            self.proj = nn.Linear(width, width)

        def forward(self, x):
            parts = self.qkv(x).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(*parts)
            return self.proj(y.transpose(1, 2).flatten(2))

    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(width, int(width * mlp_ratio))
            self.fc2 = nn.Linear(int(width * mlp_ratio), width)

        def forward(self, x):
            return self.fc2(self.fc1(x).clamp(0, 6))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.attn = nn.LayerNorm(width), Attention()
            self.norm2, self.mlp = nn.LayerNorm(width), Mlp()

        def forward(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed = PatchEmbed()
            self.pos_embed = nn.Parameter(torch.zeros(1, count, width))
            self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.norm = nn.LayerNorm(width)
            self.feature = nn.Sequential(
                nn.Linear(width * count, width, bias=False),
                nn.BatchNorm1d(width, eps=2e-5),
                nn.Linear(width, embed, bias=False),
                nn.BatchNorm1d(embed, eps=2e-5),
            )

        def forward(self, x):
            x = self.patch_embed(x) + self.pos_embed
            for block in self.blocks:
                x = block(x)
            return self.feature(self.norm(x).flatten(1))

    return Net()
