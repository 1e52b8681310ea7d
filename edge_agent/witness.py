"""A site as a witness: it reads the whole log, counts who vouches for it, and vouches itself.

Pure rules over bytes. The witness keys are those that the log itself registered, the number wanted
is that of its first entry; what the coordinator says at the moment counts for nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from edge_agent.errors import TrustError
from federation.auditlog import merkle
from federation.auditlog.checkpoint import Checkpoint, Receipt, claimed_size, cosignatures
from federation.auditlog.events import read_leaf, reread_leaf
from federation.auditlog.history import History, witness_name
from kit import clock
from kit.errors import KitError
from pki import keys
from pki.enrolment import Pins

EXPLAIN = (
    "do not submit; keep this home, and ask the coordinator's auditor to explain; after an"
    " announced recovery see `edge-agent audit accept`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestone:
    """A state of the log that this site must find again in every later one."""

    size: int
    root: bytes
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouching:
    """One other witness's signature: for how many entries it stands, and since when."""

    pseudonym: str
    size: int
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """The whole log as this site was shown it, and what follows from it."""

    checkpoint: Checkpoint
    leaves: tuple[bytes, ...]
    tree: merkle.Tree
    history: History

    @classmethod
    def read(cls, leaves: tuple[bytes, ...], checkpoint: Checkpoint, *, passed: int = 0) -> Self:
        """Read every leaf and check that they are what the checkpoint stands for.

        The first `passed` were read here before, and are known to be leaves.

        Raises:
            TrustError: they are not.
            FormatError: a leaf is not one.
        """
        if len(leaves) != checkpoint.size:
            raise TrustError(
                f"the coordinator shows {len(leaves)} of the log's {checkpoint.size} entries",
                hint="run the same command again",
            )
        tree = merkle.Tree.of([merkle.leaf_hash(leaf) for leaf in leaves])
        if tree.root() != checkpoint.root:
            raise TrustError(
                "the log's entries do not lead to its checkpoint, or contradict those read before",
                hint=EXPLAIN,
            )
        history = History().read([reread_leaf(leaf) for leaf in leaves[:passed]])
        history.read([read_leaf(leaf) for leaf in leaves[passed:]])
        return cls(checkpoint=checkpoint, leaves=leaves, tree=tree, history=history)

    def require(self, milestones: Iterable[Milestone]) -> None:
        """Check that the log still contains what was seen of it before.

        Raises:
            TrustError: it does not.
        """
        for mark in milestones:
            if mark.size > self.tree.size or self.tree.root(mark.size) != mark.root:
                raise TrustError(
                    f"the audit log contradicts {mark.what} at size {mark.size}", hint=EXPLAIN
                )

    def vouchings(self, notes: Iterable[str], pins: Pins) -> dict[str, Vouching]:
        """Return each active witness's newest signature among cosigned checkpoints.

        Raises:
            TrustError: a checkpoint under the log key is of another log than this one.
        """
        keys_of = self.active(self.tree.size)
        found: dict[str, Vouching] = {}
        for note in notes:
            head = Checkpoint.verify(note, origin=pins.log_origin, key=pins.log_key)
            what = "a checkpoint that witnesses signed"
            self.require([Milestone(size=head.size, root=head.root, what=what)])
            for name, time in cosignatures(note, keys_of).items():
                who = name.rpartition("/")[2]
                if who not in found or found[who].size < head.size:
                    found[who] = Vouching(pseudonym=who, size=head.size, time=time)
        return found

    def active(self, size: int) -> dict[str, bytes]:
        """Return the witnesses (key name -> key) that count at a tree size."""
        origin = self.checkpoint.origin
        return {
            witness_name(origin, w.pseudonym): w.key for w in self.history.active_witnesses(size)
        }

    def own_name(self, own: bytes) -> str | None:
        """Return the key name under which the holder of `own` vouches; None if it may not."""
        names = [name for name, key in self.active(self.tree.size).items() if key == own]
        return names[0] if names else None

    def receipt(self, index: int, notes: Iterable[str]) -> str | None:
        """Return the receipt of an entry under the most cosigned of `notes` that contains it."""
        best: tuple[int, int, str] | None = None
        for note in notes:
            size = claimed_size(note)
            count = len(cosignatures(note, self.active(size)))
            if index < size <= self.tree.size and count and (best is None or best < (count, size)):
                best = (count, size, note)
        if best is None:
            return None
        path = tuple(self.tree.inclusion_proof(index, best[1]))
        return Receipt(index=index, path=path, checkpoint=best[2]).to_text()

    def cosign(self, key: keys.SigningKey, *, at: datetime) -> str | None:
        """Return this site's signature line for the log as it is; None if it is no witness."""
        name = self.own_name(keys.public_bytes(key))
        return None if name is None else self.checkpoint.cosign(key, name=name, at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """Who stands behind a checkpoint: `count` of `of` sites, the last of them at `time`."""

    count: int
    of: int
    time: datetime | None

    def __str__(self) -> str:
        """Say it in words, and no more than is true."""
        if not self.of:
            return "no site has a witness key on the log: the coordinator alone vouches for it"
        words = f"cosigned by {self.count} of {self.of} site{'s' if self.of > 1 else ''}"
        return words + (f" at {clock.rfc3339(self.time)}" if self.time else "")


def cosigned(note: str, view: LogView) -> Cosigned:
    """Return who cosigned a checkpoint, by the keys that its log had registered by then.

    Raises:
        KitError: the line of a known witness does not fit.
    """
    known = view.active(min(claimed_size(note), view.tree.size))
    times = cosignatures(note, known)
    return Cosigned(count=len(times), of=len(known), time=max(times.values(), default=None))


def standing(view: LogView, vouchings: Mapping[str, Vouching], own: bytes) -> str:
    """Say which other sites vouch for the log shown here, up to which entry and since when."""
    others = {w.pseudonym for w in view.history.others(own)}
    counted = [v for v in vouchings.values() if v.pseudonym in others]
    if not others:
        return "no other site is on the log: nobody but this one checks the coordinator"
    words = f"{len(counted)} of {len(others)} other site{'s' if len(others) > 1 else ''} vouch"
    if counted:
        oldest = min(counted, key=lambda v: v.size)
        words += f"; all of them for {oldest.size} entries, at {clock.rfc3339(oldest.time)}"
    return words + f"; a release wants {view.history.needed(own)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """What as many other sites as a release wants (`needed`) vouch for: so many entries or more.

    Each of them signed at `time` or later; None while fewer do.
    """

    needed: int
    size: int
    time: datetime | None


def vouched(view: LogView, vouchings: Mapping[str, Vouching], own: bytes | None) -> Vouched:
    """Return how far, and how lately, k of n other sites vouch for the log shown here."""
    others = {w.pseudonym for w in view.history.others(own)}
    counted = [v for v in vouchings.values() if v.pseudonym in others]
    needed = view.history.needed(own)
    if not needed or len(counted) < needed:
        return Vouched(needed=needed, size=0, time=None)
    sizes = sorted((v.size for v in counted), reverse=True)
    times = sorted((v.time for v in counted), reverse=True)
    return Vouched(needed=needed, size=sizes[needed - 1], time=times[needed - 1])


def require_vouched(
    index: int, view: LogView, vouchings: Mapping[str, Vouching], own: bytes | None, *, what: str
) -> None:
    """Check that enough other sites vouch for a log that contains entry `index` (A5).

    Raises:
        KitError: they do not, yet.
    """
    needed = view.history.needed(own)
    others = {w.pseudonym for w in view.history.others(own)}
    have = sum(1 for v in vouchings.values() if v.pseudonym in others and v.size > index)
    if have < needed:
        raise KitError(
            f"{have} of {len(others)} other sites vouch for a log that contains {what}; this"
            f" federation wants {needed}",
            hint="each does at its next contact; run the same command again later. If they had"
            " contact since, you may be shown another log than they: ask them",
        )
