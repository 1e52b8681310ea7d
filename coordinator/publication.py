"""What the home's own key signs of the repository: anew when it says otherwise, or its time ends.

Invariants:

- Its roles are a function of the state: they are written when somebody asks and they say something
  else, under the state's write lock.
- The timestamp comes last: until it is there, whoever reads sees what was there before.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from coordinator import descent, issuance, releases, repository, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.home import Home
from coordinator.repository import folder_of, held, name_of, next_version, place_of
from coordinator.state import Transaction
from federation import dsse
from federation.release import statement as documents
from federation.release.statement import FILE_NAMES, Revocations
from federation.repository import metadata, roles
from federation.repository.metadata import File
from kit import clock
from kit.files import os_errors, read_limited, write_atomic
from pki import certificates, keys

STATEMENT, CHAIN = "release.dsse.json", "chain.pem"
_ONLINE = tuple(roles.DELEGATED)
_LIST_RENEWAL = timedelta(days=1)  # of the list of what is revoked


@dataclass(frozen=True, slots=True)
class _Target:
    """A file that the repository lists: its bytes, or its name in the store of releases."""

    file: File
    source: bytes | str

    @classmethod
    def of(cls, data: bytes) -> "_Target":
        return cls(File.of(data), data)


_Wanted = dict[str, dict[str, _Target]]  # role -> path -> target


def current(coordinator: Coordinator, *, stick_days: int = 0) -> dict[str, bytes]:
    """Return every file of the metadata as it is now, by name; written anew where it must be.

    With `stick_days` the timestamp is one that a stick may carry for so long. A home without a
    repository has none of them.
    """
    home = coordinator.home
    if not repository.is_founded(home):
        return {}
    crl = issuance.revocation_list(coordinator)
    with coordinator.state.read() as tx:
        wanted = _wanted(coordinator, tx, crl)
    files = held(home)
    if not stick_days and _is_current(files, wanted, coordinator.now()):
        return files
    with coordinator.write() as tx:
        wanted = _wanted(coordinator, tx, crl)
        return _publish(home, wanted, now=tx.now, stick_days=stick_days)


def unknown_to(files: Mapping[str, bytes], versions: Mapping[str, int]) -> dict[str, bytes]:
    """Return the files that somebody who holds `versions` of the roles lacks."""
    lacking = {}
    for name, data in files.items():
        version, role = place_of(name)
        known = versions.get(role, 0)
        if version > known if role == "root" else version != known or role == "timestamp":
            lacking[name] = data
    return lacking


def export(coordinator: Coordinator, folder: Path) -> list[str]:
    """Write the repository as plain files, for any TUF client; returns the paths of its targets.

    `metadata/` and `targets/` as a web server would show them. Recipient keys are listed, and their
    files left out: each names a site, and is sent to that site alone.

    Raises:
        StateError: this home has no repository, or the folder is not empty.
    """
    home = coordinator.home
    if not repository.is_founded(home):
        raise repository.not_founded(home)
    if folder.exists() and any(folder.iterdir()):
        raise StateError(f"`{folder}` is not empty", hint="choose a new folder")
    files = current(coordinator)
    crl = issuance.revocation_list(coordinator)
    with coordinator.state.read() as tx:
        listed = _studies(tx)
        wanted = _wanted(coordinator, tx, crl)
    for role in (roles.RELEASES, roles.STATUS):
        listed |= wanted[role]
    for name, data in files.items():
        _put(coordinator, folder / "metadata" / name, data)
    signed = {
        path: target
        for role in ("targets", *_ONLINE)
        for path, target in metadata.targets_of(files[name_of(files, role)]).items()
    }
    written = sorted(set(signed) & set(listed))
    for path in written:
        digest = signed[path].hashes["sha256"]
        if digest == listed[path].file.sha256:
            _put(
                coordinator,
                folder / "targets" / roles.stored_name(path, digest),
                listed[path].source,
            )
    return written


def _put(coordinator: Coordinator, path: Path, source: bytes | str) -> None:
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            with coordinator.stores.releases.local(source) as file:
                shutil.copyfile(file, path)


def _publish(home: Home, wanted: _Wanted, *, now: datetime, stick_days: int) -> dict[str, bytes]:
    signer, files = keys.load_signing(home.key(repository.KEY)), dict(held(home))
    for role in _ONLINE:
        name = name_of(files, role)
        if name and _says(files[name], wanted[role]) and _holds(files, name, now):
            continue
        version = next_version(home, role, now)
        listed = {path: target.file for path, target in wanted[role].items()}
        data = metadata.delegated(listed, version=version, signer=signer, now=now)
        _keep(home, files, role, version, data)
        if role == roles.STATUS:
            _keep_status(home, wanted[role])
    versions = {role: place_of(name_of(files, role))[0] for role in ("targets", *_ONLINE)}
    name = name_of(files, "snapshot")
    if not name or metadata.versions_in(files[name]) != versions or not _holds(files, name, now):
        version = next_version(home, "snapshot", now)
        data = metadata.snapshot(versions, version=version, signer=signer, now=now)
        _keep(home, files, "snapshot", version, data)
    return _stamp(home, files, signer, now=now, stick_days=stick_days)


def _stamp(
    home: Home,
    files: dict[str, bytes],
    signer: keys.SigningKey,
    *,
    now: datetime,
    stick_days: int,
) -> dict[str, bytes]:
    """Sign the timestamp last: it is what makes the rest current.

    One for a stick is not kept here; the one that is kept then comes after it, so that a site that
    read the stick goes on by line.
    """
    path = folder_of(home) / "timestamp.json"
    last = metadata.version_of(path.read_bytes()) if path.is_file() else 0
    version = max(last + 1, int(now.timestamp()))
    snapshot = place_of(name_of(files, "snapshot"))[0]
    travelling = metadata.timestamp(
        snapshot, version=version, signer=signer, now=now, stick_days=stick_days
    )
    if not stick_days:
        write_atomic(path, travelling)
    else:
        own = metadata.timestamp(snapshot, version=version + 1, signer=signer, now=now)
        write_atomic(path, own)
    return files | {"timestamp.json": travelling}


def _keep(home: Home, files: dict[str, bytes], role: str, version: int, data: bytes) -> None:
    before, name = name_of(files, role), roles.file_name(role, version)
    write_atomic(folder_of(home) / name, data)
    files.pop(before, None)
    files[name] = data
    for path in folder_of(home).glob(f"*.{role}.json"):  # one before stays for who reads right now
        if path.name not in (name, before):
            path.unlink(missing_ok=True)


def _keep_status(home: Home, targets: Mapping[str, _Target]) -> None:
    """Keep the list of what is revoked as it was signed: the next one has another time."""
    data = targets[roles.REVOCATIONS].source
    if isinstance(data, bytes):
        write_atomic(_list(home), data)


def _wanted(coordinator: Coordinator, tx: Transaction, crl: bytes) -> _Wanted:
    return {
        roles.RELEASES: _releases(coordinator, tx),
        roles.RECIPIENTS: _recipients(tx),
        roles.STATUS: _status(coordinator, tx, crl),
    }


def _releases(coordinator: Coordinator, tx: Transaction) -> dict[str, _Target]:
    listed: dict[str, _Target] = {}
    for row in releases.visible(tx):
        if row.withdrawn:
            continue
        release = descent.release_of(row)
        chain = issuance.chain_of(coordinator, tx, releases.signed_by(row))
        listed[roles.release(row.digest, STATEMENT)] = _Target.of(row.envelope)
        listed[roles.release(row.digest, CHAIN)] = _Target.of(chain)
        for artefact in release.artefacts:
            path = roles.release(row.digest, FILE_NAMES[artefact.role])
            file = File(sha256=artefact.sha256, length=artefact.length)
            listed[path] = _Target(file, releases.stored_name(release.digest, artefact.role))
    return listed


def _recipients(tx: Transaction) -> dict[str, _Target]:
    table = state.recipient_keys
    rows = tx.all(sa.select(table.c.kid, table.c.study_digest, table.c.envelope))
    return {roles.recipient(r.study_digest, r.kid): _Target.of(r.envelope) for r in rows}


def _status(coordinator: Coordinator, tx: Transaction, crl: bytes) -> dict[str, _Target]:
    listed = {
        roles.CERTIFICATES: _Target.of(crl),
        roles.REVOCATIONS: _Target.of(_revocations(coordinator, tx)),
    }
    authorities = issuance.authority_list(tx)
    if authorities:
        listed[roles.AUTHORITIES] = _Target.of(authorities)
    return listed


def _revocations(coordinator: Coordinator, tx: Transaction) -> bytes:
    """Return the signed list of what is revoked: the kept one while it says what is so."""
    path = _list(coordinator.home)
    if path.is_file():
        data = read_limited(path, limit=dsse.MAX_ENVELOPE_BYTES, what="revocation list")
        parsed = dsse.parse(data, documents.REVOCATIONS_TYPE)
        kept = Revocations.from_bytes(parsed.payload)
        age = tx.now - clock.parse_rfc3339(kept.issued)
        same = (kept.blueprints, kept.releases) == releases.out_of_use(tx)
        own = parsed.keyid == certificates.fingerprint(coordinator.signing_chain[0])
        if same and own and timedelta() <= age < _LIST_RENEWAL:
            return data
    return releases.revocations(coordinator, tx)[0]


def _studies(tx: Transaction) -> dict[str, _Target]:
    rows = tx.all(sa.select(state.studies.c.digest, state.studies.c.envelope))
    return {roles.study(row.digest): _Target.of(row.envelope) for row in rows}


def _is_current(files: Mapping[str, bytes], wanted: _Wanted, now: datetime) -> bool:
    names = {role: name_of(files, role) for role in (*_ONLINE, "snapshot", "timestamp")}
    if not all(names.values()):
        return False
    versions = {role: place_of(name_of(files, role))[0] for role in ("targets", *_ONLINE)}
    left = metadata.expiry_of(files[names["timestamp"]]) - now
    oldest = roles.TIMESTAMP_LIFE - roles.TIMESTAMP_RENEWAL
    return (
        all(_says(files[names[role]], wanted[role]) for role in _ONLINE)
        and all(_holds(files, names[role], now) for role in (*_ONLINE, "snapshot"))
        and _is_by_current_key(files, names["timestamp"])
        and metadata.versions_in(files[names["snapshot"]]) == versions
        and metadata.stamped(files[names["timestamp"]]) == place_of(names["snapshot"])[0]
        and oldest < left <= roles.TIMESTAMP_LIFE
    )


def _says(data: bytes, wanted: Mapping[str, _Target]) -> bool:
    listed = {path: target.hashes["sha256"] for path, target in metadata.targets_of(data).items()}
    return listed == {path: target.file.sha256 for path, target in wanted.items()}


def _holds(files: Mapping[str, bytes], name: str, now: datetime) -> bool:
    """Say whether a file need not be signed again: young, and by the key of the newest root."""
    left = metadata.expiry_of(files[name]) - now
    is_young = roles.ONLINE_LIFE - roles.ONLINE_RENEWAL < left <= roles.ONLINE_LIFE
    return is_young and _is_by_current_key(files, name)


def _is_by_current_key(files: Mapping[str, bytes], name: str) -> bool:
    return metadata.is_by_online_key(files[name], files[name_of(files, "root")])


def _list(home: Home) -> Path:
    return folder_of(home) / "revocations.dsse"
