"""Labels of a batch as classes: one field of class numbers, or attributes as so many yes and no.

B rows, L labels of a row, C classes of a label.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from facejax.contracts import Spec
from facejax.errors import UserError, nearest


def shape(spec: Spec, field: str) -> tuple[int, int]:
    """L and C of a field: (1, its classes), or (attributes, 2) for "attributes".

    Raises:
        UserError: no source has such labels.
    """
    L, C = (len(spec.attributes), 2) if field == "attributes" else (1, spec.classes.get(field, 0))
    if not L or not C:
        known = sorted(name for name, count in spec.classes.items() if count)
        known += ["attributes"] if spec.attributes else []
        raise UserError("field", f"no source has classes of '{field}'", nearest(field, known))
    return L, C


def read(batch: Mapping[str, jax.Array], field: str) -> tuple[jax.Array, jax.Array]:
    """Class numbers i32[B, L], 0 where unknown, and which are known, bool[B, L]."""
    values, known = batch[field], batch[f"has_{field}"][:, None]
    if field == "attributes":
        return (values > 0).astype(jnp.int32), known & (values != 0)
    known = known & (values[:, None] >= 0)
    return jnp.where(known, values[:, None], 0), known
