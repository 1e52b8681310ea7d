"""Which units take part in a step: Poisson over units with one explicit rate.

Invariants, on which the accountant's bound rests:

- Every unit is drawn independently with the same rate q, whatever its class or image count.
- The draw is never capped, filled up or reordered by anything private, and may be empty.
- The coin tosses come from operating-system entropy and are not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.training.noise import secret_uniform

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTable:
    """The images of every unit: unit u owns `order[start[u] : start[u] + count[u]]`."""

    order: Indices
    start: Indices
    count: Indices

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.count)


def unit_table(units: Sequence[str]) -> UnitTable:
    """Group images by their unit key; `units` names the unit of each image."""
    _, owner = np.unique(np.array(units, dtype=np.str_), return_inverse=True)
    count = np.bincount(owner)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    order = np.argsort(owner, kind="stable")
    return UnitTable(order=order, start=start.astype(np.int64), count=count.astype(np.int64))


def poisson_draw(units: int, *, sample_rate: float) -> Indices:
    """Return the units of one step, each in with probability `sample_rate` on its own."""
    return np.flatnonzero(secret_uniform(units) < sample_rate).astype(np.int64)


def image_draws(table: UnitTable, drawn: Indices, *, draws: int) -> Indices:
    """Return an image per draw and drawn unit, [draws, len(drawn)], uniform within the unit."""
    chance = secret_uniform(draws * len(drawn)).reshape(draws, len(drawn))
    within = (chance * table.count[drawn]).astype(np.int64)
    picked: Indices = table.order[table.start[drawn] + within]
    return picked
