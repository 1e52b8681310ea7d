"""A log as files: leaves, checkpoint with cosignatures, and the keys to check them; no IO.

Three plain files (docs/audit-log.md specifies them): what an auditor takes home, what two sites
compare, and what a coordinator is recovered from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from federation.auditlog import merkle
from federation.auditlog.checkpoint import Checkpoint, cosignatures
from federation.auditlog.events import read_leaf
from federation.auditlog.history import History, witness_name
from kit import canonical
from kit.errors import FormatError

VERSION = 1
LEAVES, CHECKPOINT, KEYS = "leaves.jsonl", "checkpoint.note", "keys.json"
MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A whole log; nothing in it is believed before `verify`."""

    origin: str
    log_key: bytes
    checkpoint: str
    leaves: tuple[bytes, ...]

    def to_files(self) -> dict[str, bytes]:
        """Return the files by name."""
        names = {
            "version": VERSION,
            "origin": self.origin,
            "log_key": canonical.b64encode(self.log_key),
        }
        return {
            LEAVES: b"".join(leaf + b"\n" for leaf in self.leaves),
            CHECKPOINT: self.checkpoint.encode(),
            KEYS: canonical.encode(names),
        }

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Read the files.

        Raises:
            FormatError: one is missing or is not what its name says.
        """
        if set(files) != {LEAVES, CHECKPOINT, KEYS}:
            raise FormatError(f"a log export has the files {LEAVES}, {CHECKPOINT} and {KEYS}")
        names = {"version", "origin", "log_key"}
        table = canonical.fields(canonical.decode(files[KEYS]), names, what=KEYS)
        canonical.version(table["version"], expected=VERSION, what="log export")
        *leaves, rest = files[LEAVES].split(b"\n")
        if rest:
            raise FormatError(f"{LEAVES} is cut off")
        return cls(
            origin=canonical.label(table["origin"], what="log origin"),
            log_key=canonical.b64decode(table["log_key"]),
            checkpoint=files[CHECKPOINT].decode(errors="replace"),
            leaves=tuple(leaves),
        )

    def verify(self, *, key: bytes | None) -> "Verified":
        """Check everything that can be checked without the coordinator.

        `key` is the log key that the reader trusts; None takes the export's own, which proves
        only that the export agrees with itself and with whoever cosigned it.

        Raises:
            FormatError: a leaf is none, the leaves are not those of the checkpoint, another log.
            IdentityError: a signature does not fit.
        """
        trusted = self.log_key if key is None else key
        head = Checkpoint.verify(self.checkpoint, origin=self.origin, key=trusted)
        tree = merkle.Tree.of([merkle.leaf_hash(leaf) for leaf in self.leaves])
        if (tree.size, tree.root()) != (head.size, head.root):
            raise FormatError("the leaves of the export are not those of its checkpoint")
        history = History().read([read_leaf(leaf) for leaf in self.leaves])
        known = {
            witness_name(self.origin, w.pseudonym): w.key
            for w in history.active_witnesses(head.size)
        }
        return Verified(
            checkpoint=head,
            tree=tree,
            history=history,
            witnesses=len(known),
            cosigned=cosignatures(self.checkpoint, known),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What an export proves."""

    checkpoint: Checkpoint
    tree: merkle.Tree
    history: History
    witnesses: int
    cosigned: dict[str, datetime]
