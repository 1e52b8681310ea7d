"""Images that a blueprint's generator drew for review: the only thing that the aids look at."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_IMAGES_PER_CLASS = 128
_LEAST_PER_CLASS = 32
_IMAGES_IN_ALL = 1280  # of a blueprint with many classes
Images = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One blueprint: class -> images float32 [n, C, H, W] in [-1, 1], in the study's order."""

    name: str
    images: Mapping[str, Images]


def images_per_class(classes: int, *, shard_size: int) -> int:
    """Return how many images of each of a blueprint's `classes` are drawn for the aids.

    No more than a build would draw; fewer of each where there are many classes.
    """
    wanted = max(_LEAST_PER_CLASS, min(_IMAGES_PER_CLASS, _IMAGES_IN_ALL // classes))
    return min(wanted, shard_size)
