"""What a stick file says of itself: who made it for whom, until when, and its parts.

Invariants:

- A part is known by its place in the closed table `PARTS`; no name in a file is ever a path.
- Every part has a limit of its own, checked before a byte of it is read.
- The signer signs the digest of every part, so the index is all that a signature has to cover.
"""

import re
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from federation.blueprint import limits as blueprints
from federation.release.statement import MAX_MODEL_BYTES
from kit import canonical, clock
from kit.errors import FormatError, KitError
from pki import certificates

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.stick+json"
VERSION = 1
MAX_FILE_BYTES = (4 << 30) - 1  # FAT32 holds no larger file
MAX_ENVELOPE_BYTES = 64 << 10  # 256 files at 130 bytes an entry, in base64, with room
MAX_MODELS = 256  # files of releases: a model and what lies beside it
MAX_ORDERS = 64  # withdrawals: a site has one blueprint in play in a study
MAX_MESSAGE_BYTES = 4 << 20  # as on the wire
MAX_LEAVES_BYTES = 256 << 20  # a log of several hundred thousand entries
MAX_VALIDITY_DAYS = 100
MAX_CLOCK_SKEW_S = 600
MAX_NAME_CHARACTERS = 200  # of 255 on FAT32 and exFAT: a file is written under a longer one first

_MODEL, _WITHDRAW = "model-", "withdraw"
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]|[. ]$|[^\x20-\x7e]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)


class Kind(StrEnum):
    """Which way a file goes, and on whose word."""

    ENROLMENT_REQUEST = "enrolment-request"  # the token's key
    TO_COORDINATOR = "to-coordinator"  # the site's document-signing certificate
    TO_SITE = "to-site"  # the coordinator's


CHAIN, CONTACT, RENEW, REKEY, BEGIN, CIPHERTEXT = (
    "signing-chain",
    "contact",
    "renew",
    "rekey",
    "begin",
    "ciphertext",
)
TOKEN_KEY, TLS_REQUEST, SIGNING_REQUEST, WITNESS_KEY = (
    "token-key",
    "tls-request",
    "signing-request",
    "witness-key",
)
CERTIFICATES, LEAVES, COSIGN = "certificates", "leaves", "cosign"

_CHAIN_BYTES = 16 << 10


def model_name(number: int) -> str:
    """Return the name of the n-th model's part, from 1."""
    return f"{_MODEL}{number}"


def order_name(number: int) -> str:
    """Return the name of the n-th withdrawal's part, from 1; the first one has no number."""
    return _WITHDRAW if number == 1 else f"{_WITHDRAW}-{number}"


