"""Recovery as a record: which part of a log goes on after a backup was restored (A4).

Signed by reviewers, each over the same bytes. A site believes it only with the quorum of every
study that it knows, and only after a person there agreed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from federation import dsse
from federation.study import Study
from kit import canonical, clock
from kit.errors import FormatError
from pki import keys

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.log-recovery+json"
VERSION = 1
MAX_FILE_BYTES = 1 << 20
MAX_EPOCH = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """From entry `size` on the log is a new one; the first `size` entries, under `root`, stand.

    `restored_size` of them came back with the backup, the others from sites' copies.
    """

    origin: str
    epoch: int
    restored_size: int
    size: int
    root: str
    reason_commitment: str
    time: str

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @property
    def digest(self) -> str:
        """The digest by which the log names this record."""
        return canonical.digest(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(data), names, what="recovery record")
        canonical.version(table.pop("version"), expected=VERSION, what="recovery record")
        canonical.label(table["origin"], what="log origin")
        canonical.integer(table["epoch"], low=1, high=MAX_EPOCH, what="epoch")
        size = canonical.integer(table["size"], low=1, high=canonical.MAX_INTEGER, what="size")
        canonical.integer(table["restored_size"], low=1, high=size, what="restored size")
        canonical.sha256_hex(table["root"], what="root")
        canonical.sha256_hex(table["reason_commitment"], what="reason")
        clock.parse_rfc3339(table["time"])
        return cls(**table)

    def sign(self, key: keys.SigningKey) -> bytes:
        """Return one reviewer's envelope."""
        keyid = canonical.digest(keys.public_bytes(key))
        return dsse.sign(self.to_bytes(), PAYLOAD_TYPE, key, keyid=keyid)


def read(envelopes: Sequence[bytes]) -> Recovery:
    """Return what all of the envelopes are about; their signatures are for `signers`.

    Raises:
        FormatError: there is none, or they are not about one record.
    """
    payloads = {dsse.parse(envelope, PAYLOAD_TYPE).payload for envelope in envelopes}
    if len(payloads) != 1:
        raise FormatError("the signatures are not all of one recovery record")
    return Recovery.from_bytes(payloads.pop())


def read_file(data: bytes) -> tuple[Recovery, list[bytes]]:
    """Return the record that a file holds, and its envelopes, a line each. Raises as `read`."""
    envelopes = data.splitlines()
    return read(envelopes), envelopes


def signers(envelopes: Iterable[bytes], studies: Sequence[Study]) -> set[bytes]:
    """Return the public keys of the studies' reviewers that signed.

    Raises:
        FormatError: somebody signed who is no reviewer of any of them.
        IdentityError: a signature does not fit.
    """
    reviewers = {bytes.fromhex(r.public_key) for study in studies for r in study.reviewers}
    by_id = {canonical.digest(public): public for public in reviewers}
    found = set()
    for envelope in envelopes:
        public = by_id.get(dsse.parse(envelope, PAYLOAD_TYPE).keyid)
        if public is None:
            raise FormatError("the recovery record is signed by nobody on a list of reviewers")
        dsse.open_with_key(envelope, PAYLOAD_TYPE, public)
        found.add(public)
    return found


def lacking(envelopes: Sequence[bytes], studies: Sequence[Study]) -> list[str]:
    """Return the ids of the studies whose quorum of reviewers has not signed.

    Raises:
        KitError: a signature is a stranger's or does not fit.
    """
    signed = signers(envelopes, studies)
    return [
        study.id
        for study in studies
        if len(signed & {bytes.fromhex(r.public_key) for r in study.reviewers}) < study.quorum
    ]
