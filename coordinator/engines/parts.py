"""The jobs of one kind in one build, as an engine sees them."""

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.context import Coordinator
from coordinator.experts import Expert, Trainer
from coordinator.jobs import JobKind, Owner
from coordinator.plans import Setting
from coordinator.shards import Maker, Shard

Part = Shard | Expert


class AnyMaker:
    """Makes shards and experts of a setting."""

    def __init__(self, coordinator: Coordinator, setting: Setting) -> None:
        self._shards = Maker(coordinator, setting)
        self._experts = Trainer(coordinator, setting)

    def make(self, part: Part) -> bool:
        """Have a part kept, on the threads that are pinned now; says whether it was made now.

        Raises as `Maker.make` and `Trainer.make`.
        """
        return self._shards.make(part) if isinstance(part, Shard) else self._experts.make(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the jobs of a kind make: `parts[n - first]` is that of job n.

    `report(done, total)` follows them.
    """

    build: int
    kind: JobKind
    setting: Setting
    first: int
    parts: tuple[Part, ...]
    owner: Owner
    report: Callable[[int, int], None]
