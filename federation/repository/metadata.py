"""The repository's metadata as bytes: written and signed by role, and read without judging.

Pure: who calls decides versions and times, keeps the files and brings the keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from federation.repository import roles
from kit import canonical
from pki.keys import PrivateKey

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A target: its digest and its length in bytes."""

    sha256: str
    length: int

    @classmethod
    def of(cls, data: bytes) -> "File":
        """Return what stands for some bytes."""
        return cls(sha256=canonical.digest(data), length=len(data))


def root(
    *,
    version: int,
    root_keys: Sequence[PublicKey],
    targets_key: PublicKey,
    online_key: PublicKey,
    signers: Sequence[PrivateKey],
    now: datetime,
) -> bytes:
    """Return a root: its keys must all sign, or be replaced by a quorum of the ones before."""
    listed = [_key(key) for key in root_keys]
    targets, online = _key(targets_key), _key(online_key)
    by_role = {
        "root": Role([key.keyid for key in listed], roles.ROOT_THRESHOLD),
        "targets": Role([targets.keyid], 1),
        "snapshot": Role([online.keyid], 1),
        "timestamp": Role([online.keyid], 1),
    }
    signed = Root(
        version=version,
        expires=_until(now, roles.ROOT_LIFE),
        keys={key.keyid: key for key in (*listed, targets, online)},
        roles=by_role,
        consistent_snapshot=True,
    )
    return _sign(signed, *signers)


def targets(
    files: Mapping[str, File],
    *,
    version: int,
    online_key: PublicKey,
    signer: PrivateKey,
    now: datetime,
    days: int,
) -> bytes:
    """Return the top-level targets: studies, and the delegation of everything else for `days`.

    Raises:
        FormatError: the days are out of bounds.
    """
    most = roles.MAX_TARGETS_DAYS
    canonical.integer(days, low=1, high=most, what="number of days of the targets role")
    online = _key(online_key)
    delegated = {
        name: DelegatedRole(name, [online.keyid], 1, terminating=True, paths=paths)
        for name, paths in roles.DELEGATED.items()
    }
    signed = Targets(
        version=version,
        expires=_until(now, timedelta(days=days)),
        targets=_targets(files),
        delegations=Delegations({online.keyid: online}, delegated),
    )
    return _sign(signed, signer)


def delegated(
    files: Mapping[str, File], *, version: int, signer: PrivateKey, now: datetime
) -> bytes:
    """Return the metadata of a delegated role."""
    expires = _until(now, roles.ONLINE_LIFE)
    return _sign(Targets(version=version, expires=expires, targets=_targets(files)), signer)


def snapshot(
    versions: Mapping[str, int], *, version: int, signer: PrivateKey, now: datetime
) -> bytes:
    """Return the snapshot: which version of each role belongs to it."""
    meta = {f"{role}.json": MetaFile(versions[role]) for role in sorted(versions)}
    expires = _until(now, roles.ONLINE_LIFE)
    return _sign(Snapshot(version=version, expires=expires, meta=meta), signer)


def timestamp(
    snapshot_version: int,
    *,
    version: int,
    signer: PrivateKey,
    now: datetime,
    stick_days: int = 0,
) -> bytes:
    """Return the timestamp: for days by line, or for `stick_days` on a stick."""
    life = timedelta(days=stick_days) if stick_days else roles.TIMESTAMP_LIFE
    marked = {roles.CARRIAGE: roles.STICK} if stick_days else {}
    signed = Timestamp(
        version=version,
        expires=_until(now, life),
        snapshot_meta=MetaFile(snapshot_version),
        unrecognized_fields=marked,
    )
    return _sign(signed, signer)


def version_of(data: bytes) -> int:
    """Return the version of one file of metadata."""
    return int(Metadata.from_bytes(data).signed.version)


def versions_in(data: bytes) -> dict[str, int]:
    """Return which version of each role a snapshot names."""
    meta = Metadata[Snapshot].from_bytes(data).signed.meta
    return {name.removesuffix(".json"): meta[name].version for name in meta}


def stamped(data: bytes) -> int:
    """Return which version of the snapshot a timestamp names."""
    return int(Metadata[Timestamp].from_bytes(data).signed.snapshot_meta.version)


def is_by_online_key(data: bytes, root_data: bytes) -> bool:
    """Say whether a file bears the name of the key that a root gives to the online roles."""
    named = Metadata[Root].from_bytes(root_data).signed.roles["timestamp"].keyids
    return set(named) <= set(Metadata.from_bytes(data).signatures)


def expiry_of(data: bytes) -> datetime:
    """Return when one file of metadata ends."""
    return Metadata.from_bytes(data).signed.expires


def targets_of(data: bytes) -> dict[str, TargetFile]:
    """Return what a targets role lists."""
    return dict(Metadata[Targets].from_bytes(data).signed.targets)


def _key(public: PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(public)


def _targets(files: Mapping[str, File]) -> dict[str, TargetFile]:
    return {
        path: TargetFile(files[path].length, {"sha256": files[path].sha256}, path)
        for path in sorted(files)
    }


def _until(now: datetime, life: timedelta) -> datetime:
    return (now + life).replace(microsecond=0)


def _sign(signed: Root | Targets | Snapshot | Timestamp, *signers: PrivateKey) -> bytes:
    envelope: Metadata[Any] = Metadata(signed)
    for key in signers:
        envelope.sign(CryptoSigner(key), append=True)
    return envelope.to_bytes(JSONSerializer(compact=True))
