"""Founding a federation: keys, certificates, an empty log. Done once, whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from coordinator import issuance, repository, roots, upkeep
from coordinator.errors import StateError
from coordinator.home import CONFIG, CoordinatorConfig, Home
from coordinator.state import Location, State
from coordinator.stores import place
from federation.auditlog.events import Kind
from federation.auditlog.history import revocations_digest
from kit import canonical, config
from kit.files import os_errors, write_atomic
from pki import certificates, identity, keys, protecting, tokens
from pki.tokens import TokenKey, TokenUri

DEFAULT_COSIGNERS = 1
MAX_COSIGNERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Founded:
    """What `init` made."""

    home: Path
    federation: str
    roots: Path
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
    token: TokenUri | None = None,
    cosigners: int = DEFAULT_COSIGNERS,
) -> Founded:
    """Make a coordinator's home, and its offline keys in the folder that `settings.roots` names.

    Those are the root's, the study key and one reviewer's; empty is a folder beside the home. With
    `new_passphrase`, no key touches the disk in clear: the offline ones are sealed each for itself,
    and all others under the home's protection. With a `token`, root and study key are made in it
    and never leave it; the folder then says where they are.

    `cosigners` is how many other sites must vouch for the log before a site takes a release (A5);
    it stands in the first log entry, for good.

    Raises:
        StateError: there is something at `path` already, or offline keys where they should go.
        IdentityError: the passphrase is too short.
        FormatError: a name is not allowed.
        KitError: the database that `settings.state` names is not empty or cannot be reached, or
            `settings.store` names no place that is known.
    """
    canonical.name(settings.federation, what="federation")
    canonical.name(reviewer, what="reviewer")
    place.parse(settings.store, settings.store_endpoint)
    canonical.integer(cosigners, low=0, high=MAX_COSIGNERS, what="number of cosigners")
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StateError(f"`{path}` exists and is not empty", hint="choose another --home")
    away = Path(settings.roots) if settings.roots else roots.default_folder(path)
    away = roots.fresh(away, path, reviewer=reviewer)
    if settings.roots:
        settings = replace(settings, roots=str(away))
    offline = Offline.create(settings.federation, reviewer, now=now, token=token)
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        passphrase = protecting.begin(part, new_passphrase) if new_passphrase else None
        chain = _furnish(Home(part), settings, offline, now)
        with _new_state(Home(part).state) as state:
            _begin_log(state, chain, offline, now, cosigners)
            state.close()  # before its file moves with the home
            offline.save(away, passphrase)
            with os_errors(path):
                if path.exists():
                    path.rmdir()
                part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        offline.remove(away)
        raise
    return Founded(
        home=path,
        federation=settings.federation,
        roots=away,
        reviewer=reviewer,
        reviewer_key=away / roots.reviewer_file(reviewer),
        root_fingerprint=certificates.fingerprint(offline.root.certificate),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """The keys that never enter the home (sensitive)."""

    root: certificates.Authority = field(repr=False)
    study: keys.SigningKey = field(repr=False)
    reviewer: str
    reviewing: keys.SigningKey = field(repr=False)

    @classmethod
    def create(
        cls, federation: str, reviewer: str, *, now: datetime, token: TokenUri | None = None
    ) -> Self:
        """Return fresh ones; those of the federation in a token, if there is one.

        Raises:
            IdentityError: the token does not answer.
        """
        if token is None:
            root, study = None, keys.new_signing_key()
        else:
            root = tokens.new_tls_key(replace(token, object=token.object or "root"))
            study = tokens.new_signing_key(replace(token, object=token.object or "study"))
        return cls(
            root=certificates.new_root(federation, now=now, key=root),
            study=study,
            reviewer=reviewer,
            reviewing=keys.new_signing_key(),
        )

    def save(self, folder: Path, passphrase: str | None) -> None:
        """Write them, each sealed for itself if there is a passphrase.

        Raises:
            KitError: the folder cannot be written.
        """
        roots.make_folder(folder)
        for name, key in self._files().items():
            if passphrase is None or isinstance(key, TokenKey):
                keys.save(folder / name, key)
            else:
                keys.save_alone(folder / name, key, passphrase)

    def remove(self, folder: Path) -> None:
        """Take back what was made: a founding is whole or nothing."""
        for key in (self.root.key, self.study):
            if isinstance(key, TokenKey):
                tokens.destroy(key)
        with suppress(OSError):
            for name in self._files():
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()

    def _files(self) -> dict[str, keys.PrivateKey]:
        return {
            roots.ROOT: self.root.key,
            roots.STUDY: self.study,
            roots.reviewer_file(self.reviewer): self.reviewing,
        }


def _furnish(home: Home, settings: CoordinatorConfig, offline: Offline, now: datetime) -> bytes:
    """Write configuration, certificates and keys; returns the signing chain (PEM)."""
    root = offline.root
    issuing = certificates.new_issuing(root, settings.federation, now=now)
    keys.save(home.key("issuing.key"), issuing.key)
    keys.save(home.key("log.key"), keys.new_signing_key())
    study = keys.public_bytes(offline.study)
    people = {offline.reviewer: keys.public_bytes(offline.reviewing)}
    roots.publish(home, study=study, reviewers=people)
    repository.found(home, root_key=root.key, study_key=offline.study, now=now)
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
    return chain


@contextmanager
def _new_state(location: Location) -> Iterator[State]:
    """Make the state; a database elsewhere is emptied again if the block fails."""
    state = State.create(location)
    try:
        yield state
    except BaseException:
        if not location.is_file:
            state.drop()
        raise
    finally:
        state.close()


def _begin_log(state: State, chain: bytes, offline: Offline, now: datetime, cosigners: int) -> None:
    study = keys.public_bytes(offline.study)
    fingerprint = certificates.fingerprint(offline.root.certificate)
    with state.write(now) as tx:
        tx.put("revocations", "0")
        tx.record(
            Kind.FEDERATION_CREATED,
            fingerprint,
            study_key=canonical.digest(study),
            cosigners=cosigners,
        )
        tx.record(Kind.REVOCATIONS_CHANGED, revocations_digest((), ()), number=0)
        upkeep.salt_pseudonyms(tx)
        issuance.keep(tx, chain, holder=issuance.COORDINATOR, usage=issuance.SIGNING)
