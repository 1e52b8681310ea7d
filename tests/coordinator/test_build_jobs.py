"""A build is a plan and its jobs: killed anywhere it goes on, and two at once share the work."""

import dataclasses
import json
import os
import signal
import time
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta

import pytest

from coordinator import build_records, builds, jobs, model_making, plans, releases, shards
from coordinator.errors import NotFoundError, StateError
from coordinator.home import CONFIG
from coordinator.jobs import JobKind, Owner
from kit import config
from kit.errors import KitError
from tests.fakes import forks, site
from tests.fakes.terminal import Terminal

SHARDS = 5  # two of a, two of b, one of c


def record_of(federation, number=None):
    with federation.open() as coordinator:
        newest = build_records.list_builds(coordinator)[0]
        return build_records.show(coordinator, number or newest.build)


def generated(record):
    """Job -> how often its shard was generated."""
    done = [e for e in record.events if e.kind == "done" and e.details.get("generated")]
    return Counter(event.job for event in done)


def test_a_plan_names_all_that_its_bits_depend_on_and_not_the_secret(approved, monkeypatch):
    with approved.open() as coordinator:
        work = plans.propose(coordinator, site.STUDY)
        document = json.loads(work.to_bytes())
        secret = coordinator.study_secret(work.study.digest)
    assert set(document) == {
        *("version", "study", "policy", "inputs", "labels", "seeds", "numerics", "code")
    }
    assert document["numerics"]["threads"] == 1
    assert document["code"]["hospital-edge-kit"]
    assert secret.hex() not in work.to_bytes().decode()
    names = {shard.name for shard in shards.of(work)}
    settings = config.load(approved.hub / CONFIG, type(coordinator.config))
    config.save(approved.hub / CONFIG, dataclasses.replace(settings, threads=2))
    with approved.open() as coordinator:
        threads = plans.propose(coordinator, site.STUDY)
    config.save(approved.hub / CONFIG, settings)
    code = plans.code_version() | {"learning": "0" * 64}
    monkeypatch.setattr(plans, "code_version", lambda: code)
    with approved.open() as coordinator:
        changed = plans.propose(coordinator, site.STUDY)
        with monkeypatch.context() as other:
            other.setattr(type(coordinator), "study_secret", lambda *_: bytes(32))
            reseeded = plans.propose(coordinator, site.STUDY)
    assert len({p.digest for p in (work, threads, changed, reseeded)}) == 4
    for other in (threads, changed, reseeded):  # a shard of another setting is not reused
        assert not names & {shard.name for shard in shards.of(other)}


