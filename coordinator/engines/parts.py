"""The shard jobs of one build, as an engine sees them."""

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.jobs import Owner
from coordinator.plans import Setting
from coordinator.shards import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One build: `shards[n]` is what its job number n makes; `report(done, total)` follows it."""

    build: int
    setting: Setting
    shards: tuple[Shard, ...]
    owner: Owner
    report: Callable[[int, int], None]
