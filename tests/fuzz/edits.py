"""Random edits of bytes and of JSON values, all from one `random.Random`."""

import copy
import random
from collections.abc import Iterator
from typing import Any

Path = tuple[Any, ...]

_WORDS = (
    *(b"", b"\0", b"\xff", b"\n", b" ", b"{", b"}", b"[", b'"', b",", b"null", b"true", b"NaN"),
    *(
        b"-1",
        b"0",
        b"1e9",
        b"9" * 20,
        b"\\u0000",
        b"../",
        b"\x80\x04.",
        b"PK\x03\x04",
        b"\xe2\x80\xae",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 10**6, (1 << 53) - 1, "", "x", "=cmd", "../x", "\u202e"),
    *("\ud800", "0", "1", "1.0", "-0.0", "1e-06", "nan", "inf", "0" * 64, "f" * 64, "A" * 64),
    *(
        [],
        {},
        [[]],
        [{}],
        {"": ""},
        ["x", "x"],
        "a" * 300,
        [None],
        {"sha256": None},
        [True],
        ["cat"],
    ),
    *("2026-01-31T12:00:00Z", "9999-12-31T23:59:59Z", "AA==", "none", "patient", "image", "cat"),
)


def edit_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return `data` with one to three random edits; never `data` itself."""
    altered = bytearray(data)
    while altered == data:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _edit_once(rng, altered)
    return bytes(altered)


def _edit_once(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 1, 2, 4, 16, 64)))
    match rng.randrange(6):
        case 0 if start < len(data):
            data[start] ^= 1 << rng.randrange(8)
        case 1:
            data[start:end] = rng.randbytes(end - start)
        case 2:
            del data[start:end]
        case 3:
            data[start:start] = data[start:end]
        case 4:
            data[start:end] = rng.choice(_WORDS)
        case _:
            place = rng.randrange(len(data) + 1)
            data[place:place] = rng.choice((rng.randbytes(1), rng.choice(_WORDS)))


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value inside a JSON value."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for name, item in inner:
        yield (*path, name)
        yield from places(item, (*path, name))


def edit_json(rng: random.Random, table: Any) -> None:
    """Change one random place of a JSON value: another value, none, or one more."""
    *folders, last = rng.choice(list(places(table)))
    for name in folders:
        table = table[name]
    match rng.randrange(8):
        case 0:
            del table[last]
        case 1 if isinstance(table, dict):
            table[rng.choice(("x", "extra", "__class__", "version", ""))] = _odd(rng)
        case 2 if isinstance(table, list):
            table.insert(
                rng.randrange(len(table) + 1), rng.choice((_odd(rng), copy.deepcopy(table[last])))
            )
        case 3 | 4:
            table[last] = _near(rng, table[last])
        case _:
            table[last] = _odd(rng)


def _odd(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(_VALUES))  # a later edit may change it in place


def _near(rng: random.Random, value: Any) -> Any:
    """Return a value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((1, -1, 2, -2, 1 << 20, 1 << 53))
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice("019afx.-/ZX=\x1b") + value[at + rng.randrange(2) :]
    return _odd(rng)
