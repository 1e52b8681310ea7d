"""Secret Gaussian noise: from operating-system entropy, used once, never derived or stored.

Invariants:

- Every call reads fresh bytes from `os.urandom`; there is no generator, hence no state to keep,
  copy, resume or subtract.
- Floating-point safe as Opacus' secure mode: the sum of four Gaussians divided by two
  (Holohan and Braghin 2021, arXiv:2107.10138, section 5.1), here in float64, so that the gaps of
  one draw's floating-point grid do not show which sum it was added to.
"""

import os

import numpy as np
import torch
from numpy.typing import NDArray

_GAUSSIANS = 4
_UNIT = 2.0**-53


def secret_normal(count: int) -> NDArray[np.float64]:
    """Return `count` independent N(0, 1) values in float64 (Box and Muller 1958).

    sensitive: add once, then discard.
    """
    pairs = -(-count // 2)
    words = np.frombuffer(os.urandom(16 * pairs), dtype="<u8") >> np.uint64(11)
    radius = np.sqrt(-2 * np.log((words[:pairs] + 1.0) * _UNIT))  # (0, 1]: the logarithm is finite
    angle = (2 * np.pi * _UNIT) * words[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def secret_noise(shape: torch.Size, *, std: float) -> torch.Tensor:
    """Return N(0, std^2) noise of `shape` in float64 on the CPU, floating-point safe.

    sensitive: add once, then discard.
    """
    count = shape.numel()
    parts = secret_normal(_GAUSSIANS * count).reshape(_GAUSSIANS, count)
    return torch.from_numpy(parts.sum(axis=0) * (std / 2)).reshape(shape)


def secret_uniform(count: int) -> NDArray[np.float64]:
    """Return `count` independent uniform values in [0, 1) with 53 bits each."""
    words = np.frombuffer(os.urandom(8 * count), dtype="<u8") >> np.uint64(11)
    return words.astype(np.float64) * _UNIT
