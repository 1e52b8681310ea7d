"""Snapshots: a whole copy of a home's files and SQLite databases, with a list of their digests.

Invariants:

- A database is copied as of one moment, compacted (`VACUUM INTO`): what was deleted from it is not
  in the copy. One whose rows name files goes first: a file was whole before its row, and one that
  has gone since was destroyed. One that must never be behind the files goes last.
- A snapshot appears under its name whole or not at all, and so does a home restored from it.
- The list shows damage, not malice: who can write a snapshot can write its list.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from kit import canonical, clock
from kit.errors import FormatError, KitError
from kit.files import os_errors, private_folder, read_document, sha256_file, write_atomic

MANIFEST = "manifest.json"
VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20
_FIELDS = {"version", "kind", "schema", "taken", "facts", "files"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What belongs to a snapshot: paths below the home, folders with all that is in them.

    `left_out` names what is at the top of the home and not in the snapshot, whatever `files` says.
    """

    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    databases_before: tuple[str, ...] = ()
    databases_after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The list of a snapshot: whose it is, when it was taken, and every file's digest."""

    kind: str
    schema: int
    taken: str
    facts: Mapping[str, str]
    files: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        table = {name: getattr(self, name) for name in self.__slots__}
        return canonical.encode(
            {**table, "version": VERSION, "facts": dict(self.facts), "files": dict(self.files)}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Read a manifest.

        Raises:
            FormatError: it is not one.
        """
        table = canonical.fields(canonical.decode(data), _FIELDS, what="snapshot manifest")
        canonical.version(table.pop("version"), expected=VERSION, what="snapshot manifest")
        canonical.integer(table["schema"], low=1, high=canonical.MAX_INTEGER, what="schema")
        clock.parse_rfc3339(table["taken"], what="time of the snapshot")
        if not isinstance(table["files"], dict) or not isinstance(table["facts"], dict):
            raise FormatError("the snapshot's manifest is damaged")
        for name, digest in table["files"].items():
            _check_path(name)
            canonical.sha256_hex(digest, what="digest of a file")
        return cls(**table)


def take(
    home: Path,
    folder: Path,
    contents: Contents,
    *,
    kind: str,
    schema: int,
    now: datetime,
    facts: Mapping[str, str],
) -> Path:
    """Copy a home into a new folder below `folder`, and return it.

    Raises:
        KitError: a database cannot be read, or the disk is full.
    """
    name = f"{kind}-{clock.rfc3339(now).replace(':', '').replace('-', '')}"
    target = private_folder(folder) / name
    if target.exists():
        raise KitError(f"`{target}` exists already", hint="run the same command again in a second")
    with _whole(target) as part:
        for database in contents.databases_before:
            _copy_database(home / database, part / database)
        for path in _below(home, contents.files):
            if path.relative_to(home).parts[0] in contents.left_out:
                continue
            with suppress(FileNotFoundError):  # destroyed since it was listed
                _copy(path, part / path.relative_to(home))
        for database in contents.databases_after:
            _copy_database(home / database, part / database)
        files = {_name(path, part): sha256_file(path) for path in _below(part, (".",))}
        manifest = Manifest(
            kind=kind, schema=schema, taken=clock.rfc3339(now), facts=facts, files=files
        )
        write_atomic(part / MANIFEST, manifest.to_bytes(), mode=0o600)
    return target


def verify(source: Path, *, kind: str, newest_schema: int) -> Manifest:
    """Check every file of a snapshot against its list.

    Raises:
        KitError: it is no snapshot of this kind, a newer kit wrote it, or it was damaged.
    """
    manifest = read_document(
        source / MANIFEST,
        Manifest.from_bytes,
        limit=MAX_MANIFEST_BYTES,
        what="snapshot manifest",
        hint=f"give the folder that `backup` made, {kind}-YYYYMMDDTHHMMSSZ",
    )
    if manifest.kind != kind:
        raise KitError(f"`{source}` is a snapshot of another program ({manifest.kind})")
    if manifest.schema > newest_schema:
        raise KitError(
            f"the snapshot has schema version {manifest.schema}; this kit knows versions up to"
            f" {newest_schema}",
            hint="restore it with the version of the kit that wrote it, or a newer one",
        )
    present = {_name(path, source) for path in _below(source, (".",))} - {MANIFEST}
    for name in sorted(present ^ set(manifest.files)):
        raise FormatError(f"snapshot file `{name}` is missing or does not belong to it")
    for name, digest in manifest.files.items():
        if sha256_file(source / name) != digest:
            raise FormatError(f"snapshot file `{name}` was altered or damaged")
    return manifest


@contextmanager
def restored(source: Path, manifest: Manifest, home: Path) -> Iterator[Path]:
    """Lay a verified snapshot out beside `home`, for the block to complete; then it is `home`.

    Raises:
        KitError: there is something at `home`, or the disk is full.
    """
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise KitError(f"`{home}` exists and is not empty", hint="choose another --home")
    with _whole(home) as part:
        for name in manifest.files:
            _copy(source / name, part / name)
        yield part


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of secrets, each readable by its owner only.

    Raises:
        KitError: it is not there, or the disk is full.
    """
    if not source.is_dir():
        raise KitError(f"folder `{source}` does not exist")
    private_folder(target)
    for path in _below(source, (".",)):
        _copy(path, target / path.relative_to(source))


@contextmanager
def read_only(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a copied database so that not a byte of it changes.

    Raises:
        KitError: it cannot be read.
    """
    try:
        uri = f"{database.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise KitError(f"database `{database}` cannot be read: {error}") from error


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    with os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield part
            if target.exists():
                target.rmdir()
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _copy_database(source: Path, target: Path) -> None:
    if not source.is_file():
        return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(source, timeout=30)) as database:
            database.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise KitError(f"database `{source}` cannot be copied: {error}") from error
    target.chmod(0o600)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o600)


def _below(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Yield every plain file of the named files and folders; temporary and linked ones are none."""
    for name in names:
        path = folder / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for item in found:
            is_part = any(part.startswith(".") for part in item.relative_to(folder).parts)
            if item.is_file() and not item.is_symlink() and not is_part:
                yield item


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _check_path(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == MANIFEST:
        raise FormatError("a name in the snapshot's manifest leads out of it")
