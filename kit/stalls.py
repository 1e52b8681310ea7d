"""Ending what stands still: a limit on time without progress, never one on the whole.

A transfer over a slow line may take hours and must be let; one whose other end is gone, or sends a
byte a minute to hold a place, must not. Only time spent waiting for the other end counts.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PROGRESS_BYTES = 16 << 10  # fewer in the whole limit are no progress: 270 bytes a second


@dataclass(eq=False)
class Patience:
    """How long one transfer has waited for its other end since it last moved."""

    end: Callable[[], object]
    clock: Callable[[], float]
    ended: bool = False
    _waited_s: float = 0.0
    _since: float | None = None
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of this block as waiting for the other end."""
        with self._lock:
            self._since = self.clock()
        try:
            yield
        finally:
            with self._lock:
                if self._since is not None:
                    self._waited_s += self.clock() - self._since
                self._since = None

    def moved(self, size_bytes: int) -> None:
        """Note what went over; enough of it, in small pieces or large, is progress."""
        with self._lock:
            self._bytes += size_bytes
            if self._bytes >= PROGRESS_BYTES:
                self._bytes, self._waited_s = 0, 0.0
                if self._since is not None:
                    self._since = self.clock()

    def waited_s(self) -> float:
        """Return the seconds without progress."""
        with self._lock:
            since = self._since
            return self._waited_s + (0.0 if since is None else self.clock() - since)


class Watch:
    """Ends every transfer that waited longer than `limit_s` without progress."""

    def __init__(self, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s, self._clock = limit_s, clock
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._watched: set[Patience] = set()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watching, not what is watched."""
        self._stopping.set()
        self._thread.join()

    @contextmanager
    def over(self, end: Callable[[], object]) -> Iterator[Patience]:
        """Watch one transfer for the length of a block; `end` is called once if it stands still."""
        patience = Patience(end, self._clock)
        with self._lock:
            self._watched.add(patience)
        try:
            yield patience
        finally:
            with self._lock:
                self._watched.discard(patience)

    def check(self) -> None:
        """End what stands still now."""
        with self._lock:
            late = [p for p in self._watched if not p.ended and p.waited_s() > self._limit_s]
        for patience in late:
            patience.ended = True
            patience.end()

    def _run(self) -> None:
        while not self._stopping.wait(min(1.0, self._limit_s / 4)):
            self.check()
