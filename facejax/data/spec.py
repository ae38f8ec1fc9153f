"""From a plain dict, as configs and command lines hold it, to a source's `Config`."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from facejax.errors import UserError, nearest


def build(cls: type, values: Mapping[str, Any], where: str, beside: Iterable[str] = ()) -> Any:
    """Makes the dataclass `cls` from `values`.

    Args:
        beside: other keys that are legal at `where`, as suggestions for a mistyped one.

    Raises:
        UserError: an unknown key, a missing one or a value of another type, at `where`.<key>.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise UserError(f"{where}.{key}", "unknown key", nearest(key, [*fields, *beside]))
    for name, f in fields.items():
        no_default = f.default is f.default_factory is dataclasses.MISSING
        if no_default and name not in values:
            raise UserError(f"{where}.{name}", "missing", f"set {where}.{name}")
    hints = typing.get_type_hints(cls)
    return cls(**{k: _checked(v, hints[k], f"{where}.{k}") for k, v in values.items()})


@contextmanager
def keys_of(config: Any, where: str) -> Iterator[None]:
    """Completes a UserError that names a bare key of the dataclass `config`: n -> `where`.n."""
    try:
        yield
    except UserError as error:
        keys = {f.name for f in dataclasses.fields(config)}
        if error.where.partition(".")[0] not in keys:
            raise
        raise type(error)(f"{where}.{error.where}", error.what, error.remedy) from error


def _checked(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    options = args if origin in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        fits, converted = _fit(value, option)
        if fits:
            return converted
    if origin is Literal:
        legal = [str(a) for a in args]
        raise UserError(where, f"'{value}' is not a legal value", nearest(str(value), legal))
    wanted = " or ".join(getattr(o, "__name__", str(o)) for o in options)
    raise UserError(where, f"{value!r} is not of type {wanted}", f"give a value of type {wanted}")


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether `value` is of type `hint`, and the value as that type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args, value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False, value
        inner = args[:1] * len(value) if args[-1] is ... else args
        parts = [_fit(v, a) for v, a in zip(value, inner)]
        return len(inner) == len(value) and all(ok for ok, _ in parts), tuple(v for _, v in parts)
    if isinstance(value, bool):
        return hint is bool, value
    if hint is float and isinstance(value, int):
        return True, float(value)
    return isinstance(value, hint), value
