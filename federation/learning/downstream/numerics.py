"""Numerics: the settings that a build's bits depend on, pinned and put on record.

Equal inputs give equal bits only between equal fingerprints: one thread against two, or AVX2
against AVX-512, sum floating-point numbers in another order.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from kit.errors import KitError

MAX_THREADS = 256


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Run the block on exactly `threads` threads with deterministic algorithms only.

    The settings are those of the process: one build at a time, and nothing else computes beside
    it. They are restored on the way out.

    Raises:
        KitError: `threads` is not 1 to 256.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise KitError(f"threads must be 1 to {MAX_THREADS}, not `{threads}`")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with deterministic_algorithms():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Refuse, inside the block, every operation that has no deterministic form."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def numerics_fingerprint(threads: int) -> dict[str, str | int]:
    """Return what the bits depend on beside seeds and inputs: JSON strings and integers only."""
    backends = {
        "mkldnn": torch.backends.mkldnn,
        "mkl": torch.backends.mkl,
        "openmp": torch.backends.openmp,
    }
    available: dict[str, str | int] = {k: int(b.is_available()) for k, b in backends.items()}
    return available | {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
    }
