"""What a dossier of a revocation holds; specified in docs/forgetting.md.

One canonical document, signed by the coordinator. Everything in it that somebody else said is there
as that somebody signed it, and everything that the log says with its proof of inclusion.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography import x509

from federation.auditlog.events import Event
from kit import canonical, clock
from kit.errors import FormatError, KitError
from kit.files import read_folder
from pki import certificates

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.forgetting-dossier+json"
VERSION = 1
MAX_BYTES = 16 << 20
MAX_ITEMS = 4096
DOSSIER, CHAIN, PAGE = "dossier.dsse.json", "signing-chain.pem", "dossier.md"
WORDS = (
    "Gone from the coordinator's live stores and all future releases; not from predictions already"
    " made, copies outside the kit, or what people saw."
)
_PAPERS = frozenset({"approval", "order", "release", "study"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """A leaf of the log with its place and the path to the dossier's checkpoint."""

    leaf: bytes
    index: int
    path: tuple[bytes, ...]

    @property
    def event(self) -> Event:
        """What the leaf says."""
        return Event.from_leaf(self.leaf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A signed document as it came, with the chain (PEM) of its signer; empty where a key signs."""

    kind: str
    envelope: bytes
    chain: bytes = b""

    @property
    def digest(self) -> str:
        """The digest by which the log names it."""
        return canonical.digest(self.envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfUse:
    """What one number of the revocation list held; the log has the digest of it."""

    number: int
    blueprints: tuple[str, ...]
    releases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteWord:
    """Whether a site acknowledged: a checkpoint that it cosigned after the revocation, or nothing.

    `path` leads from the revocation's entry to that checkpoint. The id of the site is the
    coordinator's word: the log knows pseudonyms.
    """

    pseudonym: str
    id: str
    checkpoint: str = ""
    path: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    """Everything about one revocation, as of `made`."""

    federation: str
    made: str
    blueprint: str
    recipient_key: str
    log_origin: str
    log_key: bytes = field(repr=False)
    study_key: bytes = field(repr=False)
    checkpoint: str
    entries: tuple[Proved, ...]
    before: OutOfUse
    after: OutOfUse
    papers: tuple[Paper, ...]
    sites: tuple[SiteWord, ...]
    not_reached: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(_plain(asdict(self)) | {"version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        decoded = canonical.decode(data, limit=MAX_BYTES)
        table = canonical.fields(decoded, set(cls.__slots__) | {"version"}, what="dossier")
        canonical.version(table.pop("version"), expected=VERSION, what="dossier")
        canonical.name(table["federation"], what="federation")
        clock.parse_rfc3339(table["made"], what="made")
        for name in ("blueprint", "recipient_key"):
            canonical.sha256_hex(table[name], what=name)
        for name in ("log_key", "study_key"):
            table[name] = canonical.b64decode(table[name])
        table["log_origin"] = canonical.label(table["log_origin"], what="log origin")
        table["checkpoint"] = _text(table["checkpoint"])
        table["entries"] = tuple(_proved(item) for item in _list(table["entries"]))
        table["before"], table["after"] = _out_of_use(table["before"]), _out_of_use(table["after"])
        table["papers"] = tuple(_paper(item) for item in _list(table["papers"]))
        table["sites"] = tuple(_site(item) for item in _list(table["sites"]))
        table["not_reached"] = tuple(_text(item) for item in _list(table["not_reached"]))
        return cls(**table)


def read(folder: Path) -> tuple[bytes, tuple[x509.Certificate, ...]]:
    """Return the envelope and the signing chain in a dossier's folder, neither verified.

    Raises:
        KitError: it is no such folder.
    """
    files = read_folder(folder, limit=MAX_BYTES, what="dossier")
    if not {DOSSIER, CHAIN} <= set(files):
        raise KitError(
            f"`{folder}` is no dossier of a revocation",
            hint="give the folder that `coordinator audit dossier` wrote",
        )
    return files[DOSSIER], certificates.from_pem(files[CHAIN])


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return canonical.b64encode(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _proved(value: Any) -> Proved:
    table = canonical.fields(value, set(Proved.__slots__), what="entry")
    canonical.integer(table["index"], low=0, high=canonical.MAX_INTEGER, what="index")
    return Proved(
        leaf=canonical.b64decode(table["leaf"]),
        index=table["index"],
        path=_path(table["path"]),
    )


def _paper(value: Any) -> Paper:
    table = canonical.fields(value, set(Paper.__slots__), what="paper")
    if table["kind"] not in _PAPERS:
        raise FormatError("the kind of a paper is unknown")
    envelope, chain = (canonical.b64decode(table[name]) for name in ("envelope", "chain"))
    return Paper(kind=table["kind"], envelope=envelope, chain=chain)


def _out_of_use(value: Any) -> OutOfUse:
    table = canonical.fields(value, set(OutOfUse.__slots__), what="revocation list")
    canonical.integer(table["number"], low=0, high=canonical.MAX_INTEGER, what="number")
    for name in ("blueprints", "releases"):
        table[name] = tuple(canonical.sha256_hex(item) for item in _list(table[name]))
    return OutOfUse(**table)


def _site(value: Any) -> SiteWord:
    table = canonical.fields(value, set(SiteWord.__slots__), what="site")
    canonical.name(table["pseudonym"], what="pseudonym")
    canonical.name(table["id"], what="site")
    table["checkpoint"], table["path"] = _text(table["checkpoint"]), _path(table["path"])
    return SiteWord(**table)


def _path(value: Any) -> tuple[bytes, ...]:
    return tuple(canonical.b64decode(item) for item in _list(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError("a text of the dossier is none")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise FormatError("a list of the dossier is missing or too long")
    return value
