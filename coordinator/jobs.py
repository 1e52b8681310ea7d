"""Jobs: the parts of a build, each under a lease, and what happened to them.

Invariants:

- A job is leased to one live owner at a time, and so is its work, whichever build needs it.
- Whoever lost the lease changes nothing: `finish` and `give_back` want owner and attempt.
- An owner is a process: a lease ends when its time is over, or at once when its process is dead.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator import experts, shards, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.plans import Plan
from coordinator.state import Transaction
from kit import canonical, clock
from kit.errors import KitError
from kit.files import exclusive, private_folder

LEASE = timedelta(seconds=120)
RENEW_EVERY_S = 30.0
POLL_S = 0.2
_OLD_MARK_S = 24 * 3600.0
MAX_WORDS = 200  # of an error, in an event


class BuildState(StrEnum):
    """How far a build is."""

    OPEN = "open"
    DONE = "done"
    SUPERSEDED = "superseded"


class JobState(StrEnum):
    """How far a job is."""

    WAITING = "waiting"
    LEASED = "leased"
    DONE = "done"


class JobKind(StrEnum):
    """What a job makes."""

    SHARD = "shard"
    EXPERT = "expert"
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that its holder may do now."""

    build: int
    number: int
    attempt: int


class Owner:
    """This process as the holder of leases; keeps them while it lives."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.id = secrets.token_hex(8)
        self._coordinator = coordinator
        self._done = threading.Event()

    @contextmanager
    def living(self) -> Iterator["Owner"]:
        """Hold the mark of a living process, and renew its leases, while the block runs."""
        mark = _mark(self._coordinator, self.id)
        _forget_the_dead(mark.parent)
        with exclusive(mark, busy="an owner's mark is taken"):
            renewing = threading.Thread(target=self._renew, daemon=True)
            renewing.start()
            try:
                yield self
            finally:
                self._done.set()
                renewing.join()
                mark.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._done.wait(RENEW_EVERY_S):
            with suppress(KitError):  # it is tried again before the lease ends
                renew(self._coordinator, self.id)


def _mark(coordinator: Coordinator, owner: str) -> Path:
    return private_folder(coordinator.home.path / "builds") / f"{owner}.lock"


def _forget_the_dead(folder: Path) -> None:
    """Remove marks of processes that were killed long ago; their leases are over."""
    for mark in folder.glob("*.lock"):
        with suppress(FileNotFoundError, KitError):
            if time.time() - mark.stat().st_mtime > _OLD_MARK_S:
                with exclusive(mark, busy="alive"):
                    mark.unlink()


def _is_alive(coordinator: Coordinator, owner: str) -> bool:
    """Say whether the process of an owner lives: a dead one lets go of its lock."""
    mark = _mark(coordinator, owner)
    if not mark.is_file():
        return False
    try:
        with exclusive(mark, busy="alive"):
            mark.unlink(missing_ok=True)
            return False
    except KitError:
        return True


def join(coordinator: Coordinator, work: Plan, *, engine: str) -> int:
    """Return the number of the open build of a plan; a new one takes the place of older plans."""
    builds = state.builds
    with coordinator.write() as tx:
        is_open = (builds.c.study_digest == work.study.digest) & (builds.c.state == BuildState.OPEN)
        for row in tx.all(sa.select(builds).where(is_open)):
            if row.plan == work.digest:
                record(tx, row.number, "joined", engine=engine)
                return int(row.number)
            _end(tx, row.number, BuildState.SUPERSEDED)
        newest = tx.connection.scalar(sa.select(sa.func.max(builds.c.number)))
        number = (newest or 0) + 1
        tx.execute(
            sa.insert(builds).values(
                number=number,
                plan=work.digest,
                study_digest=work.study.digest,
                document=work.to_bytes(),
                state=BuildState.OPEN,
                created=clock.rfc3339(tx.now),
            )
        )
        tx.execute(sa.insert(state.jobs).values(_rows(number, work)))
        record(tx, number, "planned", engine=engine)
    return number


def _rows(build: int, work: Plan) -> list[dict[str, Any]]:
    common = {"build": build, "state": JobState.WAITING, "attempt": 0}
    rows: list[dict[str, Any]] = [
        {"kind": JobKind.SHARD, "blueprint": s.blueprint, "label": s.label, "work": s.work}
        for s in shards.of(work)
    ]
    rows += [
        {"kind": JobKind.EXPERT, "blueprint": e.blueprint, "label": None, "work": e.work}
        for e in experts.of(work)
    ]
    rows.append({"kind": JobKind.RELEASE, "blueprint": None, "label": None, "work": work.digest})
    return [common | row | {"number": number} for number, row in enumerate(rows)]


def lease(coordinator: Coordinator, build: int, kind: JobKind, owner: Owner) -> Job | None:
    """Take the next job of a kind that nobody holds; None if there is none now.

    Raises:
        StateError: the build gave way to another plan.
    """
    jobs = state.jobs
    with coordinator.write() as tx:
        if _state_of(tx, build) == BuildState.SUPERSEDED:
            raise StateError(
                f"build {build} gave way to one of a newer plan",
                hint="run `coordinator build` again: it uses what is approved now",
            )
        held = _held(coordinator, tx)
        waiting = (jobs.c.build == build) & (jobs.c.kind == kind) & (jobs.c.state != JobState.DONE)
        for row in tx.all(sa.select(jobs).where(waiting).order_by(jobs.c.number)):
            if row.work in held:
                continue
            job = Job(build=build, number=row.number, attempt=row.attempt + 1)
            tx.execute(
                sa.update(jobs)
                .where(_is(job))
                .values(
                    state=JobState.LEASED,
                    owner=owner.id,
                    lease_until=clock.rfc3339(tx.now + LEASE),
                    attempt=job.attempt,
                )
            )
            record(tx, build, "leased", job=job.number, attempt=job.attempt, owner=owner.id)
            return job
    return None


def _held(coordinator: Coordinator, tx: Transaction) -> set[str]:
    """Return the work that a live owner has under a lease that is not over."""
    jobs = state.jobs
    leased = tx.all(
        sa.select(jobs.c.work, jobs.c.owner).where(
            jobs.c.state == JobState.LEASED, jobs.c.lease_until > clock.rfc3339(tx.now)
        )
    )
    alive = {owner: _is_alive(coordinator, owner) for owner in {row.owner for row in leased}}
    return {row.work for row in leased if alive[row.owner]}


def done(coordinator: Coordinator, build: int, kind: JobKind) -> tuple[int, int]:
    """Return how many jobs of a kind are done, and how many there are."""
    jobs = state.jobs
    query = sa.select(jobs.c.state).where(jobs.c.build == build, jobs.c.kind == kind)
    with coordinator.state.read() as tx:
        states = [row.state for row in tx.all(query)]
    return states.count(JobState.DONE), len(states)


def each(
    coordinator: Coordinator,
    build: int,
    kind: JobKind,
    owner: Owner,
    report: Callable[[int, int], None],
) -> Iterator[Job]:
    """Yield every job of a kind that this owner gets, until all of them are done by whoever.

    Raises:
        StateError: the build gave way to another plan.
    """
    while True:
        finished, total = done(coordinator, build, kind)
        report(finished, total)
        if finished == total:
            return
        job = lease(coordinator, build, kind, owner)
        if job is None:
            pause()
        else:
            yield job


def pause() -> None:
    """Wait a little, while others hold what is left."""
    time.sleep(POLL_S)


def renew(coordinator: Coordinator, owner: str) -> None:
    """Have every lease of an owner last from now on."""
    jobs = state.jobs
    mine = (jobs.c.owner == owner) & (jobs.c.state == JobState.LEASED)
    with coordinator.write() as tx:
        tx.execute(sa.update(jobs).where(mine).values(lease_until=clock.rfc3339(tx.now + LEASE)))


def finish(coordinator: Coordinator, job: Job, owner: Owner, **details: Any) -> None:
    """Mark a job as done, unless somebody else has it by now."""
    with coordinator.write() as tx:
        if _change(tx, job, owner, JobState.DONE):
            record(tx, job.build, "done", job=job.number, owner=owner.id, **details)


def give_back(coordinator: Coordinator, job: Job, owner: Owner, error: BaseException) -> None:
    """Leave a job that failed or was stopped to the next one."""
    words = canonical.printable(str(error) or type(error).__name__, width=MAX_WORDS)
    with coordinator.write() as tx:
        if _change(tx, job, owner, JobState.WAITING):
            record(tx, job.build, "failed", job=job.number, reason=words)


@contextmanager
def held(coordinator: Coordinator, job: Job, owner: Owner) -> Iterator[None]:
    """Run a block on a leased job; an error gives it back."""
    try:
        yield
    except BaseException as error:
        with suppress(KitError):  # the lease ends by itself
            give_back(coordinator, job, owner, error)
        raise


def end(coordinator: Coordinator, job: Job, owner: Owner, result: dict[str, Any]) -> None:
    """Close a build by its last job."""
    with coordinator.write() as tx:
        if _change(tx, job, owner, JobState.DONE):
            record(tx, job.build, "done", job=job.number, owner=owner.id, **worker())
            _end(tx, job.build, BuildState.DONE, result=json.dumps(result))


def worker() -> dict[str, Any]:
    """Return which process this is, for an event."""
    return {"pid": os.getpid(), "node": socket.gethostname()}


def record(
    tx: Transaction, build: int, kind: str, *, job: int | None = None, **details: Any
) -> None:
    """Append one event to a build."""
    table = state.build_events
    query = sa.select(sa.func.max(table.c.number)).where(table.c.build == build)
    newest = tx.connection.scalar(query)
    tx.execute(
        sa.insert(table).values(
            build=build,
            number=0 if newest is None else newest + 1,
            time=clock.rfc3339(tx.now),
            kind=kind,
            job=job,
            details=json.dumps(details, sort_keys=True),
        )
    )


def _state_of(tx: Transaction, build: int) -> str:
    table = state.builds
    return str(tx.connection.scalar(sa.select(table.c.state).where(table.c.number == build)))


def _end(tx: Transaction, build: int, new_state: BuildState, **values: Any) -> None:
    table = state.builds
    changed = {"state": new_state, "ended": clock.rfc3339(tx.now), **values}
    tx.execute(sa.update(table).where(table.c.number == build).values(**changed))
    record(tx, build, "ended", state=str(new_state))


def _change(tx: Transaction, job: Job, owner: Owner, new_state: JobState) -> bool:
    jobs = state.jobs
    mine = _is(job) & (jobs.c.owner == owner.id) & (jobs.c.attempt == job.attempt)
    changed = tx.execute(
        sa.update(jobs)
        .where(mine, jobs.c.state == JobState.LEASED)
        .values(state=new_state, owner=None, lease_until=None)
    )
    return bool(changed.rowcount)


def _is(job: Job) -> Any:
    return (state.jobs.c.build == job.build) & (state.jobs.c.number == job.number)
