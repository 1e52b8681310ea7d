"""Requests for erasure, carried out together: one file a batch, and how far it came.

Invariants:

- A batch is on the disk before anything is done about it, and each step once it is done: after a
  crash the same command goes on with what is left.
- A batch names nobody: patients are known by the privacy ledger's keyed hash.
- What is collected is not trained on from then on; that it is taken back waits for its batch.
"""

import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from edge_agent import ledger
from edge_agent.erased import Erased
from edge_agent.home import Home
from edge_agent.runs import Request
from kit import canonical, clock
from kit.errors import FormatError
from kit.files import write_atomic

VERSION = 1
MAX_PATIENTS = 100_000  # of one command
MAX_BYTES = 64 << 20  # of a file: several such commands
_FOLDER, _STEM, _COLLECTED = "withdrawals", "erasure", "collected.json"


class Step(StrEnum):
    """How far a batch, or the replacement of one blueprint in it, has come."""

    REQUESTED = "requested"  # noted; an order may have left
    WITHDRAWN = "withdrawn"  # everything they are in is taken back
    TRAINED = "trained"  # without them, and asked by the gate
    SUBMITTED = "submitted"  # the coordinator has the new blueprint
    DONE = "done"
    GATE_FAILED = "gate failed"  # what was trained does not leave
    GIVEN_UP = "given up"  # the command was repeated without asking for a replacement


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """One blueprint that is made again without some patients.

    Attributes:
        replaces: the digest of the blueprint that they were in.
        request: what is asked of `train`; its run is the new one.
        step: `requested`, `trained`, `submitted`, `gate failed` or `given up`.
        blueprint: the digest of the new one, once it is submitted.
    """

    replaces: str
    request: Request
    step: Step = Step.REQUESTED
    blueprint: str = ""

    @property
    def is_open(self) -> bool:
        """Whether this site has something left to do for it."""
        return self.step in (Step.REQUESTED, Step.TRAINED)

    def to_table(self) -> dict[str, Any]:
        """Return it as canonical JSON values."""
        return {
            "replaces": self.replaces,
            "request": self.request.to_table(),
            "step": str(self.step),
            "blueprint": self.blueprint,
        }

    @classmethod
    def from_table(cls, value: Any) -> Self:
        """Read what `to_table` wrote.

        Raises:
            FormatError: it is damaged.
        """
        table = canonical.fields(value, set(cls.__dataclass_fields__), what="replacement")
        return cls(
            replaces=canonical.sha256_hex(table["replaces"], what="blueprint digest"),
            request=Request.from_table(table["request"]),
            step=_step(table["step"]),
            blueprint=str(table["blueprint"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Patients who are erased together.

    Attributes:
        id: names the batch's file.
        requested: when, RFC 3339.
        patients: the pseudonyms under which the ledger knows them.
        step: `requested`, `withdrawn` or `done`.
        ordered: blueprints that it took back, by digest.
        replacements: what is made again without them.
    """

    id: str
    requested: str
    patients: tuple[str, ...]
    step: Step = Step.REQUESTED
    ordered: tuple[str, ...] = ()
    replacements: tuple[Replacement, ...] = ()

    @classmethod
    def new(
        cls,
        patients: Collection[str],
        *,
        replacements: tuple[Replacement, ...] = (),
        now: datetime,
    ) -> Self:
        """Return a batch that is not on the disk yet."""
        return cls(
            id=f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
            requested=clock.rfc3339(now),
            patients=tuple(sorted(set(patients))),
            replacements=replacements,
        )

    @property
    def is_open(self) -> bool:
        """Whether this site has something left to do for it."""
        return self.step is not Step.DONE

    def with_replacement(self, changed: Replacement) -> Self:
        """Return the batch with one replacement changed."""
        found = tuple(changed if r.replaces == changed.replaces else r for r in self.replacements)
        return replace(self, replacements=found)

    def save(self, home: Home) -> Self:
        """Put it on the disk, durably; returns it."""
        table = {
            "version": VERSION,
            "requested": self.requested,
            "patients": list(self.patients),
            "step": str(self.step),
            "ordered": list(self.ordered),
            "replacements": [each.to_table() for each in self.replacements],
        }
        path, data = home.path / _FOLDER / f"{_STEM}-{self.id}.json", canonical.encode(table)
        if not path.is_file() or path.read_bytes() != data:
            write_atomic(path, data, mode=0o600)
        return self


def every(home: Home) -> tuple[Batch, ...]:
    """Return every batch of this home, oldest first.

    Raises:
        FormatError: a file is damaged.
    """
    found = sorted((home.path / _FOLDER).glob(f"{_STEM}-*.json"))
    return tuple(sorted(_read(found), key=lambda batch: (batch.requested, batch.id)))


def covering(home: Home, patients: Collection[str]) -> Batch | None:
    """Return the newest batch that all these patients are in, an open one before the others."""
    found = [batch for batch in every(home) if set(patients) <= set(batch.patients)]
    return max(found, key=lambda batch: (batch.is_open, batch.requested), default=None)


def pseudonyms(home: Home, patients: Collection[str]) -> tuple[str, ...]:
    """Return the names under which the ledger knows these ids, sorted."""
    secret = home.unit_secret()
    return tuple(sorted({ledger.pseudonym(secret, patient).hex() for patient in patients}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Requests that wait for their batch: how many, and since when (empty if none)."""

    collected: int
    since: str


def collect(home: Home, patients: Collection[str], *, now: datetime) -> Collected:
    """Note requests for a later batch; no training takes these patients from now on."""
    waiting = _collected(home)
    Erased(home).add_pseudonyms(patients)
    fresh = {patient: clock.rfc3339(now) for patient in patients if patient not in waiting}
    if fresh:
        _keep_collected(home, waiting | fresh)
    return waiting_requests(home)


def collected(home: Home) -> tuple[str, ...]:
    """Return the pseudonyms of those who wait for their batch."""
    return tuple(sorted(_collected(home)))


def waiting_requests(home: Home) -> Collected:
    """Return how many wait for their batch."""
    times = _collected(home).values()
    return Collected(collected=len(times), since=min(times, default=""))


def settle_collected(home: Home, batch: Batch) -> None:
    """Take those who are in a batch off the list of those who wait."""
    waiting = _collected(home)
    left = {patient: time for patient, time in waiting.items() if patient not in batch.patients}
    if left != waiting:
        _keep_collected(home, left)


def _read(paths: Collection[Path]) -> Iterator[Batch]:
    for path in paths:
        table = canonical.decode(path.read_bytes(), limit=MAX_BYTES)
        if not isinstance(table, dict) or "version" not in table:
            continue  # a record of before 2026-12: finished, and about one patient
        expected = set(Batch.__dataclass_fields__) - {"id"} | {"version"}
        canonical.fields(table, expected, what="batch of erasures")
        canonical.version(table.pop("version"), expected=VERSION, what="batch of erasures")
        yield Batch(
            id=path.stem.removeprefix(f"{_STEM}-"),
            requested=str(table["requested"]),
            patients=_digests(table["patients"]),
            step=_step(table["step"]),
            ordered=_digests(table["ordered"]),
            replacements=tuple(Replacement.from_table(each) for each in table["replacements"]),
        )


def _digests(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise FormatError("batch of erasures is damaged")
    return tuple(canonical.sha256_hex(each, what="pseudonym or blueprint") for each in value)


def _step(value: Any) -> Step:
    if value not in Step.__members__.values():
        raise FormatError("step of an erasure is not known")
    return Step(value)


def _collected(home: Home) -> dict[str, str]:
    path = home.path / _FOLDER / _COLLECTED
    if not path.is_file():
        return {}
    table = canonical.decode(path.read_bytes(), limit=MAX_BYTES)
    canonical.fields(table, {"version", "requests"}, what="collected requests")
    canonical.version(table["version"], expected=VERSION, what="collected requests")
    if not isinstance(table["requests"], dict):
        raise FormatError("collected requests are damaged")
    return {canonical.sha256_hex(who): str(time) for who, time in table["requests"].items()}


def _keep_collected(home: Home, requests: dict[str, str]) -> None:
    table = {"version": VERSION, "requests": requests}
    write_atomic(home.path / _FOLDER / _COLLECTED, canonical.encode(table), mode=0o600)
