"""Secret Gaussian noise: from operating-system entropy, used once, never derived or stored.

Invariants:

- Every call draws a fresh 256-bit key from `os.urandom` and expands it with AES-CTR (NIST SP
  800-38A), at more than twice the speed of reading the system's generator. The key is forgotten
  within the call; there is no generator, hence no state to keep, copy, resume or subtract. What
  the noise hides is then hidden from whoever cannot tell AES-256 from random.
- Floating-point safe as Opacus' secure mode: the sum of four Gaussians divided by two
  (Holohan and Braghin 2021, arXiv:2107.10138, section 5.1), here in float64, so that the gaps of
  one draw's floating-point grid do not show which sum it was added to.
"""

import math
import os

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

_GAUSSIANS = 4
_UNIT = 2.0**-53
_BITS = (1 << 53) - 1
_KEY_BYTES, _BLOCK_BYTES, _WORD_BYTES = 32, 16, 8


def secret_normal(count: int) -> torch.Tensor:
    """Return `count` independent N(0, 1) values in float64 (Box and Muller 1958).

    sensitive: add once, then discard.
    """
    pairs = -(-count // 2)
    words = _secret_words(2 * pairs)
    words.bitwise_right_shift_(11).bitwise_and_(_BITS)
    uniform = words.double()
    near, turn = uniform[:pairs], uniform[pairs:]
    radius = near.add(1.0).mul_(_UNIT).log_().mul_(-2).sqrt_()  # of (0, 1]: finite
    angle = turn.mul(2 * math.pi * _UNIT)
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]


def secret_noise(shape: torch.Size, *, std: float) -> torch.Tensor:
    """Return N(0, std^2) noise of `shape` in float64 on the CPU, floating-point safe.

    sensitive: add once, then discard.
    """
    count = shape.numel()
    parts = secret_normal(_GAUSSIANS * count).reshape(_GAUSSIANS, count)
    return parts.sum(dim=0).mul_(std / 2).reshape(shape)


def secret_seed() -> int:
    """Return a fresh seed for what needs a torch generator and carries no privacy; never kept."""
    return int.from_bytes(os.urandom(_WORD_BYTES), "little") >> 2


def secret_uniform(count: int) -> NDArray[np.float64]:
    """Return `count` independent uniform values in [0, 1) with 53 bits each."""
    words = np.frombuffer(os.urandom(_WORD_BYTES * count), dtype="<u8") >> np.uint64(11)
    return words.astype(np.float64) * _UNIT


def _secret_words(count: int) -> torch.Tensor:
    """Return `count` independent words of 64 secret bits, int64."""
    key, first = os.urandom(_KEY_BYTES), bytes(_BLOCK_BYTES)
    stream = Cipher(algorithms.AES256(key), modes.CTR(first)).encryptor()
    words = bytearray(_WORD_BYTES * count + _BLOCK_BYTES)  # never empty, which torch refuses
    stream.update_into(bytes(len(words)), words)
    return torch.frombuffer(words, dtype=torch.int64)[:count]
