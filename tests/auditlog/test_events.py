from dataclasses import replace

import pytest

from federation.auditlog.events import MAX_DETAILS, Event, Kind
from kit import canonical
from kit.errors import FormatError

DIGEST = canonical.digest(b"x")
EVENT = Event(
    kind=Kind.BLUEPRINT_RECEIVED,
    time="2026-01-31T12:00:00Z",
    subject=DIGEST,
    actor="p-0a1b2c",
    details={"study": DIGEST, "count": 3, "inputs": [DIGEST, "name"], "decision": "approve"},
)


@pytest.mark.parametrize("kind", Kind)
def test_an_event_reads_back_from_its_leaf(kind):
    event = replace(EVENT, kind=kind)
    assert Event.from_leaf(event.to_leaf()) == event


@pytest.mark.parametrize(
    "value",
    [
        "Jane Smith",
        "J. Smith, born 1950",
        "=cmd()",
        "a\nb",
        "\x1b[31m",
        "\u0430",
        "",
        "x" * 65,
        "G" * 64,
        DIGEST.upper(),
        None,
        ["Jane Smith"],
        [["name"]],
        {"nested": "name"},
        [None],
    ],
)
def test_free_text_has_no_place_in_the_log(value):
    assert EVENT.to_leaf()
    with pytest.raises(FormatError):
        replace(EVENT, details={"note": value}).to_leaf()


@pytest.mark.parametrize(
    "change",
    [
        {"time": "now"},
        {"subject": "Jane Smith"},
        {"subject": "abc"},
        {"actor": "Jane Smith"},
        {"actor": ""},
        {"details": None},
        {"details": []},
        {"details": {f"n{i}": i for i in range(MAX_DETAILS + 1)}},
        {"details": {"A name": "x"}},
        {"details": {"": "x"}},
        {"details": {"x": 0.5}},
        {"details": {"x": [DIGEST] * 80}},
    ],
)
def test_an_event_with_one_wrong_field_is_neither_written_nor_read(change):
    assert EVENT.to_leaf()
    with pytest.raises(FormatError):
        replace(EVENT, **change).to_leaf()


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"version": True}, {"kind": "party.held"}, {"kind": []}, {"extra": 1}],
)
def test_a_leaf_of_another_form_is_refused(change):
    table = canonical.decode(EVENT.to_leaf())
    assert Event.from_leaf(canonical.encode(table)) == EVENT
    with pytest.raises(FormatError):
        Event.from_leaf(canonical.encode(table | change))
    with pytest.raises(FormatError):
        Event.from_leaf(EVENT.to_leaf() + b" ")
