"""An edge agent's home: where every file lies, and the configuration."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent.errors import NotEnrolledError
from federation.study import Study
from kit import canonical, config
from kit.errors import KitError
from kit.files import private_folder, read_limited, write_atomic
from kit.reserve import Reserve
from pki import identity as identities
from pki import keys
from pki.enrolment import Pins
from pki.protecting import Place

CONFIG = "config.toml"
MAX_SMALL_FILE_BYTES = 1 << 20
SECRET_BYTES = 32
SCHEMA_VERSION = 1  # of the files of a home; a home without the file `schema` has 1
_OTHERS = {"hosts": "this is the home of a coordinator: give this site's own with --home"}
RESERVE_BYTES = 4 << 20  # a contact and a withdrawal write well under one


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What an operator may change; written by `edge-agent enroll`."""

    site: str
    federation: str
    exchange_address: str
    enrol_address: str
    lifetime_epsilon: str
    lifetime_delta: str
    proxy: str = ""  # http://host:port of an HTTP CONNECT proxy; the environment's is not used
    own_authority: bool = False  # its certificates come from a CA of its own, not the federation's


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one installation at one site."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "Home":
        """Return an enrolled home.

        Raises:
            NotEnrolledError: enrolment has not begun or is not confirmed.
            KitError: a newer kit wrote it.
        """
        home = cls(path.absolute())
        home.check_schema()
        if home.config_path.is_file():
            _ = home.config  # a coordinator's home is said to be that
        if not home.config_path.is_file() or not home.tls_chain.is_file():
            raise NotEnrolledError(
                f"`{path}` is not enrolled", hint="run `edge-agent enroll --token FILE` first"
            )
        return home

    def check_schema(self) -> None:
        """Refuse a home whose files this kit does not know; an older one would be migrated here.

        Raises:
            KitError: a newer kit wrote it.
        """
        path = self.path / "schema"
        version = self.read(path, "schema version").decode().strip() if path.is_file() else "1"
        if not version.isdecimal() or not 1 <= int(version) <= SCHEMA_VERSION:
            raise KitError(
                f"`{self.path}` has schema version {canonical.printable(version)}; this kit knows"
                f" versions up to {SCHEMA_VERSION}",
                hint="use the version of the kit that wrote it, or a newer one",
            )

    def keep_schema(self) -> None:
        """Note the version of the files of this home."""
        write_atomic(self.path / "schema", f"{SCHEMA_VERSION}\n".encode(), mode=0o600)

    @property
    def config_path(self) -> Path:
        """The configuration file."""
        return self.path / CONFIG

    @property
    def config(self) -> AgentConfig:
        """Read the configuration."""
        return config.load(self.config_path, AgentConfig, hints=_OTHERS)

    @property
    def pins(self) -> Pins:
        """Read what this site pinned at enrolment."""
        return Pins.from_table(canonical.decode(self.read(self.path / "pins.json", "pins")))

    @property
    def identity(self) -> identities.Identity:
        """This site's identity."""
        settings = self.config
        return identities.site(settings.federation, settings.site)

    @property
    def coordinator(self) -> identities.Identity:
        """The coordinator's identity."""
        return identities.coordinator(self.config.federation)

    def key(self, name: str) -> Path:
        """Return the path of a private key."""
        return private_folder(self.path / "keys") / name

    @property
    def secrets(self) -> Place:
        """Where every private key and secret of this site lies."""
        return Place(home=self.path, folders=("keys", "enrolment"))

    @property
    def tls_chain(self) -> Path:
        """This site's TLS certificate chain."""
        return self.path / "certificates" / "tls.pem"

    @property
    def next_tls_key(self) -> Path:
        """The key of a renewal, until the certificate for it is in place."""
        return self.key("tls-next.key")

    def settle_tls_key(self, certified: object) -> None:
        """Put the next TLS key in place if the certificate is for it: a renewal may have died."""
        fresh = self.next_tls_key
        if fresh.is_file() and keys.load_tls(fresh).public_key() == certified:
            keys.put(fresh, self.key("tls.key"))
            fresh.unlink()

    @property
    def next_signing_key(self) -> Path:
        """The signing key of a renewal, until the certificate for it is in place."""
        return self.key("signing-next.key")

    def settle_signing_key(self, certified: object) -> None:
        """Put the next signing key in place if the certificate is for it."""
        fresh = self.next_signing_key
        if fresh.is_file() and keys.load_signing(fresh).public_key() == certified:
            keys.put(fresh, self.key("signing.key"))
            fresh.unlink()

    @property
    def signing_chain(self) -> Path:
        """This site's document-signing certificate chain."""
        return self.path / "certificates" / "signing.pem"

    @property
    def logs(self) -> Path:
        """The folder of the log of commands that contact the coordinator."""
        return private_folder(self.path / "logs")

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return private_folder(self.path / "ledger") / "ledger.sqlite"

    @property
    def ledger_mark(self) -> Path:
        """How far the ledger had come, outside its folder."""
        return private_folder(self.path / "state") / "ledger-mark.json"

    @property
    def trust(self) -> Path:
        """What the coordinator has proved so far."""
        return self.path / "state" / "trust.json"

    @property
    def log_copy(self) -> Path:
        """This site's copy of the audit log."""
        return self.path / "state" / "log.jsonl"

    @property
    def vouched(self) -> Path:
        """How far and how lately other sites vouched for the log, at the last contact."""
        return self.path / "state" / "vouched.json"

    @property
    def first_checkpoint(self) -> Path:
        """The log's checkpoint that came with the enrolment token."""
        return self.path / "state" / "first-checkpoint.note"

    @property
    def acts(self) -> Path:
        """What this site did that the log will show."""
        return self.path / "state" / "acts.json"

    @property
    def alarms(self) -> Path:
        """What the log shows about this site that it did not do."""
        return self.path / "state" / "alarms.json"

    @property
    def certificate_revocations(self) -> Path:
        """The newest list of revoked certificates (DER) that the coordinator has proved."""
        return self.path / "state" / "certificates.crl"

    @property
    def authority_revocations(self) -> Path:
        """The root's newest list of revoked issuing CAs (DER), if it ever revoked one."""
        return self.path / "state" / "authorities.crl"

    def study_file(self, study: str, kind: str) -> Path:
        """Return the path of a study's document (`manifest`, `delegation` or `recipient`)."""
        name = canonical.name(study, what="study id")
        return self.path / "studies" / f"{name}.{kind}.json"

    def run(self, name: str) -> Path:
        """Return the folder of a run; it holds what was learnt from patients."""
        return private_folder(self.path / "runs") / canonical.name(name, what="run name")

    @property
    def outbox(self) -> Path:
        """The folder of sealed blueprints on their way."""
        return private_folder(self.path / "outbox")

    def next_number(self, name: str, now: datetime) -> int:
        """Return a number above every earlier one of its name, about the seconds of `now`.

        Time keeps it growing even if its file is lost.
        """
        path = self.path / "state" / name
        last = int(self.read(path, name)) if path.is_file() else 0
        number = max(last + 1, int(now.timestamp()))
        write_atomic(path, str(number).encode())
        return number

    @property
    def receipts(self) -> Path:
        """The folder of log entries with their receipts."""
        return self.path / "receipts"

    @property
    def releases(self) -> Path:
        """The folder of installed releases."""
        return self.path / "releases"

    @property
    def reserve(self) -> Reserve:
        """The space held back so that a full disk still permits a withdrawal."""
        return Reserve(self.path / "reserve", RESERVE_BYTES)

    def unit_secret(self) -> bytes:
        """Return the secret under which the ledger knows its units; made on first use."""
        path = self.key("unit.secret")
        if not path.is_file():
            keys.write_secret(path, os.urandom(SECRET_BYTES))
        return keys.read_secret(path, limit=SECRET_BYTES, what="unit secret")

    @staticmethod
    def read(path: Path, what: str) -> bytes:
        """Read one of this home's small files.

        Raises:
            KitError: it is missing or too large.
        """
        return read_limited(path, limit=MAX_SMALL_FILE_BYTES, what=what)

    def studies(self) -> list[Study]:
        """Return every study this site knows, verified again under the pinned key."""
        from edge_agent.trust import open_study

        folder = self.path / "studies"
        names = sorted(folder.glob("*.manifest.json")) if folder.is_dir() else []
        return [open_study(self.read(path, "study"), self.pins) for path in names]

    def study(self, name: str) -> Study:
        """Return one study.

        Raises:
            KitError: this site does not know it.
        """
        found = self.studies()
        for study in found:
            if study.id == name:
                return study
        known = ", ".join(study.id for study in found) or "none"
        raise KitError(
            f"study `{canonical.printable(name)}` is not known here",
            hint=f"known: {known}; `edge-agent status` asks the coordinator for new ones",
        )
