"""The repository's files in this home, and what the offline keys sign of them (TUF).

Invariants:

- What the root's and the study key sign, they sign at a ceremony, with the keys brought along.
- A version is never lower than the seconds of its time (but the root's, which count from 1): a
  restored home goes on above what its sites saw.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from coordinator import state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.home import Home
from coordinator.state import Transaction
from federation.repository import metadata, roles
from federation.repository.metadata import File
from kit import clock
from kit.files import read_limited, write_atomic
from pki import keys

KEY = "repository.key"


DUE = timedelta(days=30)  # before an end, when a person is told to sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a ceremony signed, and until when it holds.

    `timestamp_expires` is the end of what sites were told last; the next one who asks gets another,
    so one in the past means that nobody asked. `warnings` say what to sign soon.
    """

    root_version: int
    root_expires: str
    targets_version: int
    targets_expires: str
    timestamp_expires: str
    studies: int
    warnings: tuple[str, ...]


def is_founded(home: Home) -> bool:
    """Say whether this home has a repository: homes of early versions have none."""
    return (folder_of(home) / roles.FIRST_ROOT).is_file()


def found(home: Home, *, root_key: keys.TlsKey, study_key: keys.SigningKey, now: datetime) -> None:
    """Make the first root, the first targets, and the key that signs everything else."""
    fresh = keys.new_signing_key()
    keys.save(home.key(KEY), fresh)
    online = fresh.public_key()
    both = (root_key, study_key)
    data = metadata.root(
        version=1,
        root_keys=[key.public_key() for key in both],
        targets_key=study_key.public_key(),
        online_key=online,
        signers=both,
        now=now,
    )
    days = roles.DEFAULT_TARGETS_DAYS
    _write_targets(home, {}, online=online, signer=study_key, now=now, days=days)
    write_atomic(folder_of(home) / roles.FIRST_ROOT, data)


def sign_targets(
    coordinator: Coordinator,
    tx: Transaction,
    *,
    signer: keys.SigningKey,
    days: int | None = None,
) -> None:
    """List every study of this transaction, and delegate the rest to the home's key for `days`.

    A home of an early version lists nothing until `coordinator repository sign` founds it.
    """
    if not is_founded(coordinator.home):
        return
    rows = tx.all(sa.select(state.studies.c.digest, state.studies.c.envelope))
    listed = {roles.study(row.digest): File.of(row.envelope) for row in rows}
    home, days = coordinator.home, roles.DEFAULT_TARGETS_DAYS if days is None else days
    online = keys.load_signing(home.key(KEY)).public_key()
    _write_targets(home, listed, online=online, signer=signer, now=tx.now, days=days)


def sign(
    coordinator: Coordinator,
    *,
    study_key: keys.SigningKey,
    root_key: keys.TlsKey | None = None,
    new_key: bool = False,
    days: int | None = None,
) -> Signed:
    """Sign what only the offline keys sign: targets; with the root's key, a new root as well.

    Args:
        coordinator: of the home.
        study_key: the study key, from its medium.
        root_key: the root's key, from its medium; None signs targets alone.
        new_key: replace the home's own key, whatever happened to the one before.
        days: how long the targets hold.

    Raises:
        StateError: the first root, or a new key of the home, wants the root's key as well.
    """
    home = coordinator.home
    if root_key is None and (new_key or not is_founded(home)):
        raise StateError(
            "a new root of the repository wants both offline keys",
            hint="bring the root's key and the study key, and give their folder with --roots",
        )
    with coordinator.write() as tx:
        if root_key is not None and not is_founded(home):
            found(home, root_key=root_key, study_key=study_key, now=tx.now)
        elif root_key is not None:
            _next_root(home, root_key, study_key, now=tx.now, new_key=new_key)
        sign_targets(coordinator, tx, signer=study_key, days=days)
    return standing(coordinator)


