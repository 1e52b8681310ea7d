"""Weights on the wire: canonical safetensors, bfloat16, nothing that was not asked for.

Invariants:

- One table of tensors has one header: sorted names, canonical JSON, no holes, no metadata. `read`
  therefore compares the header with the one it expects instead of parsing a stranger's.
- Values are finite and bounded before anything computes with them.
- Rounding to bfloat16 is stochastic with operating-system entropy, so that low bits carry nothing
  chosen: the residual capacity is the eight bits of mantissa that the network itself needs.
"""

import math
import os
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from federation.blueprint import limits
from kit import canonical
from kit.errors import FormatError

DTYPE = "BF16"
_ITEM_BYTES = 2
_ALIGNMENT = 8

Table = Mapping[str, tuple[str, tuple[int, ...]]]
Arrays = dict[str, NDArray[np.float32]]


def write(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return canonical safetensors bytes of `tensors`, freshly rounded to bfloat16.

    Two calls on the same values differ in the last bit of about half of them: call it once per
    run and keep the bytes.

    Raises:
        FormatError: a value is not finite or over `MAX_ABS_WEIGHT`.
    """
    table = {name: (DTYPE, tuple(array.shape)) for name, array in tensors.items()}
    parts = [header(table)]
    for name in sorted(tensors):
        _check_values(name, tensors[name])
        bits = _round_stochastically(tensors[name])
        _check_values(name, _widen(bits))  # rounding up may pass a limit that the reader holds
        parts.append(bits.tobytes())
    return b"".join(parts)


def read(data: bytes, expected: Table) -> Arrays:
    """Return float32 arrays after checking `data` against the exact table of an architecture.

    Raises:
        FormatError: header, length or a value is off; the message names which.
    """
    check_layout(data, expected)
    return dict(iterate(data, expected))


def check_layout(data: bytes, expected: Table) -> None:
    """Check that header and length are those of the `expected` table.

    Raises:
        FormatError: they are not.
    """
    head = header(expected)
    if data[: len(head)] != head:
        raise FormatError("safetensors header is not that of the declared architecture")
    if len(data) != len(head) + payload_bytes(expected):
        raise FormatError("safetensors data are not as long as the tensor table says")


def iterate(data: bytes, expected: Table) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, float32 array) one at a time from bytes whose layout was checked.

    Raises:
        FormatError: a value is not finite or over a limit.
    """
    offset = len(header(expected))
    for name in sorted(expected):
        shape = expected[name][1]
        count = math.prod(shape)
        bits = np.frombuffer(data, dtype="<u2", count=count, offset=offset)
        array = _widen(bits).reshape(shape)
        _check_values(name, array)
        yield name, array
        offset += count * _ITEM_BYTES


def header(table: Table) -> bytes:
    """Return the one safetensors header (length prefix, JSON, padding) of a tensor table.

    Raises:
        FormatError: too many tensors, or a type other than BF16.
    """
    if len(table) > limits.MAX_TENSORS:
        raise FormatError(f"more than {limits.MAX_TENSORS} tensors")
    entries, offset = {}, 0
    for name in sorted(table):
        dtype, shape = table[name]
        if dtype != DTYPE:
            raise FormatError(f"tensor type `{dtype}` is not {DTYPE}")
        end = offset + math.prod(shape) * _ITEM_BYTES
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = canonical.encode(entries)
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def payload_bytes(table: Table) -> int:
    """Return the length of the data section of a tensor table in bytes."""
    return sum(math.prod(shape) * _ITEM_BYTES for _, shape in table.values())


def table_from_json(value: object) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read a tensor table that was kept as JSON (`{name: [dtype, [sizes]]}`)."""
    if not isinstance(value, dict):
        raise FormatError("tensor table is not an object")
    return {name: (entry[0], tuple(entry[1])) for name, entry in value.items()}


def _round_stochastically(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(array, dtype="<f4").view(np.uint32)
    dither = np.frombuffer(os.urandom(2 * bits.size), dtype="<u2").reshape(bits.shape)
    rounded: NDArray[np.uint16] = ((bits.astype(np.uint64) + dither) >> 16).astype("<u2")
    return rounded


def _widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _check_values(name: str, array: NDArray[np.float32]) -> None:
    if not np.isfinite(array).all():
        raise FormatError(f"tensor `{canonical.printable(name)}` has values that are not finite")
    if array.size and float(np.abs(array).max()) > limits.MAX_ABS_WEIGHT:
        raise FormatError(f"tensor `{canonical.printable(name)}` has a value over the limit")
    if math.sqrt(float(np.vdot(array, array))) > limits.MAX_TENSOR_NORM:
        raise FormatError(f"tensor `{canonical.printable(name)}` has a norm over the limit")
