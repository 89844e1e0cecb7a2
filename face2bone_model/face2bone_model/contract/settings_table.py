"""Turn a TOML table into a frozen dataclass, naming file, key and mend for whatever does not fit."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from face2bone_model.contract.errors import SettingsError

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], table: Mapping[str, Any], where: str) -> Settings:
    """Build `kind` (a dataclass, possibly nested) from `table`.

    Args:
        kind: a frozen dataclass of bool, int, float, str, tuple, dict, Literal, Optional or dataclasses.
        table: as `tomllib` returns it.
        where: the file and table, for messages, such as ``study.toml [training]``.

    Raises:
        SettingsError: an unknown key, a missing key, or a value of another type.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # kind is a dataclass
    for key in table:
        if key not in fields:
            raise SettingsError(f"{where}: unknown key '{key}'.", f"Known keys: {', '.join(sorted(fields))}.")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(hints[name], table[name], f"{where} '{name}'")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{where}: '{name}' is missing.", f"Add a line '{name} = …'.")
    try:
        return kind(**values)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        return None if value is None else _convert(hint, value, where)
    if origin is typing.Literal:
        return _choice(typing.get_args(hint), value, where)
    if origin is tuple:
        items = _expect(list | tuple, value, where, "a list")
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in items)
    if origin in (dict, Mapping):
        items = _expect(Mapping, value, where, "a table").items()
        return {str(key): _convert(typing.get_args(hint)[1], item, f"{where}.{key}") for key, item in items}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read_settings(hint, _expect(Mapping, value, where, "a table"), where)
    return _plain(hint, value, where)


def _choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in choices:
        raise SettingsError(f"{where} is {value!r}.", f"Use one of {', '.join(map(repr, choices))}.")
    return value


def _expect(kind: Any, value: Any, where: str, name: str) -> Any:
    if not isinstance(value, kind):
        raise SettingsError(f"{where} is {value!r}.", f"It should be {name}.")
    return value


def _plain(hint: Any, value: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        # A limit that is not a number would compare as never exceeded.
        raise SettingsError(f"{where} is {value!r}.", "It should be a finite number.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        raise SettingsError(f"{where} is {value!r}.", "It should be of type int.")
    return _expect(hint, value, where, f"of type {hint.__name__}")
