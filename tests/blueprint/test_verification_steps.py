"""The numbered steps of docs/blueprint-format.md section 5: each refuses what it is there for.

Every test opens the honest blueprint first, then changes one thing. A changed statement is signed
again by its site, so that what refuses it is the step and not the signature.
"""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from federation import dsse
from federation.blueprint import envelope, limits, weights
from federation.blueprint.errors import RefusalError
from federation.blueprint.statement import PAYLOAD_TYPE, Gate
from federation.study import PersonalData, Unit
from kit import canonical
from kit.errors import FormatError
from pki import kem, keys
from tests.fakes import federation
from tests.fakes.federation import (
    ARCHITECTURE,
    CLASSES,
    EMBEDDING,
    NOW,
    TABLE,
    claims,
    mechanism,
    tensors,
)

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


def refused(step, action, *arguments, **named):
    with pytest.raises(RefusalError) as caught:
        action(*arguments, **named)
    assert caught.value.step == step
    assert str(caught.value).startswith(f"step {step}: ")


def setting(path, value):
    """Return a change that puts `value` at a dotted path of the statement."""

    def change(table):
        *folders, last = path.split(".")
        for name in folders:
            table = table[int(name) if name.isdigit() else name]
        table[int(last) if last.isdigit() else last] = value

    return change


def dropping(path):
    def change(table):
        *folders, last = path.split(".")
        for name in folders:
            table = table[int(name) if name.isdigit() else name]
        del table[int(last) if last.isdigit() else last]

    return change


def test_step_1_refuses_an_envelope_over_its_limit(world, honest):
    world.open(world.a, honest)
    large = replace(honest, envelope=bytes(limits.MAX_ENVELOPE_BYTES + 1))
    refused(1, world.verify, world.a, large)
    at_limit = replace(honest, envelope=bytes(limits.MAX_ENVELOPE_BYTES))
    refused(2, world.verify, world.a, at_limit)


@pytest.mark.parametrize(
    "alter",
    [
        lambda data: b"",
        lambda data: data + b"\n",
        lambda data: data[:-1],
        lambda data: data.replace(b'"payload":', b'"payload": '),
        lambda data: data.replace(b"in-toto+json", b"other+json"),
        lambda data: data.replace(b'"signatures":[', b'"signatures":[],"x":['),
        lambda data: data.replace(b'"sig":"', b'"sig":"AAAA'),
    ],
)
def test_step_2_refuses_an_envelope_that_is_not_canonical(world, honest, alter):
    world.open(world.a, honest)
    refused(2, world.verify, world.a, replace(honest, envelope=alter(honest.envelope)))


def test_step_2_refuses_no_signature_and_two(world, honest):
    world.open(world.a, honest)
    table = canonical.decode(honest.envelope)
    for signatures in ([], table["signatures"] * 2, None, table["signatures"][0]):
        data = canonical.encode(table | {"signatures": signatures})
        refused(2, world.verify, world.a, replace(honest, envelope=data))


def test_step_3_refuses_a_chain_that_proves_no_signer(world, honest):
    world.open(world.a, honest)
    other = federation.found()
    for chain in (
        (),
        world.a.signing_chain[:1],
        world.a.tls_chain,
        other.a.signing_chain,
        (world.a.signing_chain[0], other.issuing.certificate),
        (world.root.certificate,),
    ):
        refused(3, world.verify, world.a, honest, chain)
    refused(3, world.verify, world.a, honest, now=NOW + 366 * DAY)
    refused(3, world.verify, world.a, honest, now=NOW - DAY)
    refused(3, world.verify, world.a, honest, root=other.root.certificate)


def test_step_3_refuses_a_keyid_of_another_certificate(world, honest):
    world.open(world.a, honest)
    refused(3, world.verify, world.a, honest, world.b.signing_chain)
    table = canonical.decode(honest.envelope)
    table["signatures"][0]["keyid"] = world.b.keyid
    refused(3, world.verify, world.a, replace(honest, envelope=canonical.encode(table)))


