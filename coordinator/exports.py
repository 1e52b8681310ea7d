"""The log as a folder of plain files, to take away and to read back."""

from dataclasses import dataclass
from pathlib import Path

from coordinator import logbook, state
from coordinator.context import Coordinator
from federation.auditlog.bundle import MAX_BYTES, Bundle
from kit import canonical, clock
from kit.errors import FormatError
from kit.files import read_folder, write_folder
from pki import keys

_EXPORT = "give the folder that `coordinator audit export` or `edge-agent audit export` wrote"


def export(coordinator: Coordinator, folder: Path) -> int:
    """Write the whole log with its checkpoint and keys into a new folder; returns its size.

    Raises:
        KitError: the folder exists and is not empty, or cannot be written.
    """
    with coordinator.state.read() as tx:
        rows = tx.all(state.log.select().order_by(state.log.c.position))
        checkpoint = logbook.Proofs(coordinator, tx).checkpoint
    bundle = Bundle(
        origin=coordinator.log_origin,
        log_key=keys.public_bytes(coordinator.log_key),
        checkpoint=checkpoint,
        leaves=tuple(row.leaf for row in rows),
    )
    write_folder(folder, bundle.to_files())
    return len(rows)


def load(folder: Path) -> Bundle:
    """Read an export; nothing in it is believed before `Bundle.verify`.

    Raises:
        KitError: it is not one.
    """
    files = read_folder(folder, limit=MAX_BYTES, what="log export")
    try:
        return Bundle.from_files(files)
    except FormatError as error:
        raise FormatError(f"`{folder}` is no log export: {error}", hint=_EXPORT) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What an export proves by itself."""

    origin: str
    size: int
    root: str
    log_key: str
    log_key_is: str
    cosigned: int
    witnesses: int
    newest_cosignature: str


def check(folder: Path, log_key: str) -> Checked:
    """Verify an export against a log key (hexadecimal), or its own where none is given.

    Raises:
        KitError: it proves nothing, or is another log's.
    """
    bundle = load(folder)
    key = bytes.fromhex(canonical.sha256_hex(log_key, what="log key")) if log_key else None
    found = bundle.verify(key=key)
    newest = max(found.cosigned.values(), default=None)
    return Checked(
        origin=bundle.origin,
        size=found.tree.size,
        root=found.checkpoint.root.hex(),
        log_key=(key or bundle.log_key).hex(),
        log_key_is="the one you gave" if key else "the export's own: compare it with a site's pins",
        cosigned=len(found.cosigned),
        witnesses=found.witnesses,
        newest_cosignature=clock.rfc3339(newest) if newest else "none",
    )
