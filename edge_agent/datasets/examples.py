"""What training sees: images, labels and whose they are."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from federation.study import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """A site's examples for one study. Sensitive: never leaves the process that trains.

    Attributes:
        images: float32 [N, C, H, W] in [-1, 1], scaled by the bit depth and never by the data.
        labels: int64 [N], positions in the study's class list.
        units: N unit keys: the patient's id, or the SHA-256 of the file's (or array's) bytes.
        digests: N SHA-256 of the source bytes, hexadecimal.
        unit_kind: what `units` are; equal keys are one unit of differential privacy.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    units: tuple[str, ...]
    digests: tuple[str, ...]
    unit_kind: Unit

    def only(self, classes: NDArray[np.int64]) -> Self:
        """Return the cohort of these classes' images; a unit that has none of them is not in it."""
        return self.part(np.flatnonzero(np.isin(self.labels, classes)))

    def part(self, kept: NDArray[np.int64]) -> Self:
        """Return the images at these positions, in this order."""
        return replace(
            self,
            images=self.images[kept],
            labels=self.labels[kept],
            units=tuple(self.units[i] for i in kept),
            digests=tuple(self.digests[i] for i in kept),
        )

    def account_keys(self) -> tuple[str, ...]:
        """Return the distinct keys that the privacy ledger charges, sorted.

        They are the units and the images themselves, so that an image which comes back under a
        renamed patient, or without a patient map, still finds what was spent on it.
        """
        return tuple(sorted({*self.units, *self.digests}))
