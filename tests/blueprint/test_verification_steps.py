"""The numbered steps of docs/blueprint-format.md section 5, at their edges.

What each step refuses stands in `tests/vectors`; here are the last values that pass and the first
that do not, and the policies that a step compares with. Every test opens the honest one as well.
"""

from dataclasses import replace
from datetime import timedelta

import pytest

from federation import accounting, dsse
from federation.accounting import DpEvent, compose
from federation.blueprint import envelope, limits, weights
from federation.blueprint.errors import RefusalError
from federation.blueprint.privacy import DeclaredEvent
from federation.blueprint.statement import PAYLOAD_TYPE, Gate
from federation.build_policy import Mode
from federation.study import PersonalData, Unit
from kit import canonical
from kit.errors import FormatError
from tests.fakes import federation
from tests.fakes.federation import (
    ARCHITECTURE,
    NOW,
    claims,
    mechanism,
    tensors,
)

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
OTHER = canonical.digest(b"other")


def refused(step, action, *arguments, **named):
    with pytest.raises(RefusalError) as caught:
        action(*arguments, **named)
    assert caught.value.step == step
    assert str(caught.value).startswith(f"step {step}: ")


def test_step_1_refuses_an_envelope_over_its_limit(world, honest):
    world.open(world.a, honest)
    large = replace(honest, envelope=bytes(limits.MAX_ENVELOPE_BYTES + 1))
    refused(1, world.verify, world.a, large)
    at_limit = replace(honest, envelope=bytes(limits.MAX_ENVELOPE_BYTES))
    refused(2, world.verify, world.a, at_limit)


def test_step_10_holds_at_the_edges_of_time(world, honest):
    expires = NOW + limits.MAX_VALIDITY_DAYS * DAY
    skew = timedelta(seconds=limits.MAX_CLOCK_SKEW_S)
    world.verify(world.a, honest, now=expires - SECOND)
    refused(10, world.verify, world.a, honest, now=expires)
    world.verify(world.a, honest, now=NOW - skew)
    ahead = world.seal(world.a, claimed=claims(issued=NOW + skew))
    world.verify(world.a, ahead)
    refused(10, world.verify, world.a, ahead, now=NOW - SECOND)


def test_step_11_refuses_a_payload_over_its_limit(world, honest, resign):
    def of_length(length):
        def change(table):
            files = table["subject"]
            files[1]["annotations"]["length"] = length - 48
            files[2]["annotations"]["offset"] = length - 48

        return resign(honest, change)

    world.verify(world.a, of_length(limits.MAX_PAYLOAD_BYTES))
    refused(11, world.verify, world.a, of_length(limits.MAX_PAYLOAD_BYTES + 1))


def test_step_12_refuses_a_single_class_where_every_blueprint_becomes_an_expert(world):
    one, two = world.study.classes[:1], world.study.classes[:2]
    policy = replace(world.study.build, version=2, held_out=2)
    for mode, outputs, holds in (
        (Mode.MONOLITHIC, one, True),
        (Mode.EXPERTS, two, True),
        (Mode.EXPERTS, one, False),
    ):
        study = replace(world.study, build=replace(policy, mode=mode))
        context = world.context(world.a, study_digest=study.digest)
        sealed = world.seal(world.a, context=context, claimed=claims(outputs=outputs))
        if holds:
            world.verify(world.a, sealed, study=study)
        else:
            refused(12, world.verify, world.a, sealed, study=study)


def test_step_13_takes_a_stronger_unit_and_no_weaker_one(world):
    by_patient = world.seal(world.a, claimed=claims(unit="patient"))
    by_image = world.seal(world.a)
    world.open(world.a, by_patient)
    world.open(world.a, by_image)
    policy = replace(world.study.privacy, unit=Unit.PATIENT)
    strict = replace(world.study, privacy=policy)

    def under(sealed_as):
        context = world.context(world.a, study_digest=strict.digest)
        return world.seal(world.a, context=context, claimed=claims(unit=sealed_as))

    world.verify(world.a, under("patient"), study=strict)
    refused(13, world.verify, world.a, under("image"), study=strict)


def test_step_13_takes_personal_data_only_where_the_study_allows_them():
    for policy in PersonalData:
        world = federation.found(personal_data=policy)
        plain = world.seal(world.a, claimed=claims(gaussian=None))
        world.open(world.a, world.seal(world.a))
        if policy is PersonalData.ALLOWED:
            world.open(world.a, plain)
        else:
            refused(13, world.verify, world.a, plain)


def test_a10_step_13_accepts_the_recomputed_epsilon_and_more_but_no_less(world):
    honest = mechanism()
    tolerance = limits.EPSILON_TOLERANCE
    for factor, holds in ((1.5, True), (1 - tolerance / 2, True), (1 - 2 * tolerance, False)):
        declared = replace(honest, epsilon=honest.epsilon * factor)
        sealed = world.seal(world.a, claimed=claims(gaussian=declared))
        if holds:
            world.open(world.a, sealed)
        else:
            refused(13, world.verify, world.a, sealed)


