"""The privacy ledger: nobody overspends, nothing is forgotten, and a crash only ever costs."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.ledger import Budget, Ledger, LedgerRun, Trials
from edge_agent.ledger.entries import apply
from federation.accounting import DpEvent, compose
from federation.study import Unit
from kit import canonical
from kit.errors import FormatError, KitError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = b"s" * 32
BUDGET = Budget(epsilon=8.0, delta=1e-5)
EVENT = DpEvent(sample_rate=0.2, noise_multiplier=3.0, steps=300)  # epsilon 5.9
EVENT_TABLE = {"sample_rate": 0.2, "noise_multiplier": 3.0}
SMALL = DpEvent(sample_rate=0.01, noise_multiplier=4.0, steps=10)
UNITS = [f"patient-{i}" for i in range(20)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def open_ledger(path: Path, **changes: object) -> Ledger:
    return Ledger(**{"path": path, "secret": SECRET, "budget": BUDGET, **changes})


def test_a_reservation_is_what_the_training_loop_charges(path) -> None:
    with open_ledger(path) as ledger:
        account = ledger.reserve("run", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)
        assert account.charged == 0
        account.charge(1)
        account.charge(2)
        assert account.charged == 3


def test_the_whole_event_counts_from_the_reservation_on(path) -> None:
    with open_ledger(path) as ledger:
        assert ledger.spent(UNITS) == 0
        ledger.reserve("run", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)
        assert ledger.spent(UNITS) == compose([EVENT], BUDGET.delta)
        assert ledger.spent(["someone-else"]) == 0


def test_a_second_run_is_refused_when_both_would_pass_the_budget(path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("first", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)
        ledger.reserve("cheap", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT)
        with pytest.raises(KitError, match=r"epsilon 5.9\d of 8 is spent or reserved") as caught:
            ledger.reserve("second", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)
        assert "fewer steps or more noise" in str(caught.value.hint)
        ledger.reserve("strangers", ["someone-else"], [EVENT], NOW, unit_kind=Unit.PATIENT)


def test_one_spent_unit_is_enough_to_refuse(path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("first", [UNITS[0]], [EVENT], NOW, unit_kind=Unit.PATIENT)
        ledger.reserve("without", [*UNITS[1:], "new"], [EVENT], NOW, unit_kind=Unit.PATIENT)
        with pytest.raises(KitError, match="budget is too small"):
            ledger.reserve(
                "with", [UNITS[0], "other", "another"], [EVENT], NOW, unit_kind=Unit.PATIENT
            )


def test_steps_are_charged_to_the_first_event_until_it_is_used_up(path) -> None:
    warm_up = DpEvent(sample_rate=1.0, noise_multiplier=8.0, steps=1)
    with open_ledger(path) as ledger:
        run = ledger.reserve("run", UNITS, [warm_up, SMALL], NOW, unit_kind=Unit.PATIENT)
        assert run.reserved == 1 + SMALL.steps
        assert ledger.spent(UNITS) == compose([warm_up, SMALL], BUDGET.delta)
        run.charge(4)
        with pytest.raises(KitError, match="7 reserved steps left, not 8"):
            run.charge(8)
        ledger.settle("run")
        charged = [warm_up, replace(SMALL, steps=3)]
        assert ledger.spent(UNITS) == compose(charged, BUDGET.delta)
    with open_ledger(path) as ledger:
        assert ledger.spent(UNITS) == compose(charged, BUDGET.delta)
        with pytest.raises(KitError, match="other privacy settings"):
            ledger.reserve("run", UNITS, [SMALL, warm_up], NOW, unit_kind=Unit.PATIENT)
        ledger.reserve("run", UNITS, [warm_up, SMALL], NOW, unit_kind=Unit.PATIENT)


def test_trials_on_the_same_units_are_listed_with_what_they_cost_together(path) -> None:
    other = DpEvent(sample_rate=0.01, noise_multiplier=3.0, steps=20)
    with open_ledger(path) as ledger:
        ledger.reserve("a", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT, settings="clip 1")
        ledger.reserve("else", UNITS[:3], [SMALL], NOW, unit_kind=Unit.PATIENT)
        assert ledger.status().trials == ()
        ledger.reserve("b", UNITS, [other], NOW, unit_kind=Unit.PATIENT, settings="clip 0.1")
        status = ledger.status()
    together = compose([SMALL, other], BUDGET.delta)
    assert status.trials == (Trials(runs=("a", "b"), epsilon=together),)
    assert max(compose([e], BUDGET.delta) for e in (SMALL, other)) < together
    words = "\n".join(status.lines())
    assert f"2 trials on the same units (a, b): together epsilon {together:.3g}" in words
    assert "a (clip 1): 0 steps charged" in words
    table = canonical.decode(canonical.encode(status.to_table()))
    assert [run["settings"] for run in table["runs"]] == ["clip 1", "", "clip 0.1"]
    with open_ledger(path) as ledger:
        assert ledger.status() == status


def test_an_entry_with_its_one_event_flat_is_read_as_before() -> None:
    flat = {"sample_rate": "0.2", "noise_multiplier": "3.0", "steps": 300}
    opened = {"kind": "reserve", "run": "old", "units": 1, "cohort": "0" * 64, "time": "t"}
    runs: dict[str, LedgerRun] = {}
    apply(runs, canonical.encode(opened | flat))
    apply(runs, canonical.encode(opened | {"run": "new", "events": [flat]}))
    assert runs["old"].events == runs["new"].events == (EVENT,)
    with pytest.raises(FormatError):
        apply(runs, canonical.encode(opened | {"run": "none"}))


def test_epsilons_are_composed_and_never_added(path) -> None:
    half = DpEvent(sample_rate=0.2, noise_multiplier=3.0, steps=150)
    with open_ledger(path) as ledger:
        ledger.reserve("one", UNITS, [half], NOW, unit_kind=Unit.PATIENT)
        ledger.reserve("two", UNITS, [half], NOW, unit_kind=Unit.PATIENT)
        assert ledger.spent(UNITS) == pytest.approx(compose([EVENT], BUDGET.delta))
        assert ledger.spent(UNITS) < 2 * compose([half], BUDGET.delta)


def test_never_more_steps_than_were_reserved(path) -> None:
    with open_ledger(path) as ledger:
        run = ledger.reserve("run", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT)
        run.charge(9)
        with pytest.raises(KitError, match="has 1 reserved steps left, not 2"):
            run.charge(2)
        run.charge(1)
        with pytest.raises(KitError, match="has 0 reserved steps left"):
            run.charge(1)
        assert run.charged == run.reserved == 10


def test_settling_frees_what_was_not_charged_and_closes_the_run(path) -> None:
    with open_ledger(path) as ledger:
        run = ledger.reserve("run", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)
        run.charge(30)
        ledger.settle("run")
        ledger.settle("run")
        assert ledger.spent(UNITS) == compose(
            [DpEvent(sample_rate=0.2, noise_multiplier=3.0, steps=30)], BUDGET.delta
        )
        with pytest.raises(KitError, match="closed"):
            run.charge(1)
        assert (
            ledger.reserve("run", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT).charged == 30
        )  # a finished run, looked at
        ledger.reserve("next", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)


def test_the_same_reservation_resumes_and_another_is_refused(path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("run", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT).charge(5)
    with open_ledger(path) as ledger:
        before = ledger.head()
        again = ledger.reserve(
            "run", [*reversed(UNITS), UNITS[0]], [EVENT], NOW, unit_kind=Unit.PATIENT
        )
        assert again.charged == 5
        assert ledger.head() == before
        with pytest.raises(KitError, match="other images or patients"):
            ledger.reserve("run", UNITS[:-1], [EVENT], NOW, unit_kind=Unit.PATIENT)
        with pytest.raises(KitError, match="other privacy settings"):
            ledger.reserve("run", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT)
        with pytest.raises(KitError, match="other privacy settings"):
            ledger.mark_unbounded("run", UNITS, NOW)


def test_after_a_run_without_privacy_no_private_one_follows(path) -> None:
    with open_ledger(path) as ledger:
        ledger.mark_unbounded("open", UNITS[:1], NOW)
        ledger.mark_unbounded("open", UNITS[:1], NOW)
        assert math.isinf(ledger.spent(UNITS))
        ledger.reserve("others", UNITS[1:], [EVENT], NOW, unit_kind=Unit.PATIENT)
        with pytest.raises(KitError, match="without privacy"):
            ledger.reserve("all", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT)
        with pytest.raises(KitError, match="without privacy"):
            ledger.without_room(UNITS, [SMALL], unit_kind=Unit.PATIENT, run_id="all")
        ledger.mark_unbounded("again", UNITS, NOW)
        with pytest.raises(KitError, match="closed"):
            ledger.charge("again", 1)


def test_no_image_is_protected_once_as_itself_and_once_as_its_patients(path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("as-images", UNITS[:2], [SMALL], NOW, unit_kind=Unit.IMAGE)
        for refused in (
            lambda: ledger.reserve("as-patients", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT),
            lambda: ledger.without_room(UNITS, [SMALL], unit_kind=Unit.PATIENT, run_id="new"),
        ):
            with pytest.raises(KitError, match="protected the image; this one would protect the"):
                refused()
        ledger.reserve("again", UNITS[:2], [SMALL], NOW, unit_kind=Unit.IMAGE)
        ledger.reserve("others", UNITS[2:], [SMALL], NOW, unit_kind=Unit.PATIENT)
        with pytest.raises(KitError, match="protected the patient"):
            ledger.reserve("more", UNITS[2:3], [SMALL], NOW, unit_kind=Unit.IMAGE)
    with open_ledger(path) as ledger:  # the kind is in the chain, not in memory
        assert [run.unit_kind for run in ledger.runs()] == ["image", "image", "patient"]


def test_a_units_own_account_alone_decides_whether_it_takes_part(path) -> None:
    with open_ledger(path) as ledger:

        def without_room(units, run_id="next"):
            return ledger.without_room(units, [EVENT], unit_kind=Unit.PATIENT, run_id=run_id)

        assert without_room(UNITS) == frozenset()
        ledger.reserve("some", UNITS[:5], [SMALL], NOW, unit_kind=Unit.PATIENT)
        ledger.reserve("full", UNITS[4:6], [EVENT], NOW, unit_kind=Unit.PATIENT)
        assert without_room(UNITS) == frozenset(UNITS[4:6])
        assert without_room(UNITS[:4]) == without_room(["new"]) == frozenset()
        # a run goes on with those it began with, and takes up nobody who was full before
        assert without_room(UNITS, "full") == frozenset()
        rest = [unit for unit in UNITS if unit not in UNITS[4:6]]
        ledger.reserve("next", rest, [EVENT], NOW, unit_kind=Unit.PATIENT)
        assert without_room(UNITS) == frozenset(UNITS[4:6])
        ledger.reserve("next", rest, [EVENT], NOW, unit_kind=Unit.PATIENT)
        with pytest.raises(KitError, match="other images or patients"):
            ledger.reserve("next", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)


def test_unknown_runs_and_bad_names_are_refused(path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("run", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT)
        for act in (ledger.settle, ledger.run, lambda r: ledger.charge(r, 1)):
            with pytest.raises(KitError, match="`gone` is not in the ledger"):
                act("gone")
        with pytest.raises(FormatError, match="run id"):
            ledger.reserve("Run 1\n", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT)
        with pytest.raises(RuntimeError):
            ledger.charge("run", 0)
        with pytest.raises(RuntimeError):
            ledger.reserve("empty", [], [SMALL], NOW, unit_kind=Unit.PATIENT)


def test_no_unit_key_is_in_the_file(path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("run", ["planted-patient-name"], [SMALL], NOW, unit_kind=Unit.PATIENT)
        ledger.head()
        files = list(path.parent.iterdir())
        assert any(b"run" in file.read_bytes() for file in files)
        assert not any(b"planted-patient-name" in file.read_bytes() for file in files)
        assert all(file.stat().st_mode & 0o077 == 0 for file in files)


def test_the_head_moves_with_every_entry_and_differs_between_ledgers(path) -> None:
    with open_ledger(path) as ledger, open_ledger(path.with_name("other.db")) as other:
        assert ledger.head()[1] == other.head()[1] == 0
        assert ledger.head() != other.head()
        seen = {ledger.head()}
        run = ledger.reserve("run", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT)
        seen.add(ledger.head())
        run.charge(1)
        seen.add(ledger.head())
        ledger.settle("run")
        seen.add(ledger.head())
        assert sorted(counter for _, counter in seen) == [0, 1, 2, 3]
        last = ledger.head()
    with open_ledger(path) as ledger:
        assert ledger.head() == last


def test_the_status_is_the_worst_of_all_units_for_people(path) -> None:
    with open_ledger(path) as ledger:
        assert ledger.status().worst == 0
        ledger.reserve("small", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT).charge(4)
        ledger.reserve(
            "large",
            UNITS[:1],
            [DpEvent(**{**EVENT_TABLE, "steps": 100})],
            NOW,
            unit_kind=Unit.PATIENT,
        )
        ledger.settle("small")
        status = ledger.status()
        assert status.worst == ledger.spent(UNITS)
        assert (status.head, status.counter) == ledger.head()
        assert "epsilon 3.2" in status.lines()[0]
        assert "small: 4 steps charged, settled" in status.lines()[1]
        assert "large: 0 steps charged, open, 100 reserved" in status.lines()[2]
        table = canonical.decode(canonical.encode(status.to_table()))
        assert [r["settled"] for r in table["runs"]] == [True, False]
        ledger.mark_unbounded("open", UNITS[3:4], NOW)
        assert ledger.status().to_table()["worst"] is None
        assert "without privacy" in ledger.status().lines()[0]


def test_rows_cannot_be_changed_or_deleted(path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("run", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT).charge(1)
    db = sqlite3.connect(path)
    for statement in (
        "UPDATE entries SET body = x'00'",
        "DELETE FROM entries",
        "UPDATE members SET run = 'x'",
        "DELETE FROM members",
        "UPDATE meta SET id = x'00'",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    db.close()
    with open_ledger(path) as ledger:
        assert ledger.run("run").charged == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE counter = 1",
        "DELETE FROM entries WHERE counter = 2",
        "UPDATE entries SET body = replace(body, '10', '99') WHERE counter = 1",
        "UPDATE entries SET hash = zeroblob(32) WHERE counter = 3",
        "DELETE FROM members WHERE unit = (SELECT min(unit) FROM members)",
        "UPDATE members SET run = 'run-2' WHERE unit = (SELECT min(unit) FROM members)",
        "UPDATE members SET unit = 'text' WHERE unit = (SELECT min(unit) FROM members)",
        "UPDATE meta SET id = zeroblob(16)",
        "UPDATE meta SET id = 'text'",
        "DELETE FROM meta",
    ],
)
def test_a_ledger_changed_behind_its_back_does_not_open(path, statement) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("run", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT).charge(3)
        ledger.settle("run")
    open_ledger(path).close()
    db = sqlite3.connect(path)
    for (trigger,) in db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        db.execute(f"DROP TRIGGER {trigger}")
    assert db.execute(statement).rowcount == 1
    db.commit()
    db.close()
    with pytest.raises(KitError, match="was changed outside"):
        open_ledger(path)


def test_another_secret_or_another_file_is_refused(path, tmp_path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("run", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT)
    open_ledger(path).close()
    with pytest.raises(KitError, match="another site secret"):
        open_ledger(path, secret=b"t" * 32)
    foreign = tmp_path / "foreign.db"
    foreign.write_bytes(b"not a database " * 100)
    with pytest.raises(KitError, match="is not an intact ledger"):
        open_ledger(foreign)
    with pytest.raises(RuntimeError, match="secret"):
        open_ledger(path, secret=b"short")


def test_a_ledger_of_a_later_schema_is_refused(path) -> None:
    open_ledger(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(KitError, match="schema 2, not 1"):
        open_ledger(path)


def test_a_refused_call_leaves_nothing_behind(path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve("run", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)
        before = ledger.head(), ledger.runs(), ledger.spent(UNITS)
        for _ in range(2):
            with pytest.raises(KitError, match="budget"):
                ledger.reserve("more", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)
        assert (ledger.head(), ledger.runs(), ledger.spent(UNITS)) == before
        ledger.verify()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    acts=st.lists(
        st.tuples(
            st.sampled_from(["reserve", "charge", "settle", "unbounded", "reopen"]),
            st.integers(0, 3),
            st.sets(st.integers(0, 5), min_size=1),
            st.integers(1, 120),
        ),
        max_size=25,
    )
)
def test_whatever_happens_no_unit_passes_its_budget(tmp_path_factory, acts) -> None:
    """A model of the ledger as a plain list of charges, beside the real one."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    ledger = open_ledger(path)
    charged: dict[str, tuple[set[int], int]] = {}
    unbounded: set[int] = set()
    for verb, number, units, steps in acts:
        run, keys = f"run-{number}", [str(u) for u in units]
        try:
            if verb == "reserve":
                event = DpEvent(sample_rate=0.2, noise_multiplier=3.0, steps=steps)
                ledger.reserve(run, keys, [event], NOW, unit_kind=Unit.PATIENT)
                assert run in charged or not units & unbounded  # or it goes on with its own
                charged.setdefault(run, (units, 0))
            elif verb == "charge":
                ledger.charge(run, steps)
                charged[run] = (charged[run][0], charged[run][1] + steps)
            elif verb == "settle":
                ledger.settle(run)
            elif verb == "unbounded":
                ledger.mark_unbounded(run, keys, NOW)
                unbounded |= units
            else:
                ledger.close()
                ledger = open_ledger(path)
        except KitError:
            continue
    for unit in range(6):
        spent = [
            DpEvent(sample_rate=0.2, noise_multiplier=3.0, steps=n)
            for members, n in charged.values()
            if unit in members and n
        ]
        assert compose(spent, BUDGET.delta) <= BUDGET.epsilon + 1e-6
        assert ledger.spent([str(unit)]) >= compose(spent, BUDGET.delta) - 1e-9
    ledger.verify()
    ledger.close()


