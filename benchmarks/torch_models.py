"""The models of `benchmarks/step.py` in PyTorch, written for speed.

SDPA, channels last, autocast, fused optimizers.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A pre-norm block with a fused qkv: [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, heads: int, eps: float = 1e-6):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, N, D = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, N, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D)
        x = x + self.proj(out)
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Patches, positions, blocks and a norm, pooled by the mean of the patch tokens."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, size: int):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.register_buffer("positions", torch.randn(1, (size // patch) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, image: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        x = self.patch_embed(image).flatten(2).transpose(1, 2) + self.positions
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def normalised(image: torch.Tensor) -> torch.Tensor:
    """u8[B, S, S, 3] to f32[B, 3, S, S] in [-1, 1]."""
    return image.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Classifier(nn.Module):
    """Cosines of the pooled tokens to class centres, and their softmax."""

    def __init__(self, encoder: ViT, width: int, classes: int):
        super().__init__()
        self.encoder, self.centres = encoder, nn.Parameter(torch.randn(classes, width) * 0.01)

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        x = functional.normalize(self.encoder(normalised(image)).mean(1).float(), dim=-1)
        return functional.cross_entropy(
            64.0 * (x @ functional.normalize(self.centres, dim=-1).T), label
        )


class MAE(nn.Module):
    """Masked autoencoder: the encoder sees kept patches only."""

    def __init__(self, encoder: ViT, width: int, patch: int, ratio: float, decoder: dict):
        super().__init__()
        inner = decoder["width"]
        self.encoder, self.patch, self.ratio = encoder, patch, ratio
        self.embed, self.mask = nn.Linear(width, inner), nn.Parameter(torch.zeros(1, 1, inner))
        self.register_buffer("positions", torch.randn(1, encoder.positions.shape[1], inner) * 0.02)
        self.blocks = nn.ModuleList(Block(inner, decoder["heads"]) for _ in range(decoder["depth"]))
        self.norm, self.head = nn.LayerNorm(inner, 1e-6), nn.Linear(inner, 3 * patch * patch)

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        image = normalised(image)
        B, N = len(image), self.encoder.positions.shape[1]
        order = torch.rand(B, N, device=image.device).argsort(1)
        keep, removed = order.split([N - int(N * self.ratio), int(N * self.ratio)], 1)
        seen = self.embed(self.encoder(image, keep))
        x = self.mask.to(seen.dtype).expand(B, N, -1)
        x = x.scatter(1, keep[..., None].expand_as(seen), seen) + self.positions
        for block in self.blocks:
            x = block(x)
        predicted = self.head(self.norm(x))
        p = self.patch
        target = functional.unfold(image, p, stride=p).transpose(1, 2)
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        error = (predicted.float() - (target - mean) / (var + 1e-6).sqrt()).square().mean(-1)
        return error.gather(1, removed).mean()


class SimCLR(nn.Module):
    """Two flipped views, a projector with BatchNorm, NT-Xent over all of both."""

    def __init__(self, encoder: ViT, width: int, hidden: int, out: int, tau: float):
        super().__init__()
        self.encoder, self.tau = encoder, tau
        first = (nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.project = nn.Sequential(*first, nn.Linear(hidden, out), nn.BatchNorm1d(out))

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        image = normalised(image)
        views = []
        for _ in range(2):
            flip = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5
            view = torch.where(flip, image.flip(-1), image)
            views.append(self.project(self.encoder(view).mean(1)))
        z = functional.normalize(torch.cat(views).float(), dim=-1)
        logits = z @ z.T / self.tau
        logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -math.inf)
        other = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return 2 * functional.cross_entropy(logits, other)


class Residual(nn.Module):
    """A block of the improved ResNet: [B, C, S, S] -> [B, width, S / stride, S / stride]."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential(*shortcut) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.branch(x)


class IResNet(nn.Module):
    """The improved ResNet of ArcFace; its neck is in float32."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], embed: int, size: int):
        super().__init__()
        inputs = widths[0]
        stem = nn.Conv2d(3, inputs, 3, 1, 1, bias=False)
        layers = [stem, nn.BatchNorm2d(inputs), nn.PReLU(inputs)]
        for width, count in zip(widths, blocks, strict=True):
            for i in range(count):
                layers.append(Residual(inputs, width, 1 if i else 2))
                inputs = width
        self.trunk = nn.Sequential(*layers, nn.BatchNorm2d(inputs))
        side = size // 2 ** len(widths)
        self.fc, self.features = nn.Linear(inputs * side**2, embed), nn.BatchNorm1d(embed)
        self.features.weight.requires_grad = False

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.trunk(image)
        with torch.autocast(x.device.type, enabled=False):
            return self.features(self.fc(x.float().flatten(1)))


class ArcFace(nn.Module):
    """Cosines to class centres, the own one moved by a margin of its angle, and their softmax."""

    def __init__(self, encoder: IResNet, width: int, classes: int, margin: float = 0.5):
        super().__init__()
        self.encoder, self.centres = encoder, nn.Parameter(torch.randn(classes, width) * 0.01)
        self.margin = margin

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        x = functional.normalize(self.encoder(normalised(image)), dim=-1)
        cosine = (x @ functional.normalize(self.centres, dim=-1).T).float()
        own, m = cosine.gather(1, label[:, None]).clamp(-1 + 1e-6, 1 - 1e-6), self.margin
        moved = own * math.cos(m) - (1 - own.square()).sqrt() * math.sin(m)
        moved = torch.where(own > -math.cos(m), moved, own - m * math.sin(m))
        return functional.cross_entropy(64.0 * cosine.scatter(1, label[:, None], moved), label)


def adamw(params) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, 1e-4, (0.9, 0.95), fused=True)


def sgd(params) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, 1e-3, momentum=0.9, weight_decay=5e-4, fused=True)


def trainer(
    model: nn.Module, dtype: str, device: str, compiled: bool, optimizer: Callable = adamw
) -> Callable:
    """(images, labels) -> loss, one step."""
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = optimizer([p for p in model.parameters() if p.requires_grad])
    forward = torch.compile(model) if compiled else model

    def step(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(image, label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def embedder(encoder: ViT, dtype: str, device: str, compiled: bool) -> Callable:
    """(images, labels) -> pooled tokens, without gradients."""
    encoder = encoder.to(device).eval()
    forward = torch.compile(encoder) if compiled else encoder

    def embed(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"),
        ):
            return forward(normalised(image)).mean(1)

    return embed
