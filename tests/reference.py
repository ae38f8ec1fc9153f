"""Formulas of transformers and masked images in NumPy, at the precision of their inputs."""

import math

import numpy as np

erf = np.vectorize(math.erf)


def norm(x, p, eps=1e-6):
    mean = x.mean(-1, keepdims=True)
    deviation = np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    return (x - mean) / deviation * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def attention(x, p, heads):
    B, N, D = x.shape
    q, k, v = (a.reshape(B, N, heads, -1) for a in np.split(linear(x, p["qkv"]), 3, axis=-1))
    out = np.zeros_like(q)
    for b in range(B):
        for h in range(heads):
            scores = q[b, :, h] @ k[b, :, h].T / math.sqrt(D // heads)
            weight = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :, h] = weight / weight.sum(-1, keepdims=True) @ v[b, :, h]
    return linear(out.reshape(B, N, D), p["proj"])


def mlp(x, p):
    h = linear(x, p["fc1"])
    return linear(h * (1 + erf(h / math.sqrt(2))) / 2, p["fc2"])


def positions(width, side):
    """One row and one column at a time: the column in the first half, the row in the second."""
    out = np.zeros((side * side, width))
    quarter = width // 4
    for n in range(side * side):
        row, column = divmod(n, side)
        for k in range(quarter):
            w = 10000 ** (-k / quarter)
            out[n, [k, quarter + k]] = math.sin(column * w), math.cos(column * w)
            out[n, [2 * quarter + k, 3 * quarter + k]] = math.sin(row * w), math.cos(row * w)
    return out


def patches_of(image, patch):
    B, S, _, _ = image.shape
    side = S // patch
    out = np.zeros((B, side * side, patch * patch * 3))
    for n in range(side * side):
        r, c = (patch * i for i in divmod(n, side))
        out[:, n] = image[:, r : r + patch, c : c + patch].reshape(B, -1)
    return out


def normalised_patches(image, patch):
    x = patches_of(np.float64(image), patch)
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    return (x - mean) / np.sqrt(variance + 1e-6)


def block(x, p, heads):
    x = x + attention(norm(x, p["norm1"]), p["attn"], heads)
    return x + mlp(norm(x, p["norm2"]), p["mlp"])


def decoder(x, p, heads):
    """Blocks, a norm and, where there is one, a Linear."""
    for name in sorted(k for k in p if k.startswith("blocks_")):
        x = block(x, p[name], heads)
    x = norm(x, p["norm"])
    return linear(x, p["pred"]) if "pred" in p else x


def filled(feats, token, count):
    """Class token, kept tokens at their places, `token` at all others."""
    out = np.tile(token, (len(feats.tokens), count, 1)).astype(np.float64)
    keep = np.arange(count)[None].repeat(len(out), 0) if feats.keep is None else feats.keep
    for b, places in enumerate(np.asarray(keep)):
        out[b, places] = feats.tokens[b]
    return np.concatenate([np.float64(feats.prefix[:, :1]), out], axis=1)


def head(x, p):
    """Linear, LayerNorm (eps 1e-5), ReLU, Linear."""
    h = linear(x, p["fc_0"])
    return linear(np.maximum(norm(h, p["norm_0"], eps=1e-5), 0), p["fc_1"])