def _next_root(
    home: Home,
    root_key: keys.TlsKey,
    study_key: keys.SigningKey,
    *,
    now: datetime,
    new_key: bool,
) -> None:
    if new_key:
        keys.save(home.key(KEY), keys.new_signing_key())
    both = (root_key, study_key)
    version = _newest(home, "root") + 1
    data = metadata.root(
        version=version,
        root_keys=[key.public_key() for key in both],
        targets_key=study_key.public_key(),
        online_key=keys.load_signing(home.key(KEY)).public_key(),
        signers=both,
        now=now,
    )
    write_atomic(folder_of(home) / roles.file_name("root", version), data)


def _write_targets(
    home: Home,
    listed: Mapping[str, File],
    *,
    online: metadata.PublicKey,
    signer: keys.SigningKey,
    now: datetime,
    days: int,
) -> None:
    version = next_version(home, "targets", now)
    data = metadata.targets(
        listed,
        version=version,
        online_key=online,
        signer=signer,
        now=now,
        days=days,
    )
    write_atomic(folder_of(home) / roles.file_name("targets", version), data)


def standing(coordinator: Coordinator) -> Signed:
    """Return what the offline keys signed last.

    Raises:
        StateError: this home has no repository.
    """
    home = coordinator.home
    ends = expiries(home)
    if not ends:
        raise not_founded(home)
    root, targets = _newest(home, "root"), _newest(home, "targets")
    held = {role: _read(home, role, v) for role, v in (("root", root), ("targets", targets))}
    return Signed(
        root_version=root,
        root_expires=clock.rfc3339(metadata.expiry_of(held["root"])),
        targets_version=targets,
        targets_expires=clock.rfc3339(metadata.expiry_of(held["targets"])),
        timestamp_expires=clock.rfc3339(ends["timestamp"]) if "timestamp" in ends else "",
        studies=len(metadata.targets_of(held["targets"])),
        warnings=tuple(
            f"`{role}` expires on {clock.rfc3339(ends[role])}: run `coordinator repository sign"
            f"{' --with-root' if role == 'root' else ''}` with the offline keys"
            for role in ("root", "targets")
            if ends[role] - coordinator.now() <= DUE
        ),
    )


def expiries(home: Home) -> dict[str, datetime]:
    """Return when the newest metadata of each role end, by role; empty without a repository."""
    if not is_founded(home):
        return {}
    found: dict[str, datetime] = {}
    for name, data in held(home).items():
        role, expires = place_of(name)[1], metadata.expiry_of(data)
        found[role] = max(found.get(role, expires), expires)
    return found


def folder_of(home: Home) -> Path:
    """Return where the metadata lie."""
    return home.path / "repository"


def held(home: Home) -> dict[str, bytes]:
    """Return every root, and the newest version of every other role."""
    places = {path.name: place_of(path.name) for path in folder_of(home).glob("[!.]*.json")}
    newest: dict[str, int] = {}
    for version, role in places.values():
        newest[role] = max(newest.get(role, 0), version)
    kept = [n for n, (version, role) in places.items() if role == "root" or newest[role] == version]
    return {name: (folder_of(home) / name).read_bytes() for name in kept}


def name_of(files: Mapping[str, bytes], role: str) -> str:
    """Return the file name of a role's newest version; empty if there is none."""
    found = [name for name in files if place_of(name)[1] == role]
    return max(found, key=lambda name: place_of(name)[0], default="")


def place_of(name: str) -> tuple[int, str]:
    """Return version and role of a file name; the timestamp's has no version."""
    version, _, role = name.removesuffix(".json").rpartition(".")
    return (int(version) if version else 0), role


def _newest(home: Home, role: str) -> int:
    found = [place_of(path.name) for path in folder_of(home).glob(f"*.{role}.json")]
    return max((version for version, _ in found), default=0)


def next_version(home: Home, role: str, now: datetime) -> int:
    """Return the version that a role is signed with next."""
    return max(_newest(home, role) + 1, int(now.timestamp()))


def _read(home: Home, role: str, version: int) -> bytes:
    path = folder_of(home) / roles.file_name(role, version)
    return read_limited(path, limit=roles.MAX_METADATA_BYTES, what="metadata")


def not_founded(home: Home) -> StateError:
    """Return what to say where there is no repository."""
    return StateError(
        "this home has no repository: a version of before there was one founded it",
        hint=f"bring both offline keys and run `coordinator repository sign --home {home.path}`"
        " --roots DIR",
    )
