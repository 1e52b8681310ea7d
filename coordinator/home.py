"""The coordinator's home: where every file lies, and the configuration.

`keystore/` holds what must be forgettable (recipient seeds, blueprint keys): keep it out of
ordinary backups, or a backup could bring back what a revocation destroyed.
"""

from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import NotFoundError
from coordinator.state.location import FILE, Location
from kit import config
from kit.files import private_folder
from pki.protecting import Place

CONFIG = "config.toml"
_OTHERS = {"site": "this is the home of an edge agent: give the coordinator's own with --home"}


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """What an operator may change; written by `coordinator init`."""

    federation: str
    hosts: str
    exchange_port: int
    enrol_port: int
    listen: str
    threads: int
    revocation_grace_hours: int
    upload_places: int = 3  # uploads at once; further sites wait in a queue
    site_staging_mib: int = 256  # of one site, until they are taken in
    staging_hours: int = 72  # an upload without a new byte for so long is dropped
    stick_days: int = 30  # how long a file for a site without a line may be installed from
    roots: str = ""  # where `init` wrote the offline keys; empty: beside the home
    state: str = ""  # URL of a PostgreSQL database; empty: SQLite in the home
    store: str = ""  # URL of a folder or bucket for payloads, shards and releases; empty: the home
    store_endpoint: str = ""  # of an object store that is not AWS's


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one coordinator."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "Home":
        """Return an initialised home.

        Raises:
            NotFoundError: there is none at `path`.
        """
        home = cls(path.absolute())
        if not (home.path / CONFIG).is_file():
            raise NotFoundError(
                f"no coordinator home at `{path}`", hint="run `coordinator init` first"
            )
        return home

    @property
    def config(self) -> CoordinatorConfig:
        """Read the configuration."""
        return config.load(self.path / CONFIG, CoordinatorConfig, hints=_OTHERS)

    def key(self, name: str) -> Path:
        """Return the path of a long-lived key."""
        return private_folder(self.path / "keys") / name

    def certificate(self, name: str) -> Path:
        """Return the path of a certificate (PEM)."""
        return self.path / "certificates" / name

    @property
    def keystore(self) -> Path:
        """The folder of keys that a revocation destroys."""
        return private_folder(self.path / "keystore")

    @property
    def secrets(self) -> Place:
        """Where every private key and secret lies; `portable` are those of an early version."""
        return Place(
            home=self.path,
            folders=("keys", "keystore"),
            portable=("root.key", "study.key", "reviewer-*.key"),
        )

    @property
    def logs(self) -> Path:
        """The folder of the server's log."""
        return private_folder(self.path / "logs")

    @property
    def state(self) -> Location:
        """Where the state lies."""
        return Location(self.path, self.config.state)

    @property
    def database_files(self) -> tuple[Path, ...]:
        """A SQLite state and what SQLite keeps beside it; only SQLite opens them."""
        return tuple(self.path / f"{FILE}{suffix}" for suffix in ("", "-wal", "-shm", "-journal"))

    def staging(self, digest: str) -> Path:
        """Return the path of an upload that is not complete."""
        return private_folder(self.path / "staging") / f"{digest}.part"

    def received(self, digest: str) -> Path:
        """Return the path of a whole upload that waits for intake."""
        return private_folder(self.path / "staging") / f"{digest}.c2sp"
