"""Time: read once at a door, passed down as an argument, written as RFC 3339 in UTC."""

import re
from datetime import UTC, datetime
from typing import Any

from kit.errors import FormatError

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)


def utc_now() -> datetime:
    """Return the current time in UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def rfc3339(moment: datetime) -> str:
    """Write an aware time as `2026-01-31T12:00:00Z`.

    Raises:
        RuntimeError: `moment` has no time zone.
    """
    if moment.tzinfo is None:
        raise RuntimeError("times carry a time zone")
    # `strftime` writes years below 1000 without leading zeros; `isoformat` does not.
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def parse_rfc3339(text: Any, *, what: str = "time") -> datetime:
    """Read what `rfc3339` wrote.

    Raises:
        FormatError: `text` is anything else.
    """
    if not isinstance(text, str) or not _RFC3339.fullmatch(text):
        raise FormatError(f"{what} is not an RFC 3339 time in UTC")
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise FormatError(f"{what} is not a date that exists") from error
