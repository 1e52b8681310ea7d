"""A21: no door takes text that a terminal, a spreadsheet or a reader could be deceived by."""

import dataclasses

import pytest
import sqlalchemy as sa

from coordinator import enrolments, reviews, state
from edge_agent import outbound
from federation.auditlog.events import Event, Kind
from federation.blueprint.approval import Decision
from federation.study import Study
from kit import canonical
from kit.errors import FormatError, KitError
from pki import identity
from tests.fakes import site

HOSTILE = {
    "escape": "a\x1b[2Ja",
    "bidirectional": "a\u202ea",
    "homoglyph": "\u0430bc",
    "formula": "=cmd|'/c calc'!A0",
    "newline": "a\na",
    "null": "a\x00a",
    "path": "../a",
    "empty": "",
}


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE.keys())
def text(request):
    return request.param


def test_a21_no_name_or_label_of_a_study_is_hostile(enrolled, text):
    study = enrolled.home("a").study(site.STUDY)
    table = canonical.decode(study.to_bytes())
    assert Study.from_bytes(canonical.encode(table)) == study
    reviewer = table["reviewers"][0]
    entrances = [
        {"id": text},
        {"federation": text},
        {"title": text},
        {"method": text},
        {"classes": [*table["classes"], text]},
        {"reviewers": [reviewer | {"name": text}]},
        {"architectures": [table["architectures"][0] | {"preset": text}]},
    ]
    for change in entrances:
        with pytest.raises(FormatError):
            Study.from_bytes(canonical.encode(table | change))


def test_a21_no_site_federation_officer_or_option_is_hostile(tmp_path, text):
    federation = site.found(tmp_path)
    with federation.open() as coordinator:
        with pytest.raises(KitError):
            enrolments.issue_token(coordinator, text)
        with pytest.raises(KitError):
            site.create_study(coordinator, name=text)
        assert enrolments.issue_token(coordinator, "a").site == "a"
    with pytest.raises(KitError):
        site.found(tmp_path / "other", federation=text)
    with pytest.raises(KitError):
        identity.site("test", text)
    with pytest.raises(FormatError):
        outbound.Policy(officers=f"{text}={'0' * 64}" if text else "=" + "0" * 64).keys()
    assert outbound.Policy(officers=f"a={'0' * 64}").keys()


def test_a21_no_leaf_of_the_log_carries_hostile_text(text):
    good = Event(
        kind=Kind.SITE_REVOKED,
        time="2026-01-01T00:00:00Z",
        subject="0" * 64,
        actor="coordinator",
        details={"site": "s-0"},
    )
    assert Event.from_leaf(good.to_leaf()) == good
    for change in ({"actor": text}, {"subject": text}, {"details": {"site": text}}):
        with pytest.raises(FormatError):
            dataclasses.replace(good, **change).to_leaf()


def test_a21_a_reason_is_made_printable_before_it_is_kept(pending):
    hostile = "plausible \x1b[2J\u202e=cmd\n"
    with pending.open() as coordinator:
        reviews.decide(
            coordinator,
            pending.digest("a"),
            Decision.APPROVE,
            reviewer_key=pending.reviewer(),
            reason=hostile,
        )
        with coordinator.state.read() as tx:
            [row] = tx.all(sa.select(state.approvals))
    assert row.reason == canonical.printable(hostile)
    assert row.reason.isascii()
    assert row.reason.isprintable()
    assert "plausible" in row.reason
