"""Checks of config values that several evaluators share; `where` is the key."""

from collections.abc import Iterable

from facejax.errors import UserError, nearest


def choice(where: str, value: str, legal: Iterable[str]) -> None:
    """Raises UserError unless `value` is one of `legal`."""
    if value not in legal:
        raise UserError(where, f"'{value}' is not one of its values", nearest(str(value), legal))


def shares(where: str, *values: float) -> None:
    """Raises UserError unless all values are in (0, 1]."""
    for value in values:
        if not 0 < value <= 1:
            raise UserError(where, f"{value} is not a share", "give numbers above 0 and up to 1")
