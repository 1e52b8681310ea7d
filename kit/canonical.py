"""Canonical JSON, base64 and names: one byte string for one value.

Invariants:

- `decode(encode(x)) == x`, and `encode(decode(b)) == b` for every accepted `b`.
- No floating-point numbers: a real is a decimal string, written by `real` and read by `to_float`.
- Duplicate keys, unknown escapes, deep nesting and over-long input are refused before use.
"""

import base64
import binascii
import hashlib
import json
import math
import re
from typing import Any

from kit.errors import FormatError

MAX_JSON_BYTES = 1 << 20  # a statement is 3 KB; nothing signed here needs a megabyte
MAX_DEPTH = 16
MAX_INTEGER = (1 << 53) - 1  # what every JSON reader holds exactly

# Closed character sets: no escapes, bidi marks, homoglyphs or spreadsheet formulas can pass (A21).
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._+()/-]{0,62}[A-Za-z0-9)])?")
_REAL = re.compile(r"-?(?:0|[1-9][0-9]{0,20})(?:\.[0-9]{1,20})?(?:e-?[0-9]{1,3})?")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def encode(value: Any) -> bytes:
    """Return the canonical JSON of `value`: sorted keys, no blanks, ASCII, no floats."""
    _check(value, depth=0)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def decode(data: bytes, *, limit: int = MAX_JSON_BYTES) -> Any:
    """Parse canonical JSON; anything that would not be written the same way is refused.

    Raises:
        FormatError: `data` is too long, not JSON, or not canonical.
    """
    if len(data) > limit:
        raise FormatError(f"JSON of {len(data)} bytes is over the limit of {limit}")
    try:
        value = json.loads(data)
        if encode(value) != data:
            raise FormatError("JSON is not in canonical form")
    except (ValueError, RecursionError) as error:
        raise FormatError("bytes are not JSON") from error
    return value


def _check(value: Any, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise FormatError(f"JSON is nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise FormatError("JSON keys must be strings")
            _check(inner, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check(inner, depth=depth + 1)
    elif isinstance(value, bool) or value is None or isinstance(value, str):
        return
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise FormatError(f"integer `{value}` is outside the exact range")
    else:
        raise FormatError(f"a {type(value).__name__} has no canonical form")


def b64encode(data: bytes) -> str:
    """Return standard padded base64 (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def b64decode(text: Any, *, limit: int = 2 * MAX_JSON_BYTES) -> bytes:
    """Decode base64 strictly; non-canonical padding or spare bits are refused.

    Raises:
        FormatError: `text` is not a string, too long, or not what `b64encode` writes.
    """
    if not isinstance(text, str) or len(text) > limit:
        raise FormatError("base64 text is missing or too long")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("text is not base64") from error
    if b64encode(data) != text:
        raise FormatError("base64 is not in canonical form")
    return data


def digest(data: bytes) -> str:
    """Return the lower-case hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def real(value: float) -> str:
    """Write a finite real as the shortest decimal that reads back exactly; zero has no sign."""
    if not math.isfinite(value):
        raise FormatError("a real must be finite")
    return repr(float(value) + 0.0).replace("e+", "e")  # -0.0 + 0.0 is 0.0


def to_float(text: Any, *, what: str = "number") -> float:
    """Read what `real` wrote.

    Raises:
        FormatError: `text` is not a canonical decimal string.
    """
    if not isinstance(text, str) or not _REAL.fullmatch(re.sub(r"e-0+", "e-", text)):
        raise FormatError(f"{what} is not a decimal string")
    value = float(text)
    if not math.isfinite(value) or real(value) != text:
        raise FormatError(f"{what} is not in canonical form")
    return value


def name(text: Any, *, what: str = "name") -> str:
    """Return `text` if it is an identifier: 1 to 63 of `a-z 0-9 . _ -`."""
    if not isinstance(text, str) or not _NAME.fullmatch(text) or ".." in text:
        raise FormatError(
            f"{what} `{printable(text)}` is not allowed",
            hint="use 1 to 63 lower-case letters, digits, `.`, `_` or `-`",
        )
    return text


def label(text: Any, *, what: str = "label") -> str:
    """Return `text` if it is a class label: 1 to 64 plain ASCII characters, no formulas."""
    if not isinstance(text, str) or not _LABEL.fullmatch(text):
        raise FormatError(
            f"{what} `{printable(text)}` is not allowed",
            hint="use 1 to 64 ASCII letters, digits, blanks and `._+()/-`",
        )
    return text


def sha256_hex(text: Any, *, what: str = "digest") -> str:
    """Return `text` if it is 64 lower-case hexadecimal digits."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise FormatError(f"{what} is not a SHA-256 in hexadecimal")
    return text


def printable(text: Any, *, width: int = 80) -> str:
    """Show foreign text safely on a terminal: printable ASCII only, cut to `width`."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in str(text)[: width + 1])
    return shown[:width] + ("..." if len(shown) > width else "")


def fields(value: Any, expected: set[str], *, what: str) -> dict[str, Any]:
    """Return `value` if it is an object with exactly the `expected` keys.

    Raises:
        FormatError: a key is missing or unknown.
    """
    if not isinstance(value, dict) or set(value) != expected:
        raise FormatError(f"{what} does not have exactly the fields {sorted(expected)}")
    return value


def version(value: Any, *, expected: int, what: str) -> None:
    """Check a version field; `true` is no version, though Python calls it equal to 1.

    Raises:
        FormatError: it is another one.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value != expected:
        raise FormatError(f"{what} version is not {expected}")


def integer(value: Any, *, low: int, high: int, what: str) -> int:
    """Return `value` if it is an integer in `low..high` (booleans are not integers)."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"{what} is not an integer from {low} to {high}")
    return value
