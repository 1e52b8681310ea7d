"""The coordinator as its services see it: home, state, and the keys it signs with."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509

from coordinator import roots, upkeep
from coordinator.home import CoordinatorConfig, Home
from coordinator.state import State, Transaction
from coordinator.stores import Stores
from kit import clock
from kit.files import os_errors, read_limited
from pki import certificates, identity, keys
from pki.errors import IdentityError

MAX_CERTIFICATE_BYTES = 64 * 1024
SECRET_BYTES = 32

_Read = TypeVar("_Read")
_Key = TypeVar("_Key", keys.TlsKey, keys.SigningKey)


@dataclass
class Coordinator:
    """One open coordinator; every service takes it as its first argument."""

    home: Home
    state: State
    _read: dict[Path, tuple[Any, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["Coordinator"]:
        """Open an initialised home for the length of a block.

        Raises:
            NotFoundError: there is none.
            KitError: its state cannot be used.
        """
        home = Home.open(path)
        state = State.open(home.state)
        try:
            upkeep.complete(state)
            yield cls(home, state)
        finally:
            state.close()

    @cached_property
    def config(self) -> CoordinatorConfig:
        """The configuration as it was when first asked for."""
        return self.home.config

    @cached_property
    def stores(self) -> Stores:
        """Where payloads, shards and releases lie."""
        return Stores(self.home)

    @property
    def identity(self) -> identity.Identity:
        """The coordinator's own identity."""
        return identity.coordinator(self.config.federation)

    @cached_property
    def root(self) -> x509.Certificate:
        """The federation's root certificate."""
        return self._chain("root.pem")[0]

    @property
    def issuing(self) -> certificates.Authority:
        """The issuing CA with its key, as it is now: a running server follows a renewal."""
        chain, key = self._pair("issuing", keys.load_tls)
        return certificates.Authority(chain[0], key)

    @property
    def issuing_certificate(self) -> x509.Certificate:
        """The issuing CA's certificate, without its key."""
        return self._chain("issuing.pem")[0]

    @cached_property
    def log_key(self) -> keys.SigningKey:
        """The key of the audit log."""
        return keys.load_signing(self.home.key("log.key"))

    @cached_property
    def study_public(self) -> bytes:
        """The public half of the offline study key (32 bytes), which every site pins."""
        return roots.study_public(self.home)

    @property
    def signer(self) -> tuple[tuple[x509.Certificate, ...], keys.SigningKey]:
        """The coordinator's document-signing chain, leaf first, and its key, as they are now."""
        return self._pair("signing", keys.load_signing)

    @property
    def signing_chain(self) -> tuple[x509.Certificate, ...]:
        """The coordinator's document-signing chain, leaf first."""
        return self.signer[0]

    @property
    def log_origin(self) -> str:
        """The name of the log in its checkpoints."""
        return f"{self.config.federation}/log"

    def now(self) -> datetime:
        """Return the time; the one place where services read the clock."""
        return clock.utc_now()

    def write(self) -> AbstractContextManager[Transaction]:
        """Open a write transaction at the present time."""
        return self.state.write(self.now())

    def study_secret(self, study_digest: str) -> bytes:
        """Return the secret at the root of a study's seed tree; sensitive (A6)."""
        return keys.read_secret(
            self.home.key(f"study-{study_digest}.secret"), limit=SECRET_BYTES, what="study secret"
        )

    def save_study_secret(self, study_digest: str, secret: bytes) -> None:
        """Keep the secret of a new study."""
        keys.write_secret(self.home.key(f"study-{study_digest}.secret"), secret)

    def _pair(
        self, name: str, load: Callable[[Path], _Key]
    ) -> tuple[tuple[x509.Certificate, ...], _Key]:
        """Return a chain and the key that its leaf is for.

        A renewal puts the next key beside the present one, then replaces the chain, then the key:
        wherever it was interrupted, the chain says which of the two keys counts.
        """
        chain = self._chain(f"{name}.pem")
        for file in (self.home.key(f"{name}.key"), self.home.key(f"{name}-next.key")):
            if file.is_file():
                key = self._fresh(file, load)
                if key.public_key() == chain[0].public_key():
                    return chain, key
        raise IdentityError(
            f"no key in this home belongs to the certificate `{name}.pem`",
            hint="restore the folder `keys` of this home, whole",
        )

    def _chain(self, name: str) -> tuple[x509.Certificate, ...]:
        def read(path: Path) -> tuple[x509.Certificate, ...]:
            data = read_limited(path, limit=MAX_CERTIFICATE_BYTES, what="certificate")
            return certificates.from_pem(data)

        return self._fresh(self.home.certificate(name), read)

    def _fresh(self, path: Path, read: Callable[[Path], _Read]) -> _Read:
        """Return what a file says; it is read again only when it was replaced."""
        with os_errors(path):
            found = path.stat() if path.is_file() else None
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size) if found else None
        kept = self._read.get(path)
        if kept is None or kept[0] != stamp:
            kept = (stamp, read(path))
            self._read[path] = kept
        value: _Read = kept[1]
        return value
