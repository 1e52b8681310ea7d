"""Engines: where shards and experts are computed. Same plan, same bits on CPU."""

from typing import Protocol

from coordinator.context import Coordinator
from coordinator.engines.parts import Parts


class Engine(Protocol):
    """Computes the parts of a build, one kind after the other."""

    name: str

    def make(self, coordinator: Coordinator, parts: Parts) -> None:
        """Return when every part is kept, whoever made it.

        Raises:
            StateError: the build gave way to another plan.
            KitError: one cannot be made; its job is left to the next one.
        """
