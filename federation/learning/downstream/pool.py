"""The shards of a build as one training set, and what of them is held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from federation.learning.downstream.pixels import Images, Joined
from federation.learning.downstream.train import Labels
from kit.errors import KitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Shards in the caller's order.

    `present` are the study's positions of the classes that have a shard, in order; `columns[i]` is
    the place among them of shard i's class. `held_out` are the last images of every shard.
    """

    present: tuple[int, ...]
    columns: tuple[int, ...]
    training: Images
    held_out: Images | None

    @classmethod
    def of(cls, shards: Sequence[tuple[int, Images]], *, classes: int, held_out: int) -> Self:
        """Join shards of (position in the study, images [M, C, H, W]); M and shape are the same.

        Raises:
            KitError: there is no shard, a class is out of range, or shards differ in shape.
        """
        present = tuple(sorted({index for index, _ in shards}))
        if not present:
            raise KitError(
                "there is nothing to build from", hint="approve at least one blueprint first"
            )
        if present[0] < 0 or present[-1] >= classes:
            raise KitError(f"a shard's class is not one of the study's {classes}")
        if len({images.shape for _, images in shards}) != 1:
            raise KitError("shards differ in shape")
        parts = [images for _, images in shards]
        size = parts[0].shape[0]
        if not 0 <= held_out < size:
            raise KitError(f"`{held_out}` of {size} images of a shard cannot be held out")
        kept = size - held_out
        return cls(
            present=present,
            columns=tuple(present.index(index) for index, _ in shards),
            training=Joined(parts, stop=kept),
            held_out=Joined(parts, start=kept) if held_out else None,
        )

    def labels(self, images: Images) -> Labels:
        """Return the columns of `training` or `held_out`, image by image."""
        each = images.shape[0] // len(self.columns)
        return np.repeat(np.array(self.columns, dtype=np.int64), each)
