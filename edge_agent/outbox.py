"""The outbox: sealed blueprints on their way, one folder each, and when they are deleted (A2)."""

from collections.abc import Collection
from pathlib import Path

from edge_agent.home import Home
from federation import dsse
from federation.blueprint import limits
from federation.blueprint.statement import PAYLOAD_TYPE, Statement
from kit.files import read_limited

ENVELOPE, WRAPPED, CIPHERTEXT, RUN = "statement.dsse.json", "wrapped-key", "payload.c2sp", "run"


def statement(folder: Path) -> Statement:
    """Return the statement of a sealed blueprint, as this site signed it.

    Raises:
        KitError: the file is missing or damaged.
    """
    data = read_limited(folder / ENVELOPE, limit=limits.MAX_ENVELOPE_BYTES, what="statement")
    return Statement.from_bytes(dsse.parse(data, PAYLOAD_TYPE).payload)


def remove(folder: Path) -> None:
    """Delete a sealed blueprint."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def purge(home: Home, *, ended: Collection[str], closed: Collection[str]) -> None:
    """Delete the blueprints that ended, and whatever was sealed for a study that closed."""
    for folder in home.outbox.iterdir():
        is_stranded = (folder / ENVELOPE).is_file() and (
            statement(folder).context.study_digest in closed
        )
        if folder.name in ended or is_stranded:
            remove(folder)
