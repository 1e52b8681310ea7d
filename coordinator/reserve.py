"""The coordinator's disk reserve: a full disk still permits a revocation.

New uploads are refused before they would eat it; `serve` holds it back again once there is room.
"""

from contextlib import AbstractContextManager

from coordinator.context import Coordinator
from coordinator.home import Home
from kit.errors import LimitError
from kit.reserve import Reserve

RESERVE_BYTES = 8 << 20  # a revocation and its shredding write well under one


def reserve(home: Home) -> Reserve:
    """Return the reserve of a home."""
    return Reserve(home.path / "reserve", RESERVE_BYTES)


def drawn_on(home: Home) -> AbstractContextManager[None]:
    """Run a block that takes something out of use, even if the disk is full."""
    return reserve(home).drawn_on()


def hold(coordinator: Coordinator) -> int:
    """Hold the reserve back, again if it was given up; returns how many there are (0 or 1)."""
    return int(reserve(coordinator.home).hold())


def require_room(home: Home, needed_bytes: int) -> None:
    """Refuse work that would eat what is held back for revocations.

    Raises:
        LimitError: the disk has no room for it.
    """
    if not reserve(home).has_room(needed_bytes):
        raise LimitError(
            "the coordinator's disk has no room for this upload",
            hint="run the same command again later; the coordinator's operator has to make room",
        )