def test_step_4_refuses_a_signature_that_does_not_fit(world, honest):
    world.open(world.a, honest)
    payload = dsse.parse(honest.envelope, PAYLOAD_TYPE).payload
    stranger = keys.new_signing_key()
    for key in (stranger, world.b.signing_key):
        forged = dsse.sign(payload, PAYLOAD_TYPE, key, keyid=world.a.keyid)
        refused(4, world.verify, world.a, replace(honest, envelope=forged))
    other = dsse.sign(payload + b" ", PAYLOAD_TYPE, world.a.signing_key, keyid=world.a.keyid)
    table = canonical.decode(honest.envelope)
    table["signatures"] = canonical.decode(other)["signatures"]
    refused(4, world.verify, world.a, replace(honest, envelope=canonical.encode(table)))


P = "predicate."
STEP_5 = {
    "another in-toto type": setting("_type", "https://in-toto.io/Statement/v0.1"),
    "another predicate": setting("predicateType", "https://slsa.dev/provenance/v1"),
    "an unknown field": setting("extra", 1),
    "a missing field": dropping("predicate"),
    "an unknown predicate field": setting(P + "extra", 1),
    "a missing predicate field": dropping(P + "gate"),
    "three subjects": dropping("subject.3"),
    "no subjects": setting("subject", None),
    "subjects in another order": lambda t: t["subject"].insert(1, t["subject"].pop(2)),
    "another file name": setting("subject.1.name", "weights.bin"),
    "a path as file name": setting("subject.1.name", "../weights.safetensors"),
    "another last subject": setting("subject.3.name", "key"),
    "a place for the wrapped key": setting("subject.3.annotations", {"offset": 0, "length": 1}),
    "two digests": lambda t: t["subject"][0]["digest"].update(sha512="0" * 128),
    "a digest in capitals": setting("subject.0.digest.sha256", "A" * 64),
    "a ciphertext that starts elsewhere": setting("subject.0.annotations.offset", 1),
    "a negative length": setting("subject.1.annotations.length", -1),
    "a length that is true": setting("subject.1.annotations.length", True),
    "a length in text": setting("subject.1.annotations.length", "174"),
    "no context": setting(P + "context", None),
    "an unknown context field": setting(P + "context.extra", 1),
    "version true": setting(P + "context.version", True),
    "sequence zero": setting(P + "context.seq", 0),
    "sequence over its limit": setting(P + "context.seq", limits.MAX_SEQUENCE + 1),
    "round zero": setting(P + "context.round", 0),
    "an id with capitals": setting(P + "context.id", "B-1"),
    "a kid that is no digest": setting(P + "context.kid", "kid"),
    "a base that is no digest": setting(P + "context.base", "none"),
    "a sender that is no text": setting(P + "context.sender", 7),
    "a sender without end": setting(P + "context.sender", "x" * 257),
    "no outputs": setting(P + "outputs", []),
    "outputs as text": setting(P + "outputs", "cat"),
    "an output twice": setting(P + "outputs", ["cat", "cat"]),
    "a formula as output": setting(P + "outputs", ["=cmd()"]),
    "an escape in an output": setting(P + "outputs", ["cat\x1b[31m"]),
    "a task with blanks": setting(P + "task", "a task"),
    "an architecture that is a list": setting(P + "architecture", []),
    "a time with an offset": setting(P + "issued", "2026-01-31T13:00:00+01:00"),
    "a time in other digits": setting(P + "issued", "\u0662026-01-31T12:00:00Z"),
    "a day that is not": setting(P + "expires", "2026-02-30T12:00:00Z"),
    "a gate without a verdict": setting(P + "gate.passed", 1),
    "a gate without a report": setting(P + "gate.report", ""),
    "a hostile unit": setting(P + "privacy.unit", "=unit"),
    "no mechanism with parameters": setting(P + "privacy.mechanism", "none"),
    "a mechanism without parameters": setting(P + "privacy.parameters", None),
    "empty parameters": setting(P + "privacy.parameters", {}),
    "an unknown mechanism": setting(P + "privacy.mechanism", "laplace"),
    "the number of patients": setting(P + "privacy.parameters.units", 100),
    "no steps": setting(P + "privacy.parameters.steps", 0),
    "steps without end": setting(P + "privacy.parameters.steps", 10_000_001),
    "steps as text": setting(P + "privacy.parameters.steps", "50"),
    "a rate as integer": setting(P + "privacy.parameters.sample_rate", 1),
    "a rate not canonical": setting(P + "privacy.parameters.sample_rate", "0.010"),
    "an epsilon that is no number": setting(P + "privacy.parameters.epsilon", "nan"),
    "an infinite epsilon": setting(P + "privacy.parameters.epsilon", "inf"),
    "a ledger that goes below zero": setting(P + "privacy.ledger.counter", -1),
    "a ledger without a head": setting(P + "privacy.ledger.head", ""),
}


