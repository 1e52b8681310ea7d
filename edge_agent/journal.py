"""The log of what this site did at the wire: one line per command, without data or names."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge_agent.home import Home
from kit import logs
from kit.errors import KitError

_log = logging.getLogger(__name__)


@contextmanager
def command(home: Home, name: str) -> Iterator[None]:
    """Log how a command ended, and everything of this project's that is logged meanwhile."""
    started = time.monotonic()
    with logs.to_file(home.logs / "agent.jsonl"), logs.bound(command=name):
        try:
            yield
        except KitError as error:
            what = logs.fields(code="failed", seconds=time.monotonic() - started)
            _log.error("command failed: %s", error, extra=what)
            raise
        _log.info(
            "command done", extra=logs.fields(code="done", seconds=time.monotonic() - started)
        )
