"""What is on record of builds: for a command line now, and for a page later."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator import state
from coordinator.context import Coordinator
from coordinator.errors import NotFoundError
from coordinator.jobs import BuildState, JobState, pause
from coordinator.state import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A build in one line."""

    build: int
    study: str
    plan: str
    state: str
    jobs_done: int
    jobs: int
    created: str
    ended: str | None
    release: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job as it is now."""

    job: int
    kind: str
    blueprint: str | None
    label: str | None
    state: str
    attempt: int
    owner: str | None
    lease_until: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One thing that happened in a build."""

    event: int
    time: str
    kind: str
    job: int | None
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything on record of a build; `document` is its plan, `quality` what its model is worth.

    `quality` counts held-out synthetic images; builds of before had none.
    """

    summary: Summary
    document: dict[str, Any]
    quality: dict[str, Any] | None
    jobs: tuple[JobRecord, ...]
    events: tuple[EventRecord, ...]


def list_builds(coordinator: Coordinator) -> list[Summary]:
    """Return every build, newest first."""
    with coordinator.state.read() as tx:
        rows = tx.all(_builds().order_by(state.builds.c.number.desc()))
        return [_summary(tx, row) for row in rows]


def show(coordinator: Coordinator, number: int) -> Record:
    """Return everything on record of a build.

    Raises:
        NotFoundError: no such build.
    """
    table = state.jobs
    with coordinator.state.read() as tx:
        row = _row(tx, number)
        jobs = tx.all(sa.select(table).where(table.c.build == number).order_by(table.c.number))
        return Record(
            summary=_summary(tx, row),
            document=json.loads(row.document),
            quality=json.loads(row.result).get("quality") if row.result else None,
            jobs=tuple(map(_job, jobs)),
            events=tuple(_events(tx, number, after=-1)),
        )


def follow(coordinator: Coordinator, number: int) -> Iterator[EventRecord]:
    """Yield the events of a build as they come, until it has ended.

    Raises:
        NotFoundError: no such build.
    """
    seen = -1
    while True:
        with coordinator.state.read() as tx:
            is_open = _row(tx, number).state == BuildState.OPEN
            events = _events(tx, number, after=seen)
        for event in events:
            seen = event.event
            yield event
        if not is_open:
            return
        pause()


def _builds() -> sa.Select[Any]:
    builds, studies = state.builds, state.studies
    joined = builds.join(studies, builds.c.study_digest == studies.c.digest)
    return sa.select(builds, studies.c.id.label("study")).select_from(joined)


def _row(tx: Transaction, number: int) -> sa.Row[Any]:
    row = tx.one(_builds().where(state.builds.c.number == number))
    if row is None:
        raise NotFoundError(f"no build {number}", hint="see `coordinator builds list`")
    return row


def _summary(tx: Transaction, row: sa.Row[Any]) -> Summary:
    table = state.jobs
    states = tx.all(sa.select(table.c.state).where(table.c.build == row.number))
    return Summary(
        build=row.number,
        study=row.study,
        plan=row.plan,
        state=row.state,
        jobs_done=sum(job.state == JobState.DONE for job in states),
        jobs=len(states),
        created=row.created,
        ended=row.ended,
        release=json.loads(row.result)["release"] if row.result else None,
    )


def _job(row: sa.Row[Any]) -> JobRecord:
    return JobRecord(
        job=row.number,
        kind=row.kind,
        blueprint=row.blueprint,
        label=row.label,
        state=row.state,
        attempt=row.attempt,
        owner=row.owner,
        lease_until=row.lease_until,
    )


def _events(tx: Transaction, number: int, *, after: int) -> list[EventRecord]:
    table = state.build_events
    query = sa.select(table).where(table.c.build == number, table.c.number > after)
    return [
        EventRecord(
            event=row.number,
            time=row.time,
            kind=row.kind,
            job=row.job,
            details=json.loads(row.details),
        )
        for row in tx.all(query.order_by(table.c.number))
    ]
