"""Euclidean distances between small images, in bounded memory; no torch."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MAX_SIDE_PX = 32  # larger images are averaged down: copies stay copies, at a fraction of the work
_CHUNK_VALUES = 1 << 24  # distances held at once: 64 MB


def reduced(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return images [n, C, H, W] averaged down, by whole pixels, to `MAX_SIDE_PX` or less."""
    n, channels, height, width = images.shape
    tall, wide = -(-height // MAX_SIDE_PX), -(-width // MAX_SIDE_PX)
    if tall == 1 and wide == 1:
        return images
    rows, columns = height // tall, width // wide
    cut = images[..., : rows * tall, : columns * wide]
    means: NDArray[np.float32] = cut.reshape(n, channels, rows, tall, columns, wide).mean(
        axis=(3, 5), dtype=np.float32
    )
    return means


def reduced_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return (C, H, W) of what `reduced` makes of images of `shape`."""
    channels, height, width = shape
    return channels, height // -(-height // MAX_SIDE_PX), width // -(-width // MAX_SIDE_PX)


def flat(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [n, values] of `reduced` images."""
    return np.ascontiguousarray(reduced(images).reshape(len(images), -1), dtype=np.float32)


def distances(
    a: NDArray[np.float32], b: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield slices of flat `a` and their Euclidean distances to all of `b`, in bounded blocks."""
    squares = np.einsum("ij,ij->i", b, b)
    rows = max(1, _CHUNK_VALUES // max(1, len(b)))
    for start in range(0, len(a), rows):
        block = a[start : start + rows]
        norms = np.einsum("ij,ij->i", block, block)
        gram = norms[:, None] + squares[None] - 2 * (block @ b.T)
        yield slice(start, start + len(block)), np.sqrt(np.maximum(gram, 0))
