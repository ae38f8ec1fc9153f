"""What the tables between recognition encoders and arcface_torch share.

They are tables of {"params": params, "stats": stats}.
"""

from collections.abc import Mapping

from facejax.export.names import Array, Entry, Layout

CONV = Layout(lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0))
"""A kernel [rows, columns, in, out] here is a weight [out, in, rows, columns] there."""

COUNTER = ".num_batches_tracked"


def without_counters(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """A state dict without the counters of its batch norms: nothing depends on them."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}


def under_params(entries: list[Entry]) -> list[Entry]:
    """Entries of a table of parameters alone, moved beneath "params"."""
    return [Entry(e.theirs, f"params/{e.ours}", e.layout) for e in entries]


def conv(theirs: str, ours: str) -> list[Entry]:
    """The entry of a convolution."""
    return [Entry(f"{theirs}.weight", f"params/{ours}/kernel", CONV)]


def prelu(theirs: str, ours: str) -> list[Entry]:
    """The entry of a PReLU."""
    return [Entry(f"{theirs}.weight", f"params/{ours}/scale")]


def batch_norm(theirs: str, ours: str) -> list[Entry]:
    """The entries of a batch norm with a trained scale."""
    scale = Entry(f"{theirs}.weight", f"params/{ours}/scale")
    return [scale, *batch_norm_without_scale(theirs, ours)]


def batch_norm_without_scale(theirs: str, ours: str) -> list[Entry]:
    """The entries of a batch norm, but for its scale."""
    return [
        Entry(f"{theirs}.bias", f"params/{ours}/bias"),
        Entry(f"{theirs}.running_mean", f"stats/{ours}/mean"),
        Entry(f"{theirs}.running_var", f"stats/{ours}/var"),
    ]
