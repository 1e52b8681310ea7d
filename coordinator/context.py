"""The coordinator as its services see it: home, state, and the keys it signs with."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from cryptography import x509

from coordinator.home import CoordinatorConfig, Home
from coordinator.state import State, Transaction
from kit import clock
from kit.files import read_limited
from pki import certificates, identity, keys

MAX_CERTIFICATE_BYTES = 64 * 1024
SECRET_BYTES = 32


@dataclass
class Coordinator:
    """One open coordinator; every service takes it as its first argument."""

    home: Home
    state: State

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["Coordinator"]:
        """Open an initialised home for the length of a block.

        Raises:
            NotFoundError: there is none.
            KitError: its state cannot be used.
        """
        home = Home.open(path)
        state = State.open(home.database)
        try:
            yield cls(home, state)
        finally:
            state.close()

    @cached_property
    def config(self) -> CoordinatorConfig:
        """The configuration as it was when first asked for."""
        return self.home.config

    @property
    def identity(self) -> identity.Identity:
        """The coordinator's own identity."""
        return identity.coordinator(self.config.federation)

    @cached_property
    def root(self) -> x509.Certificate:
        """The federation's root certificate."""
        return self._chain("root.pem")[0]

    @cached_property
    def issuing(self) -> certificates.Authority:
        """The issuing CA with its key."""
        key = keys.load_tls(self.home.key("issuing.key"))
        return certificates.Authority(self._chain("issuing.pem")[0], key)

    @cached_property
    def log_key(self) -> keys.SigningKey:
        """The key of the audit log."""
        return keys.load_signing(self.home.key("log.key"))

    @cached_property
    def study_key(self) -> keys.SigningKey:
        """The key that signs study manifests and recipient keys."""
        return keys.load_signing(self.home.key("study.key"))

    @cached_property
    def signing_key(self) -> keys.SigningKey:
        """The key of the coordinator's document-signing certificate."""
        return keys.load_signing(self.home.key("signing.key"))

    @cached_property
    def signing_chain(self) -> tuple[x509.Certificate, ...]:
        """The coordinator's document-signing chain, leaf first."""
        return self._chain("signing.pem")

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

    def _chain(self, name: str) -> tuple[x509.Certificate, ...]:
        path = self.home.certificate(name)
        return certificates.from_pem(
            read_limited(path, limit=MAX_CERTIFICATE_BYTES, what="certificate")
        )
