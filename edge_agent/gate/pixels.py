"""The images that a run was trained on, as distances ask for them; no torch."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_agent.datasets.examples import Cohort
from federation.learning.downstream.distances import distances, flat

MAX_REFERENCES = 2_000  # images that calibrate a quantile; more change it little


class UnitImages:
    """The images of a cohort, grouped by unit, mirrored ones beside them."""

    def __init__(self, cohort: Cohort) -> None:
        names = sorted(set(cohort.units))
        number = {unit: index for index, unit in enumerate(names)}
        owner = np.array([number[unit] for unit in cohort.units])
        order = np.argsort(owner, kind="stable")
        self.owner = np.repeat(owner[order], 2)
        images, mirrored = flat(cohort.images), flat(cohort.images[..., ::-1])
        pairs = np.stack([images[order], mirrored[order]], axis=1)  # a run may be one with flips
        self._flat = pairs.reshape(-1, images.shape[1])
        self._starts = np.flatnonzero(np.r_[True, np.diff(self.owner) > 0])
        self.units = len(names)

    def to_units(self, images: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield slices of flat `images` and their distances to the nearest image of every unit."""
        for part, found in distances(images, self._flat):
            yield part, np.minimum.reduceat(found, self._starts, axis=1)

    def leave_one_out(self) -> Iterator[NDArray[np.float32]]:
        """Yield distances of these images to every other unit; infinite to their own."""
        step = max(1, -(-len(self.owner) // (2 * MAX_REFERENCES))) * 2  # unmirrored rows only
        asked, owner = self._flat[::step], self.owner[::step]
        for part, found in self.to_units(asked):
            found[np.arange(len(found)), owner[part]] = np.inf
            yield found