@pytest.mark.parametrize("fault", STEP_5)
def test_step_5_refuses_a_statement_that_is_not_of_the_form(world, honest, resign, fault):
    world.verify(world.a, resign(honest, lambda table: None))
    refused(5, world.verify, world.a, resign(honest, STEP_5[fault]))


def test_step_5_refuses_a_payload_that_is_no_statement(world, honest):
    world.open(world.a, honest)
    payload = dsse.parse(honest.envelope, PAYLOAD_TYPE).payload
    for data in (b"", b"[]", b"null", payload + b" ", b" " + payload, bytes(70_000)):
        made = dsse.sign(data, PAYLOAD_TYPE, world.a.signing_key, keyid=world.a.keyid)
        refused(5, world.verify, world.a, replace(honest, envelope=made))


C = "predicate.context."
OTHER = canonical.digest(b"other")
STEPS_6_TO_14 = {
    "another version": (6, setting(C + "version", 2)),
    "another suite": (6, setting(C + "suite", "X25519+ChaCha20")),
    "another sender": (7, setting(C + "sender", "spiffe://riverside/site/b")),
    "a sender in another federation": (7, setting(C + "sender", "spiffe://other/site/a")),
    "another certificate": (7, setting(C + "sender_cert", OTHER)),
    "another recipient": (8, setting(C + "recipient", "spiffe://other/coordinator")),
    "a site as recipient": (8, setting(C + "recipient", "spiffe://riverside/site/b")),
    "another recipient key": (8, setting(C + "kid", OTHER)),
    "another study": (9, setting(C + "study_digest", OTHER)),
    "another round": (9, setting(C + "round", 2)),
    "a base release": (9, setting(C + "base", OTHER)),
    "issued after the clock skew": (10, setting(P + "issued", "2026-01-31T12:10:01Z")),
    "expired": (10, setting(P + "expires", "2026-01-31T12:00:00Z")),
    "valid for too long": (10, setting(P + "expires", "2026-03-02T12:00:01Z")),
    "a gap before the first file": (11, setting("subject.1.annotations.offset", 1)),
    "a gap between the files": (11, setting("subject.2.annotations.offset", 175)),
    "files that overlap": (11, setting("subject.2.annotations.offset", 173)),
    "an empty file": (11, setting("subject.1.annotations.length", 0)),
    "an architecture over its limit": (
        11,
        setting("subject.2.annotations.length", limits.MAX_ARCHITECTURE_BYTES + 1),
    ),
    "a ciphertext over its limit": (
        11,
        setting("subject.0.annotations.length", 2 * limits.MAX_PAYLOAD_BYTES + 1),
    ),
    "another task": (12, setting(P + "task", "segmentation")),
    "outputs in another order": (12, setting(P + "outputs", ["dog", "cat"])),
    "an output the study has not": (12, setting(P + "outputs", ["cat", "dog", "fox"])),
    "an architecture the study has not": (12, setting(P + "architecture.preset", "huge")),
    "an empty architecture": (12, setting(P + "architecture", {})),
    "an unknown unit": (13, setting(P + "privacy.unit", "cohort")),
    "a gate that did not pass": (13, setting(P + "gate.passed", False)),
    "a sample rate of zero": (13, setting(P + "privacy.parameters.sample_rate", "0.0")),
    "a negative sample rate": (13, setting(P + "privacy.parameters.sample_rate", "-0.01")),
    "a sample rate over one": (13, setting(P + "privacy.parameters.sample_rate", "1.5")),
    "a larger sample rate": (13, setting(P + "privacy.parameters.sample_rate", "0.02")),
    "no noise": (13, setting(P + "privacy.parameters.noise_multiplier", "0.0")),
    "negative noise": (13, setting(P + "privacy.parameters.noise_multiplier", "-2.0")),
    "less noise": (13, setting(P + "privacy.parameters.noise_multiplier", "1.9")),
    "noise that takes hours to recompute": (
        13,
        setting(P + "privacy.parameters.noise_multiplier", "0.0001"),
    ),
    "more steps": (13, setting(P + "privacy.parameters.steps", 60)),
    "a smaller epsilon": (13, setting(P + "privacy.parameters.epsilon", "0.2")),
    "a negative epsilon": (13, setting(P + "privacy.parameters.epsilon", "-1.0")),
    "an epsilon over the policy": (13, setting(P + "privacy.parameters.epsilon", "8.001")),
    "a smaller delta": (13, setting(P + "privacy.parameters.delta", "1e-09")),
    "a delta over the policy": (13, setting(P + "privacy.parameters.delta", "1.1e-05")),
    "a delta of zero": (13, setting(P + "privacy.parameters.delta", "0.0")),
    "a sequence used before": (14, setting(C + "seq", 6)),
    "a ledger that went back": (14, setting(P + "privacy.ledger.counter", 2)),
}


