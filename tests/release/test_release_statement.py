from dataclasses import replace
from datetime import timedelta

import pytest

from federation.release import statement as documents
from federation.release.statement import Revocations, Withdrawal
from kit import canonical
from kit.errors import FormatError, KitError
from pki.errors import IdentityError
from tests.fakes import federation
from tests.fakes.federation import NOW

A, B = sorted([canonical.digest(b"a"), canonical.digest(b"b")])
REVOKED = Revocations(
    federation="riverside", number=3, issued="2026-01-31T12:00:00Z", blueprints=(A, B), releases=()
)
TAKEN_BACK = Withdrawal(
    blueprint=A, study_digest=B, reason_commitment=A, time="2026-01-31T12:00:00Z"
)


@pytest.fixture(scope="module")
def world():
    return federation.found()


@pytest.fixture(scope="module")
def release(world):
    return federation.release(world, A, B)


def test_documents_read_back(release):
    for document in (release, replace(release, lease_until=None), REVOKED, TAKEN_BACK):
        assert type(document).from_bytes(document.to_bytes()) == document


def test_a_release_is_named_by_its_model_alone(release):
    assert release.digest == canonical.digest(b"model")
    assert replace(release, created="2027-01-01T00:00:00Z").digest == release.digest
    assert replace(release, ancestors=()).digest == release.digest


def refuses(document, change):
    table = canonical.decode(document.to_bytes())
    assert type(document).from_bytes(canonical.encode(table)) == document
    with pytest.raises(FormatError):
        type(document).from_bytes(canonical.encode(table | change))


ARTEFACT = {
    "role": "inference-model",
    "media_type": "application/onnx",
    "sha256": A,
    "length": 5,
    "licence": "CC-BY-4.0",
}


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"extra": 1},
        {"study": "A study"},
        {"study_digest": "x"},
        {"plan": None},
        {"numerics": "x"},
        {"round": 0},
        {"created": "today"},
        {"lease_until": "never"},
        {"personal_data": "no"},
        {"notice": "a medical device"},
        {"labels": []},
        {"labels": ["=cmd"]},
        {"labels": "cat"},
        {"ancestors": [B, A]},
        {"ancestors": [A, A]},
        {"ancestors": ["x"]},
        {"ancestors": None},
        {"artefacts": []},
        {"artefacts": [ARTEFACT] * 9},
        {"artefacts": [ARTEFACT | {"role": "virus"}]},
        {"artefacts": [ARTEFACT | {"sha256": "x"}]},
        {"artefacts": [ARTEFACT | {"length": 0}]},
        {"artefacts": [ARTEFACT | {"length": documents.MAX_MODEL_BYTES + 1}]},
        {"artefacts": [ARTEFACT | {"media_type": "text\nhtml"}]},
        {"artefacts": [ARTEFACT | {"path": "../model.onnx"}]},
    ],
)
def test_a_release_with_one_wrong_field_is_refused(release, change):
    refuses(release, change)


@pytest.mark.parametrize(
    "change",
    [
        {"version": True},
        {"federation": "R"},
        {"number": -1},
        {"number": True},
        {"issued": "now"},
        {"blueprints": [B, A]},
        {"releases": ["x"]},
        {"extra": 1},
    ],
)
def test_a_revocation_list_with_one_wrong_field_is_refused(change):
    refuses(REVOKED, change)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"blueprint": "x"},
        {"study_digest": "x"},
        {"reason_commitment": "because"},
        {"time": "now"},
        {"reason": "free text"},
    ],
)
def test_a_withdrawal_with_one_wrong_field_is_refused(change):
    refuses(TAKEN_BACK, change)


def signed(world, member, kind=documents.RELEASE_TYPE, payload=b"payload"):
    return documents.sign(payload, kind, member.signing_key, member.signing_chain[0])


def opened(world, envelope, *, chain=None, signer=None, kind=documents.RELEASE_TYPE, now=NOW):
    return documents.open_signed(
        envelope,
        kind,
        world.coordinator.signing_chain if chain is None else chain,
        signer=signer or world.coordinator.identity,
        root=world.root.certificate,
        now=now,
    )


def test_a_signed_document_opens_for_its_signer_and_kind_only(world):
    envelope = signed(world, world.coordinator)
    assert opened(world, envelope) == b"payload"
    by_a = signed(world, world.a)
    assert opened(world, by_a, chain=world.a.signing_chain, signer=world.a.identity) == b"payload"
    for wrong in (
        {"kind": documents.REVOCATIONS_TYPE},
        {"signer": world.a.identity},
        {"chain": world.a.signing_chain},
        {"chain": world.a.signing_chain, "signer": world.a.identity},
    ):
        with pytest.raises(FormatError):
            opened(world, envelope, **wrong)


def test_a_site_signs_nothing_in_the_coordinators_name(world):
    assert opened(world, signed(world, world.coordinator)) == b"payload"
    by_a = signed(world, world.a)
    with pytest.raises(FormatError, match="not signed by"):
        opened(world, by_a, chain=world.a.signing_chain)
    with pytest.raises(FormatError, match="not signed by"):
        opened(world, by_a)


def test_a_tls_certificate_signs_no_document(world):
    envelope = signed(world, world.coordinator)
    assert opened(world, envelope) == b"payload"
    with pytest.raises(IdentityError):
        opened(world, envelope, chain=world.coordinator.tls_chain)


def test_a_document_opens_under_the_pinned_root_and_in_time_only(world):
    envelope = signed(world, world.coordinator)
    assert opened(world, envelope) == b"payload"
    with pytest.raises(IdentityError):
        opened(federation.found(), envelope, chain=world.coordinator.signing_chain)
    with pytest.raises(IdentityError):
        opened(world, envelope, now=NOW + timedelta(days=366))
    with pytest.raises(IdentityError):
        opened(world, envelope, chain=())


def test_no_flipped_bit_of_a_signed_document_opens(world):
    envelope = signed(world, world.coordinator)
    assert opened(world, envelope) == b"payload"
    for position in range(len(envelope)):
        altered = bytearray(envelope)
        altered[position] ^= 1 << position % 8
        with pytest.raises(KitError):
            opened(world, bytes(altered))
