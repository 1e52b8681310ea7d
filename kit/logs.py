"""Logs: one JSON object per line, from a closed table of fields, rotated by size.

Invariants:

- A line holds its time, level, source, the constant text of the event, and fields of `FIELDS`. What
  else a caller passes is not written: no file name, no label, no name of a person or a site.
- Of an error only its class and its text are kept, without what stands between backticks: by the
  rule of this project, that is where values stand.
- Another library's text is left out, but for its level and the class of its exception.
- A full disk loses lines and nothing else.
"""

import json
import logging
import logging.handlers
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kit import canonical
from kit.errors import KitError
from kit.files import private_folder

MAX_FILE_BYTES = 10 << 20
KEPT_FILES = 5  # beside the one being written: 60 MiB in all
MAX_REASON_CHARACTERS = 300
ROOMS = ("coordinator", "edge_agent", "federation", "kit", "pki")

_DIGEST = r"[0-9a-f]{6,64}"
_WORD = r"[A-Za-z][A-Za-z_-]{0,63}"
FIELDS = {
    "request": r"[0-9a-f]{16}",
    "site": r"s-[0-9a-f]{4,64}",
    "method": _WORD,
    "code": _WORD,
    "command": _WORD,
    "error": _WORD,
    "state": _WORD,
    "blueprint": _DIGEST,
    "release": _DIGEST,
    "seconds": r"\d{1,9}\.\d{3}",
    "count": r"\d{1,18}",
    "bytes": r"\d{1,18}",
}
_NUMBERS = {"seconds": float, "count": int, "bytes": int}
_PATTERNS = {name: re.compile(pattern, re.ASCII) for name, pattern in FIELDS.items()}
_ARGUMENT = re.compile(r"%[a-z]")
_VALUE = re.compile(r"`[^`]*`?")
_bound: ContextVar[Mapping[str, str]] = ContextVar("log fields", default=MappingProxyType({}))


def fields(**values: str | int | float) -> dict[str, Any]:
    """Return the `extra` of a logging call; see `FIELDS` for what may be logged.

    Raises:
        RuntimeError: there is no such field.
    """
    return {"fields": _texts(values)}


@contextmanager
def bound(**values: str | int | float) -> Iterator[None]:
    """Add fields to every line that is logged inside the block.

    Raises:
        RuntimeError: there is no such field.
    """
    outer = _bound.get()
    _bound.set({**outer, **_texts(values)})
    try:
        yield
    finally:
        _bound.set(outer)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    if not set(values) <= set(FIELDS):
        raise RuntimeError(f"no log fields: {sorted(set(values) - set(FIELDS))}")
    texts = {k: f"{v:.3f}" if k == "seconds" else str(v) for k, v in values.items()}
    # A value of another form is a surprise, perhaps a person's name: it is not written.
    return {k: text if _PATTERNS[k].fullmatch(text) else "?" for k, text in texts.items()}


def without_values(text: str) -> str:
    """Return an error's text without what stands between backticks, on one line."""
    struck = _VALUE.sub("`...`", text)
    return canonical.printable(struck, width=MAX_REASON_CHARACTERS)


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON, as the rules of this module say."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        table: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": record.name,
        }
        is_own = record.name.partition(".")[0] in ROOMS
        if is_own:
            table["event"] = _ARGUMENT.sub("...", str(record.msg))
        error = _error(record)
        if error is not None:
            table["error"] = type(error).__name__
            if isinstance(error, KitError):
                table["reason"] = without_values(str(error))
        own = getattr(record, "fields", {})
        for name, text in {**_bound.get(), **own}.items():
            table[name] = _NUMBERS.get(name, str)(text) if text != "?" else text
        return json.dumps(table, ensure_ascii=True)


def _error(record: logging.LogRecord) -> BaseException | None:
    if record.exc_info and record.exc_info[1] is not None:
        return record.exc_info[1]
    arguments = record.args if isinstance(record.args, tuple) else ()
    return next((a for a in arguments if isinstance(a, BaseException)), None)


class _Rotating(logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner reads; a disk that is full loses lines, not the work."""

    def _open(self) -> Any:
        stream = super()._open()
        Path(self.baseFilename).chmod(0o600)
        return stream

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: standard error is the only other place, and it shows errors already."""


@contextmanager
def to_file(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> Iterator[None]:
    """Write everything that is logged inside the block to `path`, five older files beside it.

    Raises:
        KitError: the folder cannot be written.
    """
    private_folder(path.parent)
    handler = _Rotating(
        path, maxBytes=max_bytes, backupCount=KEPT_FILES, encoding="ascii", delay=True
    )
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


@contextmanager
def to_people(stream: Any) -> Iterator[None]:
    """Write warnings and errors to `stream` as lines, under the same rules."""
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
