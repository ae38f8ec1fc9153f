"""The only file that builds a mesh, a PartitionSpec or a placement rule.

The mesh has two axes, `data` and `fsdp`. Batches are sharded over both; parameters, optimiser state
and EMA copies over `fsdp` alike. Placement is an ordered list of (regex over the path in the state,
placement); the first match counts. Placements:

    replicate   the same on every device
    fsdp        the longest axis that `fsdp` divides is sharded over it; replicated if there is none
    devices     axis 0 is sharded over all devices (row-updated arrays such as class centres)
"""

import functools
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from facejax.config import MeshShape
from facejax.contracts import Params
from facejax.errors import UserError, nearest
from facejax.optim import path_of

AXES = ("data", "fsdp")
PLACEMENTS = ("replicate", "fsdp", "devices")

RULES = (
    (r"^(step|skipped|nonfinite)$", "replicate"),
    (r"(^|/)(bias|q_bias|v_bias|scale|ls1|ls2|count)$", "replicate"),
    (r"(^|/)lora/", "replicate"),
    (r"(^|/)grouped/kernel$", "replicate"),  # small; split, it would split the feature maps too
    (r"^objective/(sparse|velocity)/", "devices"),
    (r"(^|/)stats/", "replicate"),
    (r"(^|/)(kernel|embedding|pos_embed|cls_token|mask_token|registers|latent)$", "fsdp"),
    (r"^objective/", "replicate"),
    (r"(^|/)(objective|modifier)/", "fsdp"),
)


def make(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh over `devices` (default: all of them, of all processes).

    Raises:
        UserError: the shape does not use exactly the devices there are.
    """
    devices = list(jax.devices() if devices is None else devices)
    grid = np.asarray(devices).reshape(_sizes(shape, len(devices)))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def without_devices(shape: MeshShape, count: int) -> AbstractMesh:
    """The mesh that `make` would build over `count` devices, to ask how arrays are split.

    Raises:
        UserError: as `make`.
    """
    return AbstractMesh(_sizes(shape, count), AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def _sizes(shape: MeshShape, count: int) -> tuple[int, int]:
    sizes = [shape.data, shape.fsdp]
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise UserError("config.mesh", f"data={sizes[0]}, fsdp={sizes[1]}", "use one -1 at most")
    if -1 in sizes:
        known = -sizes[0] * sizes[1]
        sizes[sizes.index(-1)] = max(count // known, 1)
    if sizes[0] * sizes[1] != count:
        raise UserError(
            "config.mesh",
            f"data {shape.data} x fsdp {shape.fsdp} does not fit {count} devices",
            "set one of them to -1",
        )
    return sizes[0], sizes[1]


def within(mesh: Mesh, function: Callable) -> Callable:
    """`function` to be jitted, traced with `mesh` ambient: collectives in `ops` find it there.

    Its arguments have to lie on the mesh, else the program is compiled for one device.
    """

    @functools.wraps(function)
    def traced(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shardings(mesh: Mesh, tree: Params, extra: Sequence[tuple[str, str]] = ()) -> Params:
    """A NamedSharding for every leaf of a state (arrays or shapes).

    Args:
        extra: the config's rules, put before `RULES`.

    Raises:
        UserError: a leaf that no rule covers, an extra rule that covers nothing, or a placement
            that does not exist.
    """
    for i, (pattern, placement) in enumerate(extra):
        where = f"config.mesh.rules[{i}]"
        if placement not in PLACEMENTS:
            raise UserError(where, f"no placement '{placement}'", nearest(placement, PLACEMENTS))
        try:
            re.compile(pattern)
        except re.error as e:
            what = f"'{pattern}' is no regular expression ({e})"
            raise UserError(where, what, "mend it") from e
    used = set()

    def place(path, leaf) -> NamedSharding:
        name = path_of(path)
        for rule in (*extra, *RULES):
            if re.search(rule[0], name):
                used.add(rule)
                return NamedSharding(mesh, _spec(rule[1], leaf.shape, mesh))
        raise UserError(
            "config.mesh.rules",
            f"no rule covers {name} {tuple(leaf.shape)}",
            f"add ('{name.rsplit('/')[-1]}$', 'fsdp') or another placement",
        )

    placed = jax.tree_util.tree_map_with_path(place, tree)
    for i, rule in enumerate(extra):
        if rule not in used:
            raise UserError(
                f"config.mesh.rules[{i}]", f"'{rule[0]}' covers nothing", "mend it or drop it"
            )
    return placed


def _spec(placement: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    if placement == "devices" and shape and shape[0] % mesh.size == 0:
        return PartitionSpec(("data", "fsdp"))
    if placement == "fsdp" and mesh.shape["fsdp"] > 1:
        divisible = [n if n % mesh.shape["fsdp"] == 0 else 0 for n in shape]
        if any(divisible):
            axis = int(np.argmax(divisible))
            return PartitionSpec(*[None] * axis, "fsdp")
    return PartitionSpec()


def local_rows(mesh: Mesh, global_batch: int) -> np.ndarray:
    """The global row numbers i64[n] whose devices belong to this process, ascending."""
    spans = batch_sharding(mesh).addressable_devices_indices_map((global_batch,)).values()
    every = [np.arange(*span[0].indices(global_batch)) for span in spans]
    return np.unique(np.concatenate(every))


def to_global(mesh: Mesh, global_batch: int, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes global arrays of which this process holds the rows of `local_rows`."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, array, (global_batch, *array.shape[1:])
        )
        for name, array in arrays.items()
    }
