"""Steps 12 and 20 to 22 once more, for a generator of the second kind: class statistics."""

from collections.abc import Callable
from typing import Any

import numpy as np

from federation.blueprint import weights
from kit import canonical
from tests.fakes.federation import ARCHITECTURE
from tests.fakes.forge import MEANS, STATISTICS, STATISTICS_TABLE, Case, Forge, statistics
from tests.vectors.hostile import Vector

FACTOR, RESIDUAL = "factor.weight", "residual"
KEPT, FINER = STATISTICS_TABLE[MEANS][1][1], 49  # coefficients of the preset, and a finer one's
Make = Callable[[Forge], Case]


def _sealed(data: bytes, **layers: Any) -> Make:
    return lambda forge: forge.seal(data=data, architecture=STATISTICS, **layers)


def _of(table: weights.Table) -> Make:
    """Return a maker of zeros under another table of tensors."""
    return _sealed(weights.header(table) + bytes(weights.payload_bytes(table)))


def _with(**tensors: np.ndarray) -> Make:
    """Return a maker with other values in the tensors of the true table, without any check."""
    values = statistics() | tensors
    bits = [(values[name].view(np.uint32) >> 16).astype("<u2") for name in sorted(values)]
    return _sealed(weights.header(STATISTICS_TABLE) + b"".join(b.tobytes() for b in bits))


def _hidden() -> np.ndarray:
    means = statistics()[MEANS].copy()
    means[2, -1] = 2.0**-20
    return means


def _without(name: str) -> weights.Table:
    return {n: t for n, t in STATISTICS_TABLE.items() if n != name}


HONEST = weights.write(statistics())
WIDE = np.full((KEPT, KEPT), 9984.0, dtype=np.float32)
FAULTS: dict[tuple[int, str], Make] = {
    (0, "class statistics"): _sealed(HONEST),
    (12, "class statistics of more classes than the study"): lambda forge: forge.seal(
        data=HONEST, architecture=STATISTICS | {"num_classes": 4}
    ),
    (20, "class statistics with the file of the other kind"): _sealed(
        HONEST, file=canonical.encode(ARCHITECTURE)
    ),
    (21, "a network under the name of class statistics"): lambda forge: forge.seal(
        architecture=STATISTICS
    ),
    (21, "class statistics under the name of a network"): lambda forge: forge.seal(data=HONEST),
    (21, "a mean of a class too many"): _of(STATISTICS_TABLE | {MEANS: ("BF16", (4, KEPT))}),
    (21, "means of finer coefficients"): _of(STATISTICS_TABLE | {MEANS: ("BF16", (3, FINER))}),
    (21, "a factor that is not square"): _of(
        STATISTICS_TABLE | {FACTOR: ("BF16", (KEPT - 1, KEPT))}
    ),
    (21, "a factor for each class"): _of(STATISTICS_TABLE | {FACTOR: ("BF16", (3, KEPT, KEPT))}),
    (21, "a residual for each class"): _of(STATISTICS_TABLE | {RESIDUAL: ("BF16", (3,))}),
    (21, "class statistics without a residual"): _of(_without(RESIDUAL)),
    (21, "a patient beside the class statistics"): _of(
        STATISTICS_TABLE | {"nearest": ("BF16", (1, 64))}
    ),
    (22, "a mean of an undeclared class"): _with(**{MEANS: _hidden()}),
    (22, "a factor over the norm"): _with(**{FACTOR: WIDE}),
}


def catalogue() -> list[Vector]:
    """Return the control and the vectors of class statistics."""
    return [
        Vector(step=step, fault=fault, family="class statistics", make=make)
        for (step, fault), make in FAULTS.items()
    ]
