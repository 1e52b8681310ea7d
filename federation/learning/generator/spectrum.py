"""The public basis of low-dimensional generators: cosine coefficients, coarse ones first.

Nothing here is learned from anybody's images. Coefficients are those of the orthonormal DCT-II of
each of three colour differences (or of the one grey channel), ordered by the power that natural
images have there on average: as one over the square of the frequency, colour a quarter of it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CHROMA_POWER = 0.25
# Brightness, red against blue, green against both: orthonormal rows.
_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The basis of images of one shape.

    Attributes:
        shape: (C, H, W).
        rows, columns: DCT matrices [H, H] and [W, W], one frequency per row.
        colours: [C, C], orthonormal.
        order: int64 [C H W]: position of the i-th coarsest coefficient in a flat [C, H, W].
        power: [C H W], in that order: the public prior of a coefficient's variance; sums to 1.
    """

    shape: tuple[int, int, int]
    rows: Floats
    columns: Floats
    colours: Floats
    order: NDArray[np.int64]
    power: Floats

    def coefficients(self, images: NDArray[np.float32]) -> Floats:
        """Return the coefficients [N, C H W] of images [N, C, H, W], coarse ones first."""
        mixed = np.einsum("dc,nchw->ndhw", self.colours, images.astype(np.float64))
        planes = self.rows @ mixed @ self.columns.T
        return np.asarray(planes.reshape(len(images), -1)[:, self.order], dtype=np.float64)


@lru_cache(maxsize=8)
def spectrum(channels: int, height: int, width: int) -> Spectrum:
    """Return the basis of images of `channels` (1 or 3) x `height` x `width` pixels."""
    down, across = np.arange(height)[:, None], np.arange(width)[None]
    falling = 1 / (1.0 + down**2 + across**2)
    weights = np.array([1.0] + [_CHROMA_POWER] * (channels - 1))
    power = (weights[:, None, None] * falling).ravel()
    order = np.argsort(-power, kind="stable")
    return Spectrum(
        shape=(channels, height, width),
        rows=_dct(height),
        columns=_dct(width),
        colours=_COLOURS if channels == 3 else np.ones((1, 1)),
        order=order.astype(np.int64),
        power=power[order] / power.sum(),
    )


def _dct(count: int) -> Floats:
    """Return the orthonormal DCT-II matrix: row k is frequency k."""
    place, frequency = np.arange(count)[None], np.arange(count)[:, None]
    matrix = np.cos(np.pi * frequency * (2 * place + 1) / (2 * count)) * np.sqrt(2 / count)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, dtype=np.float64)
