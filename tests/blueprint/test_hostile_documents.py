"""Whatever stands in a field of a document, its reader refuses it or reads what was sent."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import trust
from federation import dsse
from federation.auditlog.events import Event, Kind
from federation.blueprint.approval import SCHEME, Approval, Decision
from federation.blueprint.statement import Statement
from federation.release.statement import Release, Revocations, Withdrawal
from federation.study import RecipientKey, Study
from kit import canonical
from kit.errors import KitError
from pki import enrolment
from tests.fakes import federation

WORLD = federation.found(reviewers=2)
DIGEST = canonical.digest(b"x")
COORDINATOR = federation.MemoryCoordinator(WORLD)
APPROVAL = Approval(
    blueprint=DIGEST,
    study=WORLD.study.digest,
    decision=Decision.APPROVE,
    reason_commitment=DIGEST,
    time="2026-01-31T12:00:00Z",
    scheme=SCHEME,
    reviewer="reviewer-0",
)
TOKEN = enrolment.Token(
    site="a",
    secret=b"s" * 32,
    enrol_address="hub.example:1",
    exchange_address="hub.example:2",
    expires=federation.NOW,
    pins=WORLD.pins,
    checkpoint="riverside/log\n0\n",
)


def approval_from(data):
    """Read an approval as a reader does: out of an envelope that its reviewer signed."""
    key = WORLD.reviewer_keys[0]
    keyid = canonical.digest(bytes.fromhex(WORLD.study.reviewers[0].public_key))
    kind = "application/vnd.hospital-edge-kit.approval+json"
    signed = dsse.sign(data, kind, key, keyid=keyid)
    return Approval.verify(signed, study=WORLD.study, blueprint=DIGEST)


def written(document) -> bytes:
    if isinstance(document, Event):
        return document.to_leaf()
    if isinstance(document, Approval):
        kind = "application/vnd.hospital-edge-kit.approval+json"
        return dsse.parse(document.sign(WORLD.reviewer_keys[0]), kind).payload
    data: bytes = document.to_bytes()
    return data


READERS = {
    Statement: (WORLD.seal(WORLD.a).statement, Statement.from_bytes),
    Study: (WORLD.study, Study.from_bytes),
    RecipientKey: (
        RecipientKey(study_digest=DIGEST, round=1, site="a", public=b"p"),
        RecipientKey.from_bytes,
    ),
    Release: (federation.release(WORLD, DIGEST), Release.from_bytes),
    Revocations: (COORDINATOR.revocations(), Revocations.from_bytes),
    Withdrawal: (
        Withdrawal(
            blueprint=DIGEST,
            study_digest=DIGEST,
            reason_commitment=DIGEST,
            time="2026-01-31T12:00:00Z",
        ),
        Withdrawal.from_bytes,
    ),
    Event: (
        Event(
            kind=Kind.STUDY_CREATED,
            time="2026-01-31T12:00:00Z",
            subject=DIGEST,
            actor="coordinator",
            details={"plan": DIGEST, "inputs": ["a", 1]},
        ),
        Event.from_leaf,
    ),
    Approval: (APPROVAL, approval_from),
    enrolment.Token: (TOKEN, enrolment.Token.from_bytes),
    trust.Trust: (
        trust.accept(
            COORDINATOR.news(),
            pins=WORLD.pins,
            site="a",
            before=trust.Before(trust=None),
            now=federation.NOW,
        ).trust,
        trust.Trust.from_bytes,
    ),
}
ODD = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 1 << 53, "", "x", "=cmd", "\u0660", "\ud800", "1", "1.0"),
        *([], {}, [[]], [{}], {"": ""}, ["x", "x"], "a" * 300, "0" * 64, [None], {"sha256": None}),
        *("2026-01-31T12:00:00Z", "0000-00-00T00:00:00Z", "AA==", "9" * 30, [1], [True], ["a"]),
    ]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a JSON value."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for name, item in inner:
        yield (*path, name)
        yield from places(item, (*path, name))


def with_value(table: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(table) if isinstance(table, dict) else list(table)
    copy[path[0]] = with_value(table[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.__name__)
@settings(max_examples=80)
@given(data=st.data())
def test_any_value_in_any_field_is_refused_or_read_as_it_was_sent(kind, data):
    document, read = READERS[kind]
    table = canonical.decode(written(document))
    assert read(canonical.encode(table)) == document
    path = data.draw(st.sampled_from(sorted(places(table), key=str)))
    value = data.draw(ODD)
    try:
        sent = canonical.encode(with_value(table, path, value))
        found = read(sent)
    except KitError:
        return
    assert written(found) == sent