@pytest.mark.parametrize("fault", STEPS_6_TO_14)
def test_a_statement_with_one_untruth_is_refused_by_its_step(world, honest, resign, fault):
    step, change = STEPS_6_TO_14[fault]
    world.verify(world.a, resign(honest, lambda table: None))
    refused(step, world.verify, world.a, resign(honest, change))


def test_step_7_refuses_another_site_on_the_channel(world, honest):
    world.open(world.a, honest)
    refused(7, world.verify, world.a, honest, channel=world.b.identity)
    refused(7, world.verify, world.a, honest, channel=world.coordinator.identity)


def test_step_7_refuses_a_statement_that_another_site_signed_again(world, honest, resign):
    world.open(world.a, honest)
    stolen = resign(honest, lambda table: None, by=world.b)
    refused(7, world.verify, world.b, stolen, world.b.signing_chain)


def test_step_8_refuses_what_was_sealed_to_another_key(world, honest):
    world.open(world.a, honest)
    refused(8, world.verify, world.a, honest, kid=OTHER)
    refused(8, world.verify, world.a, honest, recipient=world.b.identity)


def test_step_9_refuses_a_closed_study(world, honest):
    world.open(world.a, honest)
    refused(9, world.verify, world.a, honest, study_open=False)
    refused(9, world.verify, world.a, honest, study=replace(world.study, title="Another"))


def test_step_10_holds_at_the_edges_of_time(world, honest):
    expires = NOW + limits.MAX_VALIDITY_DAYS * DAY
    skew = timedelta(seconds=limits.MAX_CLOCK_SKEW_S)
    world.verify(world.a, honest, now=expires - SECOND)
    refused(10, world.verify, world.a, honest, now=expires)
    world.verify(world.a, honest, now=NOW - skew)
    ahead = world.seal(world.a, claimed=claims(issued=NOW + skew))
    world.verify(world.a, ahead)
    refused(10, world.verify, world.a, ahead, now=NOW - SECOND)


def test_step_10_refuses_what_expires_before_it_is_issued(world, honest, resign):
    world.open(world.a, honest)

    def backwards(table):
        table["predicate"]["issued"] = "2026-01-31T12:09:00Z"
        table["predicate"]["expires"] = "2026-01-31T12:08:00Z"

    refused(10, world.verify, world.a, resign(honest, backwards))


def test_step_11_refuses_a_payload_over_its_limit(world, honest, resign):
    def of_length(length):
        def change(table):
            files = table["subject"]
            files[1]["annotations"]["length"] = length - 48
            files[2]["annotations"]["offset"] = length - 48

        return resign(honest, change)

    world.verify(world.a, of_length(limits.MAX_PAYLOAD_BYTES))
    refused(11, world.verify, world.a, of_length(limits.MAX_PAYLOAD_BYTES + 1))


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


def test_step_13_accepts_the_recomputed_epsilon_and_more_but_no_less(world):
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