_PRELUDE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from edge_agent.ledger import Budget, Ledger, LedgerRun
from edge_agent.ledger.entries import apply
from federation.accounting import DpEvent
from federation.study import Unit
from kit.errors import KitError
path, name = Path(sys.argv[1]), sys.argv[2]
now = datetime(2026, 1, 1, tzinfo=UTC)
event = DpEvent(sample_rate=0.2, noise_multiplier=3.0, steps=300)
units = [f"patient-{i}" for i in range(20)]
open_ledger = lambda: Ledger(path, b"s" * 32, Budget(epsilon=8.0, delta=1e-5))
"""


def start(code: str, path: Path, name: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _PRELUDE + textwrap.dedent(code), str(path), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_nine_in_the_middle_of_charging_loses_no_charge(path) -> None:
    code = """
    run = open_ledger().reserve(name, units, [event], now, unit_kind=Unit.PATIENT)
    for step in range(300):
        run.charge(1)
        print(run.charged, flush=True)
    """
    told = 0
    for round_number in range(3):
        process = start(code, path, "run")
        assert process.stdout is not None
        for _ in range(5 + 7 * round_number):
            told = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        told = max([told, *map(int, rest.split("\n")[:-1])])
        assert process.returncode == -signal.SIGKILL
        with open_ledger(path) as ledger:
            ledger.verify()
            run = ledger.reserve("run", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)
            assert told <= run.charged <= min(300, told + 1)
            assert ledger.spent(UNITS) == compose([EVENT], BUDGET.delta)


def test_a_full_disk_costs_at_most_the_step_that_did_not_fit(path) -> None:
    code = """
    import resource, signal
    run = open_ledger().reserve(name, units, [event], now, unit_kind=Unit.PATIENT)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40_000, size + 40_000))
    done = 0
    try:
        for _ in range(300):
            run.charge(1)
            done += 1
    except KitError as error:
        print(done, error.hint, flush=True)
    """
    process = start(code, path, "run")
    said, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    done, hint = said.split(" ", 1)
    assert "free some space" in hint
    with open_ledger(path) as ledger:
        ledger.verify()
        run = ledger.reserve("run", UNITS, [EVENT], NOW, unit_kind=Unit.PATIENT)
        assert 0 < int(done) <= run.charged <= int(done) + 1 < 300
        run.charge(1)


def test_two_processes_racing_to_reserve_cannot_overspend(path) -> None:
    code = """
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        open_ledger().reserve(name, units, [event], now, unit_kind=Unit.PATIENT)
        print("reserved", flush=True)
    except KitError as error:
        print(error, flush=True)
    """
    racers = []
    for index in range(4):
        racer = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + textwrap.dedent(code), str(path), f"run-{index}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
        racers.append(racer)
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate()[0].strip() for racer in racers]
    assert all(racer.returncode == 0 for racer in racers)
    assert said.count("reserved") == 1
    assert sum("budget is too small" in line for line in said) == 3
    with open_ledger(path) as ledger:
        assert len(ledger.runs()) == 1


def test_two_processes_on_one_run_share_its_steps(path) -> None:
    code = """
    run = open_ledger().reserve("run", units, [event], now, unit_kind=Unit.PATIENT)
    taken = 0
    try:
        while True:
            run.charge(1)
            taken += 1
    except KitError:
        print(taken, flush=True)
    """
    racers = [start(code, path, str(index)) for index in range(2)]
    taken = [int(racer.communicate()[0]) for racer in racers]
    assert sum(taken) == 300
    with open_ledger(path) as ledger:
        assert ledger.run("run").charged == 300


def test_a_busy_ledger_waits_for_the_other_writer(path) -> None:
    open_ledger(path).close()
    holder = start(
        """
        import sqlite3, time
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        print("held", flush=True)
        time.sleep(0.5)
        db.execute("ROLLBACK")
        """,
        path,
        "holder",
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    began = time.monotonic()
    with open_ledger(path) as ledger:
        ledger.reserve("run", UNITS, [SMALL], NOW, unit_kind=Unit.PATIENT)
    assert time.monotonic() - began > 0.2
    holder.communicate()