POINTS = {
    "before a shard is kept": (shards.payloads, "save_shard", {"on_call": 3, "first": True}, 2),
    "after a shard is kept": (shards.payloads, "save_shard", {"on_call": 3}, 2),
    "in training": (model_making, "_classifier", {"first": True}, SHARDS),
    "after the release": (builds.releases, "publish", {}, SHARDS),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_build_that_was_killed_goes_on_from_the_last_whole_shard(approved, point, monkeypatch):
    module, name, when, whole = POINTS[point]
    with monkeypatch.context() as patched:
        patched.setattr(module, name, forks.killing(getattr(module, name), **when))
        child = forks.start(lambda: site.build(approved))
    assert forks.status_of(child) == -signal.SIGKILL
    stopped = record_of(approved)
    assert (stopped.summary.state, stopped.summary.jobs_done) == ("open", whole)
    started = time.monotonic()
    made = site.build(approved)
    assert time.monotonic() - started < jobs.LEASE.total_seconds() / 2  # nobody waited for it
    record = record_of(approved)
    assert record.summary.build == stopped.summary.build == made.build
    assert record.summary.state == "done"
    assert record.events[: len(stopped.events)] == stopped.events
    kept = 1 if point == "after a shard is kept" else 0  # whole on the disk, not yet in its row
    assert generated(record) == dict.fromkeys(set(range(SHARDS)) - ({2} if kept else set()), 1)
    fresh = site.build(approved)
    assert (fresh.release, fresh.plan) == (made.release, made.plan)
    assert (fresh.build, fresh.shards_generated) == (made.build + 1, 0)


def test_two_builds_at_once_share_the_shards_and_agree(approved, monkeypatch):
    real = shards.Maker.make

    def slow(self, shard):
        time.sleep(0.4)
        return real(self, shard)

    monkeypatch.setattr(shards.Maker, "make", slow)
    children = [forks.start(lambda: site.build(approved)) for _ in range(2)]
    assert [forks.status_of(child) for child in children] == [0, 0]
    with approved.open() as coordinator:
        [summary] = build_records.list_builds(coordinator)
    record = record_of(approved)
    assert generated(record) == dict.fromkeys(range(SHARDS), 1)
    assert {e.details["pid"] for e in record.events if e.kind == "done"} == set(children)
    leased = Counter(e.job for e in record.events if e.kind == "leased")
    assert leased == dict.fromkeys(range(SHARDS + 1), 1)
    monkeypatch.undo()
    assert site.build(approved).release == summary.release


def open_build(coordinator):
    work = plans.propose(coordinator, site.STUDY)
    return jobs.join(coordinator, work, engine="test")


@pytest.mark.both_states
def test_a_lease_ends_with_its_time_or_its_process_and_whoever_lost_it_changes_nothing(approved):
    with approved.open() as coordinator, ExitStack() as living:
        number = open_build(coordinator)
        assert open_build(coordinator) == number  # joined
        one, two = Owner(coordinator), Owner(coordinator)
        for owner in (one, two):
            living.enter_context(owner.living())
        first = jobs.lease(coordinator, number, JobKind.SHARD, one)
        second = jobs.lease(coordinator, number, JobKind.SHARD, two)
        assert (first.number, second.number) == (0, 1)
        coordinator.ahead = jobs.LEASE + timedelta(seconds=1)
        jobs.renew(coordinator, two.id)
        taken = jobs.lease(coordinator, number, JobKind.SHARD, two)
        assert (taken.number, taken.attempt) == (0, 2)  # the time of the first is over
        jobs.finish(coordinator, first, one)
        jobs.give_back(coordinator, first, one, KitError("late"))
        done = jobs.done(coordinator, number, JobKind.SHARD)
        assert done == (0, SHARDS)
        jobs.finish(coordinator, taken, two)
        assert jobs.done(coordinator, number, JobKind.SHARD) == (1, SHARDS)
        dead = Owner(coordinator)
        with dead.living():
            third = jobs.lease(coordinator, number, JobKind.SHARD, dead)
            assert jobs.lease(coordinator, number, JobKind.SHARD, one).number == third.number + 1
        again = jobs.lease(coordinator, number, JobKind.SHARD, one)
        assert (again.number, again.attempt) == (third.number, 2)  # its process is gone


@pytest.mark.both_states
def test_a_failed_job_says_why_and_waits_for_the_next_one(approved):
    with approved.open() as coordinator, Owner(coordinator).living() as owner:
        number = open_build(coordinator)
        job = jobs.lease(coordinator, number, JobKind.SHARD, owner)
        with pytest.raises(KitError), jobs.held(coordinator, job, owner):
            raise KitError("the generator is off\x1b[31m")
        record = build_records.show(coordinator, number)
        assert record.jobs[0].state == "waiting"
        assert record.events[-1].kind == "failed"
        assert record.events[-1].details["reason"].startswith("the generator is off")
        assert "\x1b" not in record.events[-1].details["reason"]
        assert jobs.lease(coordinator, number, JobKind.SHARD, owner).number == job.number
        with pytest.raises(NotFoundError, match="no build 99"):
            build_records.show(coordinator, 99)


def test_a_new_plan_takes_the_place_of_one_that_is_not_finished(approved):
    with approved.open() as coordinator, Owner(coordinator).living() as owner:
        old = open_build(coordinator)
        job = jobs.lease(coordinator, old, JobKind.SHARD, owner)
        jobs.give_back(coordinator, job, owner, KitError("stopped"))
        site.revocation_of(approved, coordinator, "c")
        made = builds.build(coordinator, site.STUDY, report=lambda *_: None)
        assert made.build == old + 1
        summaries = build_records.list_builds(coordinator)
        assert [(s.build, s.state) for s in summaries] == [(old + 1, "done"), (old, "superseded")]
        with pytest.raises(StateError, match="gave way") as refusal:
            jobs.lease(coordinator, old, JobKind.SHARD, owner)
        assert "coordinator build" in refusal.value.hint
        assert [r.digest for r in releases.list_releases(coordinator)] == [made.release]


def test_the_work_of_another_build_is_waited_for_and_not_done_again(approved):
    """The same shard, in two builds: of one study before and after a revocation."""
    with approved.open() as coordinator, Owner(coordinator).living() as owner:
        old = open_build(coordinator)
        mine = jobs.lease(coordinator, old, JobKind.SHARD, owner)
        work = shards.of(plans.propose(coordinator, site.STUDY))[mine.number].work
        gone = next(s for s in "abc" if approved.digest(s) not in work)
        site.revocation_of(approved, coordinator, gone)
        new = open_build(coordinator)
        with Owner(coordinator).living() as other:
            got = set()
            while job := jobs.lease(coordinator, new, JobKind.SHARD, other):
                got.add(job.number)
            rows = build_records.show(coordinator, new).jobs
            assert work not in {shard_work(coordinator, rows[n]) for n in got}
            jobs.finish(coordinator, mine, owner, generated=True)
            assert jobs.lease(coordinator, new, JobKind.SHARD, other)


def shard_work(coordinator, row):
    found = shards.of(plans.propose(coordinator, site.STUDY))
    return next(s.work for s in found if (s.blueprint, s.label) == (row.blueprint, row.label))


def test_builds_are_listed_shown_and_followed(approved):
    made = site.build(approved)
    terminal = Terminal(approved.folder)
    [listed] = terminal.json("coordinator", "hub", "builds", "list", light=True)
    assert (listed["state"], listed["release"]) == ("done", made.release)
    assert (listed["jobs_done"], listed["jobs"]) == (SHARDS + 1, SHARDS + 1)
    words = ("builds", "show", str(made.build))
    shown = terminal.json("coordinator", "hub", *words)
    assert shown["document"]["seeds"]
    kinds = [event["kind"] for event in shown["events"]]
    assert (kinds[0], kinds[-1]) == ("planned", "ended")
    assert [j["state"] for j in shown["jobs"]] == ["done"] * (SHARDS + 1)
    followed = terminal.run("coordinator", "hub", *words, "--follow", "--json")
    assert [json.loads(line) for line in followed.out.splitlines()] == shown["events"]
    text = terminal.run("coordinator", "hub", *words).out
    assert "job 0 leased" in text
    assert f"pid {os.getpid()}" in text
