"""The laws of the state, on either database: one writer, one snapshot, no entry without its change.

A command line beside a running `serve` is another process: so are the writers here.
"""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from coordinator import audit, logbook, state
from coordinator.state import limits
from federation.auditlog.events import Kind
from kit.errors import KitError
from tests.fakes import site

pytestmark = pytest.mark.both_states

# Waits for a line between what it changed and its end; `x` ends it without a commit.
WRITER = """
import sys
from pathlib import Path
from coordinator.context import Coordinator
from federation.auditlog.events import Kind
with Coordinator.open(Path(sys.argv[1])) as coordinator:
    for number in range(int(sys.argv[2])):
        with coordinator.write() as tx:
            tx.put("counted", str(int(tx.get("counted") or 0) + 1))
            tx.record(Kind.TOKEN_ISSUED, "0" * 64, site="s-1")
            if len(sys.argv) > 3:
                print("holds the lock", flush=True)
                sys.stdin.readline()
"""


def writer(federation, times, *more, **options):
    words = [sys.executable, "-c", WRITER, federation.hub, str(times), *more]
    return subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options)


def counted(federation):
    with federation.open() as coordinator, coordinator.state.read() as tx:
        return int(tx.get("counted") or 0), tx.log_size()


@pytest.fixture
def federation(tmp_path):
    return site.found(tmp_path)


def test_writers_of_several_processes_and_threads_lose_no_update_and_leave_no_hole(federation):
    _, before = counted(federation)
    others = [writer(federation, 15) for _ in range(2)]
    with federation.open() as coordinator:

        def one_more(_):
            with coordinator.write() as tx:
                tx.put("counted", str(int(tx.get("counted") or 0) + 1))
                tx.record(Kind.TOKEN_ISSUED, "0" * 64, site="s-1")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(one_more, range(20)))
    assert [process.wait(timeout=120) for process in others] == [0, 0]
    assert counted(federation) == (50, before + 50)
    with federation.open() as coordinator:
        assert len(logbook.events(coordinator)) == before + 50
        logbook.checkpoint(coordinator)  # needs every subtree root


def test_a_writer_that_is_killed_changes_nothing_and_lets_go_of_the_lock(federation, monkeypatch):
    before = counted(federation)
    process = writer(federation, 1, "hold", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"holds the lock\n"
        assert counted(federation) == before  # a reader does not wait, and sees nothing of it
        monkeypatch.setattr(limits, "WAIT_FOR_LOCK_MS", 100)
        with (
            federation.open() as coordinator,
            pytest.raises(KitError, match=r"state cannot be used: .*(locked|lock timeout)"),
            coordinator.write(),
        ):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    monkeypatch.setattr(limits, "WAIT_FOR_LOCK_MS", 10_000)
    assert counted(federation) == before
    process = writer(federation, 1)
    assert process.wait(timeout=60) == 0
    assert counted(federation) == (before[0] + 1, before[1] + 1)


def test_no_entry_no_transition(federation):
    with federation.open() as coordinator:
        before = audit.verify(coordinator)
        for broken in (fail_after_the_entry, fail_in_the_entry):
            with pytest.raises((ZeroDivisionError, KitError)), coordinator.write() as tx:
                broken(tx)
        with coordinator.state.read() as tx:
            assert tx.get("counted") is None
        after = audit.verify(coordinator)
        assert (after.size, after.root) == (before.size, before.root)
        with coordinator.write() as tx:
            tx.put("counted", "7")
            tx.record(Kind.TOKEN_ISSUED, "0" * 64, site="s-1")
        with coordinator.state.read() as tx:
            assert (tx.get("counted"), tx.log_size()) == ("7", before.size + 1)


def fail_after_the_entry(tx):
    tx.put("counted", "7")
    tx.record(Kind.TOKEN_ISSUED, "0" * 64, site="s-1")
    raise ZeroDivisionError


def fail_in_the_entry(tx):
    tx.put("counted", "7")
    tx.record(Kind.TOKEN_ISSUED, "0" * 64, site=object())


def test_a_reader_sees_one_snapshot_while_others_write(federation):
    with federation.open() as coordinator, coordinator.state.read() as snapshot:
        size = snapshot.log_size()
        with coordinator.write() as tx:
            tx.record(Kind.TOKEN_ISSUED, "0" * 64, site="s-1")
        assert snapshot.log_size() == size
        with coordinator.state.read() as fresh:
            assert fresh.log_size() == size + 1


def test_the_database_itself_refuses_to_edit_the_log(federation):
    edits = ("UPDATE {} SET hash = BLOB", "DELETE FROM {}")
    with federation.open() as coordinator, federation.database() as database:
        for table in ("log", "log_nodes"):
            for edit in edits:
                with pytest.raises(database.refusal, match="append-only"):
                    database.execute(edit.format(table))
        assert audit.verify(coordinator).size
        database.execute("DELETE FROM cosignatures")  # the positive control: another table


def test_text_sorts_by_its_bytes_and_numbers_have_64_bits(federation):
    names = ["b", "A", "a", "B", "_", "á", "Z", "10", "9"]
    with federation.open() as coordinator, coordinator.write() as tx:
        for name in names:
            tx.execute(sa.insert(state.lost).values(name=name, kind="site"))
        found = tx.all(sa.select(state.lost.c.name).order_by(state.lost.c.name))
        assert [row.name for row in found] == sorted(names)
        tx.execute(sa.insert(state.log_causes).values(site="a", day="-", entries=1 << 53))
        assert [row.entries for row in tx.all(sa.select(state.log_causes))] == [1 << 53]
