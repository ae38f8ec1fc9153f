"""Plain mappings, as files and command lines hold them, to dataclasses; names and types checked."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from facejax.errors import UserError, nearest


def build(cls: type, values: Mapping[str, Any], where: str, beside: Iterable[str] = ()) -> Any:
    """Makes the dataclass `cls` from a mapping, checking names and types recursively.

    Args:
        beside: other keys that are legal at `where`, as suggestions for a mistyped one.

    Raises:
        UserError: an unknown key, a missing one or a value of another type, at `where`.<key>.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise UserError(f"{where}.{key}", "unknown key", nearest(key, [*fields, *beside]))
    for name, f in fields.items():
        no_default = f.default is f.default_factory is dataclasses.MISSING
        if no_default and name not in values:
            raise UserError(f"{where}.{name}", "missing", f"set {where}.{name}")
    return cls(**{k: coerce(v, hints[k], f"{where}.{k}") for k, v in values.items()})


def coerce(value: Any, hint: Any, where: str) -> Any:
    """The value as the type that an annotation names, or a UserError at `where`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _frozen(value)
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, args, where)
    if origin is Literal:
        if value in args:
            return value
        legal = [str(a) for a in args]
        raise UserError(where, f"'{value}' is not a legal value", nearest(str(value), legal))
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        inner = args[:1] * len(value) if len(args) == 2 and args[1] is ... else args
        if len(inner) != len(value):
            raise UserError(where, f"{len(value)} values", f"give {len(inner)}")
        return tuple(coerce(v, a, f"{where}[{i}]") for i, (v, a) in enumerate(zip(value, inner)))
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, Any])) and isinstance(
        value, Mapping
    ):
        return {str(k): coerce(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is type(None) and value is None:
        return None
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    plain = isinstance(hint, type) and isinstance(value, hint)
    if plain and not (hint is int and isinstance(value, bool)):
        return value
    wanted = getattr(hint, "__name__", str(hint))
    raise UserError(where, f"{value!r} is not of type {wanted}", f"give a value of type {wanted}")


def _frozen(value: Any) -> Any:
    """Lists, as JSON gives them, become the tuples that a config file writes."""
    if isinstance(value, Mapping):
        return {k: _frozen(v) for k, v in value.items()}
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _coerce_union(value: Any, options: Sequence[Any], where: str) -> Any:
    if value is not None and len(some := [o for o in options if o is not type(None)]) == 1:
        return coerce(value, some[0], where)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return build(option, value, where)
    literals = [o for o in options if typing.get_origin(o) is Literal]
    if isinstance(value, str) and len(literals) == 1 and str not in options:
        return coerce(value, literals[0], where)
    for option in options:
        try:
            return coerce(value, option, where)
        except UserError:
            continue
    wanted = " or ".join(
        "None" if o is type(None) else getattr(o, "__name__", str(o)) for o in options
    )
    raise UserError(where, f"{value!r} is not of type {wanted}", f"give a value of type {wanted}")


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
