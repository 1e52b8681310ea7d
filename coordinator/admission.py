"""Admission: a few places for transfers, and a queue of sites that wait for one.

Invariants:

- No more than `places` transfers run, so memory and workers are bounded whatever comes.
- A site holds one place, and stands in the queue once: the order is by site, oldest first.
- Who is turned away is told when to come back; who does not come back loses the turn.
- The same transfer asked for again ends its earlier call first: a site whose line broke does not
  wait for the coordinator to notice.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from coordinator.errors import BusyError

RESERVED_S = 30.0  # from the word that a place is free to the first byte
TAKEOVER_S = 10.0  # for the earlier call of the same transfer to let go
LATE_S = 20.0  # after the time to come back, before the turn is lost
MIN_RETRY_S, MAX_RETRY_S = 0.2, 30.0
_FIRST_GUESS_S = 1.0
_WEIGHT = 0.2  # of the newest transfer in the running mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """How full it is; for metrics."""

    places: int
    running: int
    reserved: int
    waiting: int
    longest_wait_s: float
    admitted: int
    turned_away: int


@dataclass
class _Place:
    subject: str
    since: float
    until: float
    end: Callable[[], object] | None = None
    has_heir: bool = False


@dataclass
class _Waiter:
    since: float
    until: float


class Admission:
    """Places for transfers of one kind."""

    def __init__(self, places: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._places, self._clock = places, clock
        self._changed = threading.Condition()
        self._held: dict[str, _Place] = {}
        self._waiting: dict[str, _Waiter] = {}
        self._mean_s = _FIRST_GUESS_S
        self._admitted = self._turned_away = 0

    def reserve(self, site: str, subject: str) -> None:
        """Keep a place for the transfer of `subject` that follows at once.

        Raises:
            BusyError: there is none yet.
        """
        with self._changed:
            held = self._held_by(site)
            if held is None:
                self._admit(site, subject)
            else:
                self._take_over(held, subject)

    def release(self, site: str, subject: str) -> None:
        """Give a reserved place back."""
        with self._changed:
            place = self._held.get(site)
            if place is not None and place.subject == subject and place.end is None:
                del self._held[site]
                self._changed.notify_all()

    @contextmanager
    def place(self, site: str, end: Callable[[], object]) -> Iterator[None]:
        """Hold a place, the reserved one if there is one, while the block runs.

        `end` ends the block from another thread.

        Raises:
            BusyError: there is none yet.
        """
        with self._changed:
            place = self._held_by(site) or self._admit(site, "")
            if place.end is not None:
                raise self._busy_with_another()
            place.end = end
            self._admitted += 1
        try:
            yield
        finally:
            with self._changed:
                now = self._clock()
                self._mean_s += _WEIGHT * (now - place.since - self._mean_s)
                if place.has_heir:
                    place.end, place.has_heir, place.until = None, False, now + RESERVED_S
                else:
                    del self._held[site]
                self._changed.notify_all()

    def view(self) -> Queue:
        """Return how full it is now."""
        with self._changed:
            now = self._clock()
            self._forget_late(now)
            running = sum(place.end is not None for place in self._held.values())
            return Queue(
                places=self._places,
                running=running,
                reserved=len(self._held) - running,
                waiting=len(self._waiting),
                longest_wait_s=max((now - w.since for w in self._waiting.values()), default=0.0),
                admitted=self._admitted,
                turned_away=self._turned_away,
            )

    def _held_by(self, site: str) -> _Place | None:
        self._forget_late(self._clock())
        return self._held.get(site)

    def _admit(self, site: str, subject: str) -> _Place:
        now = self._clock()
        waiter = self._waiting.setdefault(site, _Waiter(now, now))
        ahead = list(self._waiting).index(site)
        free = self._places - len(self._held)
        if ahead < free:
            del self._waiting[site]
            self._held[site] = _Place(subject, now, now + RESERVED_S)
            return self._held[site]
        behind = ahead - free + 1
        retry_s = min(max(self._mean_s * behind / self._places, MIN_RETRY_S), MAX_RETRY_S)
        waiter.until = now + retry_s + LATE_S
        self._turned_away += 1
        raise BusyError(
            f"{self._places} transfers are under way; this site is number {behind} in the queue",
            retry_after_s=retry_s,
        )

    def _take_over(self, held: _Place, subject: str) -> None:
        if held.end is not None and held.subject != subject:
            raise self._busy_with_another()
        if held.end is not None:
            held.has_heir = True
            held.end()
            if not self._changed.wait_for(lambda: held.end is None, TAKEOVER_S):
                raise BusyError(
                    "an earlier call of this transfer has not ended yet", retry_after_s=TAKEOVER_S
                )
        held.subject, held.until = subject, self._clock() + RESERVED_S

    def _busy_with_another(self) -> BusyError:
        self._turned_away += 1
        return BusyError(
            "another transfer of this site is under way",
            retry_after_s=max(self._mean_s, MIN_RETRY_S),
        )

    def _forget_late(self, now: float) -> None:
        for site, place in list(self._held.items()):
            if place.end is None and now > place.until:
                del self._held[site]
        for site, waiter in list(self._waiting.items()):
            if now > waiter.until:
                del self._waiting[site]
