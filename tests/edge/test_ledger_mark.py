"""A8: a ledger that was deleted or put back is missed, though its own chain is whole."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.ledger import Budget, Ledger
from edge_agent.ledger import mark as ledger_mark
from federation.accounting import DpEvent
from federation.study import Unit
from kit.errors import KitError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = DpEvent(sample_rate=0.01, noise_multiplier=4.0, steps=10)


def opened(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.sqlite", b"s" * 32, Budget(epsilon=8.0, delta=1e-5))


def run(folder: Path, mark: Path, name: str) -> None:
    """One run, as `edge_agent.runs` does it."""
    ledger_mark.require_present(mark, folder / "ledger.sqlite")
    with opened(folder) as ledger:
        ledger_mark.require_whole(mark, ledger)
        ledger.reserve(name, ["p"], [EVENT], NOW, unit_kind=Unit.PATIENT)
        ledger_mark.advance(mark, ledger)
        ledger.settle(name)
        ledger_mark.advance(mark, ledger)


def test_a8_an_older_copy_of_the_ledger_is_refused_and_the_newest_goes_on(tmp_path) -> None:
    folder, mark = tmp_path / "ledger", tmp_path / "mark.json"
    run(folder, mark, "first")
    shutil.copytree(folder, tmp_path / "older")
    run(folder, mark, "second")
    shutil.move(folder, tmp_path / "newest")
    shutil.copytree(tmp_path / "older", folder)
    opened(folder).close()  # whole by itself
    with pytest.raises(KitError, match="put back to an older state: it has 2 entries") as caught:
        run(folder, mark, "third")
    assert "newest copy" in str(caught.value.hint)
    shutil.rmtree(folder)
    with pytest.raises(KitError, match="is gone; it had 4 entries"):
        run(folder, mark, "third")
    assert not folder.exists()  # and no empty one stands in for it
    shutil.move(tmp_path / "newest", folder)
    run(folder, mark, "third")


def test_a8_another_ledger_of_the_same_length_is_refused(tmp_path) -> None:
    mark = tmp_path / "mark.json"
    run(tmp_path / "one", mark, "first")
    run(tmp_path / "other", tmp_path / "other.json", "first")
    with pytest.raises(KitError, match="older state"):
        run(tmp_path / "other", mark, "second")
    run(tmp_path / "one", mark, "second")


def test_the_mark_never_goes_back(tmp_path) -> None:
    mark = tmp_path / "mark.json"
    run(tmp_path / "one", mark, "first")
    run(tmp_path / "one", mark, "second")
    high = ledger_mark.read(mark)
    run(tmp_path / "other", tmp_path / "other.json", "first")
    with opened(tmp_path / "other") as shorter:
        ledger_mark.advance(mark, shorter)
    assert ledger_mark.read(mark) == high


def test_a_damaged_mark_is_refused(tmp_path) -> None:
    mark = tmp_path / "mark.json"
    run(tmp_path / "one", mark, "first")
    kept = mark.read_bytes()
    mark.write_bytes(b"{}")
    with pytest.raises(KitError, match="ledger mark"):
        run(tmp_path / "one", mark, "second")
    mark.write_bytes(kept)
    run(tmp_path / "one", mark, "second")
