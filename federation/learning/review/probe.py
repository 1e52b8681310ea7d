"""A small classifier that needs no training loop: Fisher's discriminant on random features.

Features are random convolutions, rectified and averaged over a 4 x 4 grid (Rahimi and Recht 2007;
Coates et al. 2011). Their seed hangs on the study's secret, so nobody can train against them. The
probe of any set of blueprints follows from their means and scatters, so leaving one out is exact
and costs nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from federation.learning.review.drawn import Images

_FILTERS = 32
_GRID = 4
_SHRINK = 0.1  # of the scatter towards a multiple of the identity
_ROWS_PER_PASS = 512

Values = npt.NDArray[np.float64]


class Features:
    """Random features of images [n, C, H, W]: float64 [n, 512]."""

    def __init__(self, shape: tuple[int, int, int], seed: int) -> None:
        channels, height, width = shape
        generator = torch.Generator().manual_seed(seed)
        side = 3 if max(height, width) < 16 else 5
        filters = torch.randn(_FILTERS, channels, side, side, generator=generator)
        self._filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
        self._offsets = torch.randn(_FILTERS, generator=generator) / 2
        self._stride = max(1, min(height, width) // 8)

    @torch.inference_mode()
    def of(self, images: Images) -> Values:
        """Return the features of images in [-1, 1]."""
        found = [self._pass(p) for p in torch.split(torch.from_numpy(images), _ROWS_PER_PASS)]
        values: Values = torch.cat(found).double().numpy()
        return values

    def _pass(self, images: torch.Tensor) -> torch.Tensor:
        padding = self._filters.shape[-1] // 2
        seen = F.conv2d(
            images, self._filters, self._offsets, stride=self._stride, padding=padding
        ).relu()
        return F.adaptive_avg_pool2d(seen, _GRID).flatten(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """All that a probe needs of one blueprint: class means, and the scatter within classes."""

    means: Mapping[str, Values]
    scatter: Values

    @classmethod
    def of(cls, features: Mapping[str, Values]) -> "Statistics":
        """Return the statistics of a blueprint's features by class."""
        means = {label: rows.mean(axis=0) for label, rows in features.items()}
        centred = np.concatenate([rows - means[label] for label, rows in features.items()])
        scatter = centred.T @ centred / max(1, len(centred) - len(means))
        return cls(means=means, scatter=scatter)


class Probe:
    """Tells the classes of some blueprints apart; each blueprint counts the same in its classes."""

    def __init__(self, blueprints: Sequence[Statistics]) -> None:
        self.classes = sorted({label for each in blueprints for label in each.means})
        means = np.stack([_mean(blueprints, label) for label in self.classes])
        scatter = np.mean([each.scatter for each in blueprints], axis=0)
        size = len(scatter)
        level = max(float(np.trace(scatter)) / size, np.finfo(np.float64).tiny)
        shrunk = (1 - _SHRINK) * scatter + _SHRINK * level * np.eye(size)
        self._weights = np.linalg.solve(shrunk, means.T)
        self._offsets = -0.5 * np.einsum("cd,dc->c", means, self._weights)

    def shares(self, features: Values) -> dict[str, float]:
        """Return which share of the images is taken for which class."""
        taken = (features @ self._weights + self._offsets).argmax(axis=1)
        counts = np.bincount(taken, minlength=len(self.classes)) / len(features)
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def agreement(self, features: Mapping[str, Values]) -> dict[str, float]:
        """Return for each class that the probe knows: the share that is taken for what it is."""
        return {
            label: self.shares(rows)[label]
            for label, rows in features.items()
            if label in self.classes
        }


def halves(features: Mapping[str, Values]) -> tuple[dict[str, Values], dict[str, Values]]:
    """Split the features of every class in two: to learn from, and to judge."""
    first = {label: rows[: len(rows) // 2] for label, rows in features.items()}
    second = {label: rows[len(rows) // 2 :] for label, rows in features.items()}
    return first, second


def _mean(blueprints: Iterable[Statistics], label: str) -> Values:
    found = [each.means[label] for each in blueprints if label in each.means]
    mean: Values = np.mean(found, axis=0)
    return mean
