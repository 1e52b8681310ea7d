"""Founding a federation: keys, certificates, an empty log. Done once, whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from coordinator import issuance, upkeep
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.home import CONFIG, CoordinatorConfig, Home
from coordinator.state import State
from federation.auditlog.events import Kind
from federation.auditlog.history import revocations_digest
from kit import canonical, config
from kit.files import os_errors, write_atomic
from pki import certificates, identity, keys, protecting

DEFAULT_COSIGNERS = 1
MAX_COSIGNERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """What `init` made."""

    home: Path
    federation: str
    reviewer: str
    reviewer_key: Path
    root_fingerprint: str


def found(
    path: Path,
    settings: CoordinatorConfig,
    *,
    reviewer: str,
    now: datetime,
    new_passphrase: Callable[[], str] | None = None,
    cosigners: int = DEFAULT_COSIGNERS,
) -> Founded:
    """Make a coordinator's home with fresh keys and one reviewer's key file.

    With `new_passphrase`, no key touches the disk in clear: the root's and the reviewer's, which
    will leave, are sealed each for itself, and all others under the home's protection.
    `cosigners` is how many other sites must vouch for the log before a site takes a release (A5);
    it stands in the first log entry, for good.

    Raises:
        StateError: there is something at `path` already.
        IdentityError: the passphrase is too short.
        FormatError: a name is not allowed.
    """
    canonical.name(settings.federation, what="federation")
    canonical.name(reviewer, what="reviewer")
    canonical.integer(cosigners, low=0, high=MAX_COSIGNERS, what="number of cosigners")
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StateError(f"`{path}` exists and is not empty", hint="choose another --home")
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        passphrase = protecting.begin(part, new_passphrase) if new_passphrase else None
        fingerprint = _furnish(Home(part), settings, reviewer, passphrase, now, cosigners)
        with os_errors(path):
            if path.exists():
                path.rmdir()
            part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Founded(
        home=path,
        federation=settings.federation,
        reviewer=reviewer,
        reviewer_key=Home(path).key(f"reviewer-{reviewer}.key"),
        root_fingerprint=fingerprint,
    )


def _furnish(
    home: Home,
    settings: CoordinatorConfig,
    reviewer: str,
    passphrase: str | None,
    now: datetime,
    cosigners: int,
) -> str:
    root = certificates.new_root(settings.federation, now=now)
    issuing = certificates.new_issuing(root, settings.federation, now=now)
    _save_to_travel(home.key("root.key"), root.key, passphrase)
    _save_to_travel(home.key(f"reviewer-{reviewer}.key"), keys.new_signing_key(), passphrase)
    keys.save(home.key("issuing.key"), issuing.key)
    for name in ("log", "study"):
        keys.save(home.key(f"{name}.key"), keys.new_signing_key())
    signing = keys.new_signing_key()
    keys.save(home.key("signing.key"), signing)
    leaf = certificates.issue_signing(
        issuing, identity.coordinator(settings.federation), signing.public_key(), now=now
    )
    chain = certificates.pem(leaf, issuing.certificate)
    write_atomic(home.certificate("root.pem"), certificates.pem(root.certificate))
    write_atomic(home.certificate("issuing.pem"), certificates.pem(issuing.certificate))
    write_atomic(home.certificate("signing.pem"), chain)
    config.save(home.path / CONFIG, settings)
    fingerprint = certificates.fingerprint(root.certificate)
    state = State.create(home.database)
    coordinator = Coordinator(home, state)
    with state.write(now) as tx:
        tx.put("revocations", "0")
        tx.record(
            Kind.FEDERATION_CREATED,
            fingerprint,
            study_key=canonical.digest(keys.public_bytes(coordinator.study_key)),
            cosigners=cosigners,
        )
        tx.record(Kind.REVOCATIONS_CHANGED, revocations_digest((), ()), number=0)
        upkeep.salt_pseudonyms(tx)
        issuance.keep(tx, chain, holder=issuance.COORDINATOR, usage=issuance.SIGNING)
    state.close()
    return fingerprint


def _save_to_travel(path: Path, key: keys.PrivateKey, passphrase: str | None) -> None:
    if passphrase is None:
        keys.save(path, key)
    else:
        keys.save_alone(path, key, passphrase)