def test_step_14_refuses_replays_tombstones_and_a_ledger_that_went_back(world, honest):
    world.open(world.a, honest)
    statement = honest.statement
    for change in (
        {"last_seq": statement.context.seq},
        {"last_seq": statement.context.seq + 1},
        {"ledger_counter": statement.privacy.ledger_counter + 1},
        {"used_digests": frozenset({statement.digest})},
        {"used_digests": frozenset({statement.files[0].sha256})},
    ):
        refused(14, world.verify, world.a, honest, **change)
    world.verify(world.a, honest, used_digests=frozenset({OTHER}))


def test_step_14_knows_revoked_weights_again_under_a_new_statement(world, honest):
    again = world.seal(world.a, context=world.context(world.a, seq=8, id="b-2"))
    world.open(world.a, again)
    assert again.ciphertext != honest.ciphertext
    assert again.statement.digest != honest.statement.digest
    tombstone = frozenset({honest.statement.files[0].sha256})
    refused(14, world.verify, world.a, again, used_digests=tombstone)


def test_step_15_refuses_any_other_wrapped_key(world, honest):
    world.open(world.a, honest)
    wrapped = honest.wrapped_key
    fresh = kem.wrap(b"k" * 32, world.recipient, info=honest.statement.context.binding)
    for other in (b"", wrapped[:-1], wrapped + b"\0", fresh, bytes(len(wrapped))):
        refused(15, world.verify, world.a, replace(honest, wrapped_key=other))


def opened(world, sealed, statement=None):
    """Run steps 16 to 22 with what intake has in hand."""
    statement = statement or sealed.statement
    key = envelope.unwrap_key(sealed.wrapped_key, world.recipient_seed, statement)
    plaintext = envelope.open_payload(sealed.ciphertext, key, statement)
    envelope.check_files(plaintext, statement, TABLE, embedding=EMBEDDING, classes=CLASSES)
    return plaintext


def test_step_16_refuses_any_other_ciphertext(world, honest):
    opened(world, honest)
    ciphertext = honest.ciphertext
    flipped = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    again = world.seal(world.a).ciphertext
    for other in (b"", ciphertext[:-1], ciphertext + b"\0", flipped, again):
        refused(16, opened, world, replace(honest, ciphertext=other))


def test_step_17_refuses_another_recipient_key_and_another_context(world, honest):
    opened(world, honest)
    refused(17, envelope.unwrap_key, honest.wrapped_key, kem.new_seed(), honest.statement)
    for change in (
        {"seq": 8},
        {"id": "b-2"},
        {"round": 2},
        {"sender": "spiffe://riverside/site/b"},
    ):
        context = replace(honest.statement.context, **change)
        refused(17, opened, world, honest, replace(honest.statement, context=context))


def test_step_17_refuses_a_blueprint_that_another_site_took_over(world, honest, resign):
    opened(world, honest)

    def take_over(table):
        context = table["predicate"]["context"]
        context["sender"], context["sender_cert"] = world.b.identity.uri, world.b.keyid

    stolen = resign(honest, take_over, by=world.b)
    world.verify(world.b, stolen)
    refused(17, world.open, world.b, stolen)


def test_step_18_refuses_another_content_key_and_another_context(world, honest):
    opened(world, honest)
    statement = honest.statement
    key = envelope.unwrap_key(honest.wrapped_key, world.recipient_seed, statement)
    assert envelope.decrypt(honest.ciphertext, key, statement.context.binding)
    refused(18, envelope.decrypt, honest.ciphertext, bytes(32), statement.context.binding)
    refused(18, envelope.decrypt, honest.ciphertext, key, b"")
    refused(18, envelope.decrypt, honest.ciphertext[:-1], key, statement.context.binding)
    refused(18, envelope.decrypt, b"", key, statement.context.binding)
    refused(18, envelope.decrypt, honest.ciphertext, key[:-1], statement.context.binding)


