"""What there is to measure: one cell is one method on one deal of images at one epsilon.

The order of `grid` is that in which cells are measured: what says most for its time comes first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

EPSILONS: tuple[float | None, ...] = (8.0, None, 1.0, 3.0, 10.0)
IMAGES = (2400, 1000, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of the table, for one seed.

    Attributes:
        dataset: a name of `datasets.names()`.
        clients: hospitals that the classes are dealt to; 1 is all images in one place.
        images: training images of the whole federation; None is all there are.
        epsilon: per image at `trials.DELTA` or less; None is without privacy.
        method: a name of `methods.METHODS`.
        seed: of the deal, and of all that is not secret.
    """

    dataset: str
    clients: int
    images: int | None
    epsilon: float | None
    method: str
    seed: int

    def to_table(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


class Scope(Protocol):
    """What a method's figure depends on beside images and seed."""

    @property
    def is_private(self) -> bool:
        """Whether on epsilon."""

    @property
    def is_federated(self) -> bool:
        """Whether on how images are dealt to hospitals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: everything of a cell but method and seed."""

    dataset: str
    clients: int
    images: int | None
    epsilon: float | None

    def cell(self, method: str, seed: int, scope: Scope) -> Cell:
        """Return one method's cell; what needs no epsilon, or no hospitals, shares its figure."""
        return Cell(
            dataset=self.dataset,
            clients=self.clients if scope.is_federated else 1,
            images=self.images,
            epsilon=self.epsilon if scope.is_private else None,
            method=method,
            seed=seed,
        )


def rows(
    dataset: str,
    *,
    available: int,
    partitions: Sequence[int],
    images: Sequence[int],
    epsilons: Sequence[float | None],
) -> Iterator[Row]:
    """Yield the lines of one data set; a number of images that it lacks becomes all it has.

    `available` is its training images at the first seed.
    """
    sizes = dict.fromkeys(None if size >= available else size for size in images)
    for size in sizes:
        for clients in partitions:
            for epsilon in epsilons:
                yield Row(dataset=dataset, clients=clients, images=size, epsilon=epsilon)
