"""Engines: where the shards of a build are computed. Same plan, same bits on CPU."""

from typing import Protocol

from coordinator.context import Coordinator
from coordinator.engines.parts import Parts


class Engine(Protocol):
    """Computes the shards of a build."""

    name: str

    def make_shards(self, coordinator: Coordinator, parts: Parts) -> None:
        """Return when every shard of the build is kept, whoever made it.

        Raises:
            StateError: the build gave way to another plan.
            KitError: a shard cannot be made; its job is left to the next one.
        """
