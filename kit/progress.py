"""Progress on stderr: steps, a few figures, and the time left once it can be known."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_ESTIMATE_AFTER_STEPS = 3
_REDRAW_S = 0.5
_LINE_EVERY_S = 10.0


class Progress:
    """Reports long work: one redrawn line on a terminal, a line every ten seconds elsewhere."""

    def __init__(
        self,
        title: str,
        total: int,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        done: int = 0,
    ) -> None:
        self._title, self._total, self._clock = title, total, clock
        self._stream = stream or sys.stderr
        self._started, self._first = clock(), done
        self._every_s = _REDRAW_S if self._stream.isatty() else _LINE_EVERY_S
        self._shown_at = float("-inf")

    def move(self, done: int, total: int) -> None:
        """Show progress of work whose total is known only once it runs."""
        self._total = total
        self.update(done)

    def update(self, done: int, **figures: str) -> None:
        """Show that `done` of the total steps are done, with named figures."""
        now = self._clock()
        if done < self._total and now - self._shown_at < self._every_s:
            return
        self._shown_at = now
        parts = [f"{self._title}: {done}/{self._total}"]
        parts += [f"{name} {value}" for name, value in figures.items()]
        steps = done - self._first
        if steps >= _ESTIMATE_AFTER_STEPS and done < self._total:
            left_s = (now - self._started) / steps * (self._total - done)
            parts.append(f"{duration(left_s)} left")
        line = ", ".join(parts)
        if self._stream.isatty():
            end = "\n" if done >= self._total else ""
            self._stream.write(f"\r\x1b[K{line}{end}")
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """Write a duration for people: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