# Per kind: part -> (most bytes, whether it must be there), in the order of the file.
PARTS: dict[Kind, dict[str, tuple[int, bool]]] = {
    Kind.ENROLMENT_REQUEST: {
        TOKEN_KEY: (32, True),
        TLS_REQUEST: (certificates.MAX_REQUEST_BYTES, True),
        SIGNING_REQUEST: (certificates.MAX_REQUEST_BYTES, True),
        WITNESS_KEY: (32, True),
    },
    Kind.TO_COORDINATOR: {
        CHAIN: (_CHAIN_BYTES, True),
        CONTACT: (MAX_MESSAGE_BYTES, True),
        COSIGN: (MAX_MESSAGE_BYTES, False),
        RENEW: (MAX_MESSAGE_BYTES, False),
        REKEY: (MAX_MESSAGE_BYTES, False),
        **{order_name(n): (MAX_MESSAGE_BYTES, False) for n in range(1, MAX_ORDERS + 1)},
        BEGIN: (MAX_MESSAGE_BYTES, False),
        CIPHERTEXT: (2 * blueprints.MAX_PAYLOAD_BYTES, False),
    },
    Kind.TO_SITE: {
        CHAIN: (_CHAIN_BYTES, True),
        CERTIFICATES: (MAX_MESSAGE_BYTES, True),
        CONTACT: (MAX_MESSAGE_BYTES, True),
        LEAVES: (MAX_LEAVES_BYTES, True),
        **{model_name(n): (MAX_MODEL_BYTES, False) for n in range(1, MAX_MODELS + 1)},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a file: its name in the table, its length in bytes and its digest."""

    name: str
    length: int
    sha256: str

    @property
    def is_model(self) -> bool:
        """Whether this is a release's model, which is known by its digest."""
        return self.name.startswith(_MODEL)

    @property
    def is_order(self) -> bool:
        """Whether this is a site's order about a blueprint of its own."""
        return self.name.startswith(_WITHDRAW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The signed contents of a file."""

    kind: Kind
    federation: str
    site: str
    number: int
    issued: str
    expires: str
    parts: tuple[Part, ...]

    @property
    def length(self) -> int:
        """How many bytes all parts have together."""
        return sum(part.length for part in self.parts)

    @property
    def orders(self) -> tuple[Part, ...]:
        """The parts in which the site takes blueprints back."""
        return tuple(part for part in self.parts if part.is_order)

    def part(self, name: str) -> Part | None:
        """Return a part by name, or None."""
        return next((part for part in self.parts if part.name == name), None)

    def offset(self, wanted: Part) -> int:
        """Return where a part begins, counted from the first one."""
        return sum(part.length for part in self.parts[: self.parts.index(wanted)])

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed.

        Raises:
            FormatError: they would not read back.
        """
        data = canonical.encode(asdict(self) | {"version": VERSION})
        type(self).from_bytes(data)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range, or a part is not one of its
                kind, too long, out of order or there twice.
        """
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(
            canonical.decode(data, limit=MAX_ENVELOPE_BYTES), names, what="index"
        )
        canonical.version(table.pop("version"), expected=VERSION, what="index")
        try:
            table["kind"] = Kind(table["kind"])
        except ValueError as error:
            raise FormatError("the file is of an unknown kind") from error
        canonical.name(table["federation"], what="federation")
        canonical.name(table["site"], what="site id")
        canonical.integer(table["number"], low=1, high=canonical.MAX_INTEGER, what="number")
        issued = clock.parse_rfc3339(table["issued"], what="issued")
        expires = clock.parse_rfc3339(table["expires"], what="expires")
        if not timedelta(0) < expires - issued <= timedelta(days=MAX_VALIDITY_DAYS):
            raise FormatError(f"a file is valid for at most {MAX_VALIDITY_DAYS} days")
        table["parts"] = _parts(table["parts"], PARTS[table["kind"]])
        return cls(**table)


def _parts(value: Any, allowed: dict[str, tuple[int, bool]]) -> tuple[Part, ...]:
    if not isinstance(value, list) or len(value) > len(allowed):
        raise FormatError("the list of parts is missing or too long")
    parts = tuple(_part(item, allowed) for item in value)
    names = [part.name for part in parts]
    if names != [name for name in allowed if name in names]:
        raise FormatError("parts are out of order, or one is there twice")
    missing = [name for name, (_, must) in allowed.items() if must and name not in names]
    if missing:
        raise FormatError(f"part `{missing[0]}` is missing")
    if (BEGIN in names) != (CIPHERTEXT in names):
        raise FormatError("a statement and its payload travel together")
    return parts


def _part(value: Any, allowed: dict[str, tuple[int, bool]]) -> Part:
    table = canonical.fields(value, set(Part.__slots__), what="part")
    name = canonical.name(table["name"], what="part")
    if name not in allowed:
        raise FormatError(f"part `{name}` does not belong into such a file")
    limit, _ = allowed[name]
    canonical.integer(table["length"], low=0, high=limit, what=f"length of part `{name}`")
    canonical.sha256_hex(table["sha256"], what="part digest")
    return Part(**table)


def check_time(index: Index, now: datetime) -> None:
    """Refuse a file from the future: this machine's clock or its writer's is wrong (A18).

    Raises:
        KitError: it was made more than `MAX_CLOCK_SKEW_S` after `now`.
    """
    ahead = clock.parse_rfc3339(index.issued) - now
    if ahead.total_seconds() > MAX_CLOCK_SKEW_S:
        raise KitError(
            f"the file was made {ahead} from now, by this machine's clock",
            hint="set the clock of the machine that is wrong; nothing was taken from the file",
        )


def is_expired(index: Index, now: datetime) -> bool:
    """Whether the file is past the time that its signer gave it."""
    return now > clock.parse_rfc3339(index.expires)


def check_file_name(name: str) -> None:
    """Refuse a file name that FAT32, exFAT or Windows would change or not take.

    Raises:
        KitError: it is too long, has a forbidden character, or is a device's.
    """
    if len(name) > MAX_NAME_CHARACTERS or _FORBIDDEN.search(name) or _DEVICE.match(name):
        raise KitError(
            f"`{canonical.printable(name)}` is no name that every stick takes",
            hint='choose plain letters, digits, `-`, `_` and `.`; no `< > : " / \\ | ? *`, no dot'
            " or blank at the end, no device name such as `con` or `nul`",
        )