def test_step_13_needs_no_gate_of_a_blueprint_without_privacy():
    world = federation.found(personal_data=PersonalData.ALLOWED)
    gate = Gate(passed=False, report=OTHER)
    world.open(world.a, world.seal(world.a, claimed=claims(gaussian=None, gate=gate)))
    refused(13, world.verify, world.a, world.seal(world.a, claimed=claims(gate=gate)))


@pytest.mark.parametrize("length", [0, 1, 16383, 16384, 16385, 32768, 40000])
def test_step_18_decrypts_whole_payloads_and_no_part_of_one(length):
    plaintext = bytes(range(256)) * (length // 256 + 1)
    key, context = bytes(range(32)), b"context"
    ciphertext = envelope.encrypt(plaintext[:length], key, context)
    assert envelope.decrypt(ciphertext, key, context) == plaintext[:length]
    for cut in {1, 16, 17, len(ciphertext) // 2, len(ciphertext) - 56}:
        refused(18, envelope.decrypt, ciphertext[:-cut], key, context)
    refused(18, envelope.decrypt, ciphertext + bytes(16), key, context)


def test_the_first_step_that_does_not_hold_is_the_one_that_is_named(world, honest, resign):
    def several(table):
        table["predicate"]["context"].update(seq=1, round=9, version=2)
        table["predicate"]["gate"]["passed"] = False

    world.open(world.a, honest)
    refused(6, world.verify, world.a, resign(honest, several))
    refused(3, world.verify, world.a, resign(honest, several), ())


def test_a_parsed_statement_is_the_sealed_one(world, honest):
    parsed = world.verify(world.a, honest)
    payload = dsse.parse(honest.envelope, PAYLOAD_TYPE).payload
    assert parsed == honest.statement
    assert parsed.to_bytes() == payload
    assert parsed.digest == canonical.digest(payload)
    assert parsed.architecture == ARCHITECTURE


def test_an_opened_payload_is_what_was_sealed(world):
    data = weights.write(tensors())
    sealed = world.seal(world.a, data=data)
    plaintext = world.open(world.a, sealed)
    assert plaintext == data + canonical.encode(ARCHITECTURE)
    assert envelope.part(plaintext, sealed.statement, "weights.safetensors") == data


def test_the_sealed_bytes_show_nothing_of_the_weights(world):
    data = weights.write(tensors())
    sealed = world.seal(world.a, data=data)
    for part in (sealed.envelope, sealed.wrapped_key, sealed.ciphertext):
        assert data[-30:-8] not in part


def test_sealing_refuses_a_claim_that_no_reader_would_parse(world):
    world.open(world.a, world.seal(world.a))
    for claimed in (claims(outputs=("=cmd",)), claims(outputs=()), claims(unit="A unit")):
        with pytest.raises(FormatError):
            world.seal(world.a, claimed=claimed)


def test_a_statement_has_no_other_files(honest):
    assert honest.statement.file("weights.safetensors").offset == 0
    with pytest.raises(RuntimeError):
        honest.statement.file("other")


def test_step_13_composes_the_events_and_never_adds_their_epsilons(world):
    warm_up = DpEvent(sample_rate=1.0, noise_multiplier=20.0, steps=1)
    honest, alone = mechanism(warm_up), mechanism()
    separate = alone.epsilon + compose([warm_up], alone.delta)
    assert alone.epsilon < honest.epsilon < separate
    sealed = world.seal(world.a, claimed=claims(gaussian=honest))
    world.open(world.a, sealed)
    assert sealed.statement.privacy.gaussian == honest
    less = replace(honest, epsilon=alone.epsilon)
    refused(13, world.verify, world.a, world.seal(world.a, claimed=claims(gaussian=less)))


def test_step_13_recomputes_no_more_than_one_event_of_least_noise(world, monkeypatch):
    """A2: eight events of little noise cost eight times as much to refuse as one."""
    subsampled = DpEvent(sample_rate=1e-9, noise_multiplier=0.3, steps=1)
    few = mechanism(*[subsampled] * 2)
    world.open(world.a, world.seal(world.a, claimed=claims(gaussian=few)))
    costly = DeclaredEvent(sample_rate=1e-9, noise_multiplier=0.1, steps=1)
    many = replace(few, events=(costly,) * (limits.MAX_DP_EVENTS - 1) + few.events[-1:])
    sealed = world.seal(world.a, claimed=claims(gaussian=many))
    monkeypatch.setattr(accounting, "rdp_curve", lambda _event: pytest.fail("was recomputed"))
    with pytest.raises(RefusalError, match="too little noise together"):
        world.verify(world.a, sealed)
