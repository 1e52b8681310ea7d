"""Configuration: one TOML file into one frozen dataclass, every key known."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from kit.errors import KitError
from kit.files import read_limited, write_atomic

MAX_CONFIG_BYTES = 64 * 1024
_NO_HINTS: Mapping[str, str] = {}

Config = TypeVar("Config")


def load(path: Path, kind: type[Config], *, hints: Mapping[str, str] = _NO_HINTS) -> Config:
    """Read `path` into the dataclass `kind`; fields are strings, integers or booleans.

    `hints` say of keys that are unknown here what they tell of the file.

    Raises:
        KitError: the file is missing, is not TOML, or has a wrong or unknown key.
    """
    data = read_limited(path, limit=MAX_CONFIG_BYTES, what="configuration")
    try:
        table = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KitError(f"configuration `{path}` is not TOML: {error}") from error
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in table.items():
        if key not in known:
            raise KitError(
                f"configuration `{path}` has an unknown key `{key}`", hint=hints.get(key)
            )
        if not isinstance(value, _type_of(known[key])) or (
            isinstance(value, bool) and _type_of(known[key]) is int
        ):
            raise KitError(f"configuration `{path}`: `{key}` has the wrong type")
    try:
        return kind(**table)
    except TypeError as error:
        raise KitError(f"configuration `{path}` is incomplete: {error}") from error


def save(path: Path, config: Any) -> None:
    """Write a dataclass of strings, integers and booleans as TOML, atomically."""
    table = dataclasses.asdict(config)
    lines = [f"{key} = {_toml(value)}\n" for key, value in table.items()]
    write_atomic(path, "".join(lines).encode(), mode=0o600)


def _toml(value: Any) -> str:
    # JSON writes the rarest characters as surrogate pairs and leaves DEL as it is; TOML 1.0 has
    # neither.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _type_of(field: "dataclasses.Field[Any]") -> type:
    kinds = {"str": str, "int": int, "bool": bool}
    name = field.type if isinstance(field.type, str) else field.type.__name__
    return kinds[name]
