from dataclasses import replace

import pytest

from federation import dsse
from federation.blueprint.approval import (
    PAYLOAD_TYPE,
    SCHEME,
    Approval,
    Decision,
    commitment,
    has_quorum,
)
from kit import canonical
from kit.errors import FormatError, KitError
from pki import keys
from pki.errors import IdentityError

BLUEPRINT = canonical.digest(b"blueprint")


def record(world, *, reviewer=0, decision=Decision.APPROVE, **changes):
    base = Approval(
        blueprint=BLUEPRINT,
        study=world.study.digest,
        decision=decision,
        reason_commitment=commitment("looks right", b"s" * 16),
        time="2026-02-01T09:00:00Z",
        scheme=SCHEME,
        reviewer=f"reviewer-{reviewer}",
    )
    return replace(base, **changes)


def check(world, envelope, blueprint=BLUEPRINT, study=None):
    return Approval.verify(envelope, study=study or world.study, blueprint=blueprint)


@pytest.mark.parametrize("decision", Decision)
def test_a_signed_record_reads_back(world, decision):
    made = record(world, decision=decision)
    assert check(world, made.sign(world.reviewer_keys[0])) == made


def test_a_stranger_approves_nothing(world):
    check(world, record(world).sign(world.reviewer_keys[0]))
    for key in (keys.new_signing_key(), world.a.signing_key, world.study_key):
        with pytest.raises(FormatError, match="nobody on the study's list"):
            check(world, record(world).sign(key))


def test_a_reviewer_signs_under_the_own_name_only(world):
    check(world, record(world, reviewer=1).sign(world.reviewer_keys[1]))
    with pytest.raises(FormatError, match="another reviewer"):
        check(world, record(world, reviewer=0).sign(world.reviewer_keys[1]))


def test_a_forged_signature_of_a_reviewer_is_refused(world):
    check(world, record(world).sign(world.reviewer_keys[0]))
    keyid = canonical.digest(keys.public_bytes(world.reviewer_keys[0]))
    payload = dsse.parse(record(world).sign(world.reviewer_keys[0]), PAYLOAD_TYPE).payload
    forged = dsse.sign(payload, PAYLOAD_TYPE, keys.new_signing_key(), keyid=keyid)
    with pytest.raises(IdentityError):
        check(world, forged)


def test_a_record_counts_for_its_blueprint_and_study_only(world):
    envelope = record(world).sign(world.reviewer_keys[0])
    check(world, envelope)
    with pytest.raises(FormatError, match="another study or blueprint"):
        check(world, envelope, blueprint=canonical.digest(b"other"))
    with pytest.raises(FormatError, match="another study or blueprint"):
        check(world, envelope, study=replace(world.study, title="Another"))


def test_a_changed_decision_is_refused(world):
    envelope = record(world, decision=Decision.REJECT).sign(world.reviewer_keys[0])
    assert check(world, envelope).decision is Decision.REJECT
    table = canonical.decode(envelope)
    payload = canonical.decode(canonical.b64decode(table["payload"]))
    changed = canonical.b64encode(canonical.encode(payload | {"decision": "approve"}))
    with pytest.raises(IdentityError):
        check(world, canonical.encode(table | {"payload": changed}))


def test_no_flipped_bit_of_a_record_counts(world):
    envelope = record(world).sign(world.reviewer_keys[0])
    check(world, envelope)
    for position in range(len(envelope)):
        altered = bytearray(envelope)
        altered[position] ^= 1 << position % 8
        with pytest.raises(KitError):
            check(world, bytes(altered))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"scheme": "none"},
        {"decision": "maybe"},
        {"decision": []},
        {"blueprint": "b"},
        {"reason_commitment": "because"},
        {"time": "now"},
        {"reviewer": "Somebody Else"},
        {"reason": "free text"},
    ],
)
def test_a_record_with_one_wrong_field_is_refused(world, change):
    key = world.reviewer_keys[0]
    payload = canonical.decode(dsse.parse(record(world).sign(key), PAYLOAD_TYPE).payload)

    def signed(table):
        keyid = canonical.digest(keys.public_bytes(key))
        return dsse.sign(canonical.encode(table), PAYLOAD_TYPE, key, keyid=keyid)

    check(world, signed(payload))
    with pytest.raises(FormatError):
        check(world, signed(payload | change))


def test_a_quorum_counts_different_reviewers_of_one_decision(world):
    def quorum(*pairs, decision):
        records = [record(world, reviewer=r, decision=d) for r, d in pairs]
        return has_quorum(records, world.study, decision)

    yes, no, out = Decision.APPROVE, Decision.REJECT, Decision.REVOKE
    assert world.study.quorum == 2
    assert not quorum(decision=yes)
    assert not quorum((0, yes), decision=yes)
    assert not quorum((0, yes), (0, yes), decision=yes)
    assert not quorum((0, yes), (1, no), decision=yes)
    assert quorum((0, yes), (1, yes), decision=yes)
    assert quorum((0, no), decision=no)
    assert not quorum((0, yes), decision=no)
    assert not quorum((0, out), (1, yes), decision=out)
    assert quorum((0, out), (2, out), decision=out)


def test_a_commitment_hides_its_reason_and_binds_it():
    made = commitment("too blurred", b"s" * 16)
    assert made == commitment("too blurred", b"s" * 16)
    assert made != commitment("too blurred", b"t" * 16)
    assert made != commitment("too Blurred", b"s" * 16)
