import contextlib
import functools
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import exchange
from benchmarks.rivals import beside
from benchmarks.rivals.running import running
from tests.fakes import rival

HERE = Path(sys.executable)
ABSENT = SimpleNamespace(NAME="Absent", PACKAGE="no-such-package")


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # where nobody collects orphans, they stay as that


def test_one_table_has_ours_and_a_rival_and_says_what_was_not_run(monkeypatch, capsys):
    monkeypatch.setattr(exchange, "APPEND_S", 0.1)
    found = exchange.measure([exchange.MB], 1, HERE, [rival, ABSENT])
    exchange.show(found)
    printed = capsys.readouterr().out.splitlines()
    ours, theirs = (
        [cell.strip() for cell in line.split("|")]
        for line in printed
        if line.startswith(("| ours |", "| Fake "))
    )
    assert ours[2] == theirs[2] == "1"
    assert ours[6] == ours[9] == "1.0"
    assert 1 < float(theirs[10].rstrip("x")) < 1.01
    assert "Absent: not run: not installed there" in printed
    ((row,), ()) = (guest["rows"] for guest in found["beside"])
    assert row["site_mb"] > 20  # of the grandchild: the child does not even load numpy
    assert row["seconds_best"] < 30


def test_what_a_rival_started_is_ended_with_it(tmp_path):
    with running(rival, HERE, tmp_path) as one:
        one.send(8_000_000)
        pids = list(one._started._seen)
        assert len(pids) == 3
        assert all(_runs(pid) for pid in pids)
    assert not any(_runs(pid) for pid in pids)


def test_an_update_that_arrives_changed_is_no_figure(tmp_path):
    bent = SimpleNamespace(**vars(rival))
    bent.start = functools.partial(rival.start, manner="bent")
    guests = beside.invited(HERE, tmp_path, [rival]) + beside.invited(HERE, tmp_path, [bent])
    guests[1]._folder = tmp_path / "bent"
    with contextlib.ExitStack() as stack:
        for guest in guests:
            guest.start(stack)
            guest.send(8_000_000)
    honest, changed = (guest.told() for guest in guests)
    assert honest["rows"]
    assert honest["why"] is None
    assert changed["rows"] == []
    assert changed["failed"]
    assert "does not hold what its site sent" in changed["why"]


@pytest.mark.parametrize("named", ["nowhere/python", "false"])
def test_a_missing_interpreter_is_refused_in_one_line(named, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(exchange, "measure", lambda *words: measured.append(words) or sys.exit(0))
    false = tmp_path / "false"
    false.write_text("#!/bin/sh\nexit 1\n")
    false.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["exchange", "--rivals", os.fspath(tmp_path / named)])
    with pytest.raises(SystemExit) as refused:
        exchange.main()
    assert "is no Python that answers" in refused.value.code
    assert "\n" not in refused.value.code
    assert measured == []
    monkeypatch.setattr(sys, "argv", ["exchange", "--rivals", sys.executable])
    with pytest.raises(SystemExit, match="0"):
        exchange.main()
    assert measured[0][2] == HERE


def test_without_an_interpreter_no_rival_is_run(tmp_path, capsys):
    told = [guest.told() for guest in beside.invited(None, tmp_path)]
    beside.show({"beside": told, "submissions": []})
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "NVFlare",
        "Flower",
    ]
    assert not any(guest["failed"] for guest in told)
