"""Images for training: eight bits in storage, float32 in [-1, 1] where they are computed with."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]


class Images(Protocol):
    """[N, C, H, W] images, read by index: an array, or what keeps them elsewhere.

    uint8, or float32 in [-1, 1].
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, H, W."""

    def __getitem__(self, index: Index, /) -> npt.NDArray[Any]:
        """Return the images at these positions."""


class Joined:
    """Images of several parts of one shape, one part after the other; nothing is copied.

    Of each part only the images from `start` to `stop` count.
    """

    def __init__(self, parts: Sequence[Images], *, start: int = 0, stop: int | None = None) -> None:
        self._parts, self._start = parts, start
        size, *rest = parts[0].shape
        self._each = len(range(size)[start:stop])
        self.shape = (self._each * len(parts), *rest)

    def __getitem__(self, index: Index, /) -> npt.NDArray[Any]:
        """Return the images at these positions; every part is asked once."""
        number, within = np.divmod(index, self._each)
        found: npt.NDArray[Any] | None = None
        for part in np.unique(number):
            mine = np.flatnonzero(number == part)
            some = self._parts[part][within[mine] + self._start]
            if found is None:
                found = np.empty((len(index), *some.shape[1:]), dtype=some.dtype)
            found[mine] = some
        if found is None:
            raise IndexError("no position was asked for")
        return found


def to_bytes(images: npt.NDArray[np.float32]) -> Bytes:
    """Return [-1, 1] as 0 to 255, rounded to the nearest; values outside are clipped."""
    return np.rint((images.clip(-1, 1) + 1) * np.float32(127.5)).astype(np.uint8)


def from_bytes(images: Bytes) -> npt.NDArray[np.float32]:
    """Return 0 to 255 as [-1, 1]; `to_bytes` of the result is `images` again."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def batch(images: Images, index: Index) -> Tensor:
    """Return the images at `index` as float32 in [-1, 1]."""
    chosen = images[index]
    return torch.from_numpy(from_bytes(chosen) if chosen.dtype == np.uint8 else chosen)