@pytest.mark.parametrize("length", [0, 1, 16383, 16384, 16385, 32768, 40000])
def test_step_18_decrypts_whole_payloads_and_no_part_of_one(length):
    plaintext = bytes(range(256)) * (length // 256 + 1)
    key, context = bytes(range(32)), b"context"
    ciphertext = envelope.encrypt(plaintext[:length], key, context)
    assert envelope.decrypt(ciphertext, key, context) == plaintext[:length]
    for cut in {1, 16, 17, len(ciphertext) // 2, len(ciphertext) - 56}:
        refused(18, envelope.decrypt, ciphertext[:-cut], key, context)
    refused(18, envelope.decrypt, ciphertext + bytes(16), key, context)


def test_step_19_refuses_files_that_are_not_the_signed_ones(world, honest, resign):
    opened(world, honest)
    for change in (
        setting("subject.1.digest.sha256", OTHER),
        setting("subject.2.digest.sha256", OTHER),
        setting("subject.2.annotations.length", 47),
        setting("subject.2.annotations.length", 49),
    ):
        refused(19, world.open, world.a, resign(honest, change))

    def shift(table):
        table["subject"][1]["annotations"]["length"] -= 1
        table["subject"][2]["annotations"] = {"offset": 173, "length": 49}

    refused(19, world.open, world.a, resign(honest, shift))


def test_step_20_refuses_an_architecture_file_that_is_not_the_signed_one(world, honest, resign):
    opened(world, honest)
    lied = resign(honest, setting(P + "architecture.preset", "other"))
    world.verify(world.a, lied, architecture=lambda study, declared: None)
    refused(20, opened, world, lied)


def raw_weights(values, table=TABLE):
    """Return safetensors bytes of bfloat16 bit patterns, without any check."""
    bits = [np.asarray(values[name], dtype="<u2").tobytes() for name in sorted(values)]
    return weights.header(table) + b"".join(bits)


def bits_of(arrays):
    return {n: (a.view(np.uint32) >> 16).astype("<u2") for n, a in arrays.items()}


GOOD = raw_weights(bits_of(tensors()))
METADATA = GOOD.replace(b'{"head.bias"', b'{"__metadata__":{"a":"b"},"head.bias"')


@pytest.mark.parametrize(
    "data",
    [
        GOOD[:-1],
        GOOD + b"\0",
        GOOD + bytes(2),
        METADATA,
        (int.from_bytes(GOOD[:8], "little") + 8).to_bytes(8, "little") + GOOD[8:],
        b"\xff" * 8 + GOOD[8:],
        GOOD.replace(b"BF16", b"F16 "),
        GOOD.replace(b"[3,4]", b"[4,3]"),
        GOOD.replace(b'"head.bias"', b'"head.bios"'),
        GOOD.replace(b"} ", b" }"),
        weights.write({"head.bias": tensors()["head.bias"]}),
        weights.write(tensors() | {"hidden": np.ones(4, dtype=np.float32)}),
        GOOD[: len(weights.header(TABLE))],
        b"\0",
    ],
)
def test_step_21_refuses_every_other_layout(world, data):
    opened(world, world.seal(world.a, data=GOOD))
    assert data != GOOD
    refused(21, opened, world, world.seal(world.a, data=data))


NAN, INFINITY = 0x7FC0, 0x7F80
OVER = int(np.float32(2 * limits.MAX_ABS_WEIGHT).view(np.uint32)) >> 16


@pytest.mark.parametrize("bits", [NAN, 0xFFC0, 0x7F81, INFINITY, 0xFF80, OVER, OVER | 0x8000])
@pytest.mark.parametrize("name", sorted(TABLE))
def test_step_22_refuses_values_that_are_not_finite_or_over_the_limit(world, name, bits):
    values = bits_of(tensors())
    opened(world, world.seal(world.a, data=raw_weights(values)))
    values[name].flat[0] = bits
    refused(22, opened, world, world.seal(world.a, data=raw_weights(values)))


def test_step_22_refuses_a_row_of_a_class_that_was_not_declared(world):
    hidden = tensors()
    opened(world, world.seal(world.a, data=weights.write(hidden)))
    for row, column in ((2, 0), (2, 3)):
        hidden = tensors()
        hidden[EMBEDDING][row, column] = 2.0**-20
        refused(22, opened, world, world.seal(world.a, data=weights.write(hidden)))
    everything = claims(outputs=CLASSES)
    opened(world, world.seal(world.a, data=weights.write(hidden), claimed=everything))


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
