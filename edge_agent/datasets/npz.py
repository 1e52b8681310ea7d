"""MedMNIST-format `.npz`: `train_images`, `train_labels`, and the same for `val` and `test`.

Invariants:

- Sizes declared in the zip directory are bounded before a byte is inflated.
- An array's header must account for exactly the member's bytes; object arrays are refused, so
  nothing is ever unpickled.
"""

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kit.canonical import printable
from kit.errors import KitError, LimitError

SPLITS = ("train", "val", "test")
CLASS_NAMES = "class_names"

MAX_MEMBERS = 64  # six arrays and a few names
MAX_NPZ_BYTES = 4 << 30  # inflated bytes of one split; 28 px sets are under 0.3 GB

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """One split as stored.

    Attributes:
        images: uint8 or uint16 [N, H, W] or [N, H, W, C], C 1, 3 or 4.
        labels: N labels of the study's classes, or of `class_names` where labels are text.
        named: whether the labels were text rather than positions.
    """

    images: NDArray[Any]
    labels: tuple[str, ...]
    named: bool


def read(path: Path, classes: Sequence[str], *, split: str) -> Arrays:
    """Read one split of an `.npz`; integer labels are positions in `classes`.

    Raises:
        KitError: the file, its keys, types or shapes are wrong, or a label is out of range.
        LimitError: the zip directory declares more than `MAX_NPZ_BYTES`.
    """
    if split not in SPLITS:
        raise KitError(f"split `{split}` is not one of {', '.join(SPLITS)}")
    images, labels = _load(path, [f"{split}_images", f"{split}_labels"])
    _check_images(path, images, f"{split}_images")
    what = f"`{split}_labels` of `{path}`"
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != len(images):
        raise KitError(
            f"{what} has shape {labels.shape}, not one label for each of {len(images)} images"
        )
    if labels.dtype.kind == "U":
        return Arrays(images=images, labels=tuple(labels.tolist()), named=True)
    if labels.dtype.kind not in "iu":
        raise KitError(f"{what} has type {labels.dtype}, not integers or text")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise KitError(
            f"{what} runs from {labels.min()} to {labels.max()}, but the study has "
            f"{len(classes)} classes, counted from 0",
            hint="labels are positions in the study's class list",
        )
    return Arrays(images=images, labels=tuple(classes[i] for i in labels), named=False)


def keys(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in an `.npz`.

    Raises:
        KitError: the file is missing or is not a zip archive.
    """
    with _archive(path) as archive:
        return tuple(_key(member) for member in archive.infolist())


def read_text(path: Path, key: str) -> tuple[str, ...]:
    """Return a one-dimensional array of text.

    Raises:
        KitError: it is missing or something else.
    """
    (array,) = _load(path, [key])
    if array.ndim != 1 or array.dtype.kind != "U":
        raise KitError(f"`{key}` of `{path}` is not a list of text")
    return tuple(array.tolist())


def to_pixels(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return [c, h, w] in [0, 1] from one stored image; a fourth channel (alpha) is dropped."""
    full = np.float32(np.iinfo(image.dtype).max)
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)[:3]
    return planes.astype(np.float32) / full


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise KitError(f"data `{path}` does not exist") from error
    except (*_BROKEN, ValueError) as error:
        raise KitError(f"data `{path}` is not a readable .npz archive") from error
    if len(archive.infolist()) > MAX_MEMBERS:
        archive.close()
        raise LimitError(f"data `{path}` has over {MAX_MEMBERS} arrays")
    return archive


def _key(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _load(path: Path, wanted: Sequence[str]) -> list[NDArray[Any]]:
    with _archive(path) as archive:
        members = {_key(member): member for member in archive.infolist()}
        if missing := [key for key in wanted if key not in members]:
            found = printable(", ".join(members) or "nothing", width=200)
            raise KitError(
                f"`{path}` has no `{'`, `'.join(missing)}`; it holds {found}",
                hint="MedMNIST keys are wanted: train_images, train_labels, and val, test alike",
            )
        declared = sum(members[key].file_size for key in wanted)
        if declared > MAX_NPZ_BYTES:
            raise LimitError(f"`{path}` declares {declared} bytes, over {MAX_NPZ_BYTES}")
        try:
            return [_array(archive, members[key]) for key in wanted]
        except (*_BROKEN, MemoryError) as error:
            raise KitError(f"data `{path}` is truncated or corrupt") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    what = f"array `{_key(member)}`"
    with archive.open(member) as stream:
        try:
            version = npy.read_magic(stream)
            header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, is_fortran, dtype = header[version](stream)
        except (ValueError, KeyError) as error:
            raise KitError(f"{what} is not in NumPy's format") from error
        if dtype.hasobject or dtype.kind not in "uiUfb":
            raise KitError(
                f"{what} has type `{printable(dtype)}`, which is not read",
                hint="pickled objects are never loaded; store plain integers or text",
            )
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - stream.tell():
            raise KitError(f"{what} does not have the bytes that its header declares")
        data = stream.read(size + 1)
    if len(data) != size:
        raise KitError(f"{what} is truncated")
    flat = np.frombuffer(data, dtype=dtype)
    array = flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _check_images(path: Path, images: NDArray[Any], key: str) -> None:
    if images.dtype.name not in ("uint8", "uint16"):
        raise KitError(
            f"`{key}` of `{path}` has type {images.dtype}, not uint8 or uint16",
            hint="store intensities at their full range of 0 to 255 or 0 to 65535",
        )
    is_grey = images.ndim == 3
    is_colour = images.ndim == 4 and images.shape[3] in (1, 3, 4)
    if not (is_grey or is_colour) or 0 in images.shape:
        raise KitError(
            f"`{key}` of `{path}` has shape {images.shape}, not [N, H, W] or [N, H, W, 1, 3 or 4]"
        )
