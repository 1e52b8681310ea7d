"""Steps 5 to 14: statements that their own site signed, with one untruth each."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from federation.blueprint import limits
from kit import canonical, clock
from tests.fakes.federation import NOW
from tests.fakes.forge import Case, Change, Forge
from tests.vectors.catalogue.changes import both, dropping, setting, signed
from tests.vectors.catalogue.envelope_faults import PICKLE
from tests.vectors.hostile import Vector

P, C = "predicate.", "predicate.context."
Q = P + "privacy.parameters."
OTHER = canonical.digest(b"other")

STEP_5: dict[str, Change] = {
    "another in-toto type": setting("_type", "https://in-toto.io/Statement/v0.1"),
    "another predicate": setting("predicateType", "https://slsa.dev/provenance/v1"),
    "an unknown field": setting("extra", 1),
    "a class to load": setting("__class__", "os.system"),
    "a missing field": dropping("predicate"),
    "an unknown predicate field": setting(P + "extra", 1),
    "a missing predicate field": dropping(P + "gate"),
    "three subjects": dropping("subject.3"),
    "five subjects": lambda t: t["subject"].append(t["subject"][3]),
    "no subjects": setting("subject", None),
    "subjects in another order": lambda t: t["subject"].insert(1, t["subject"].pop(2)),
    "another file name": setting("subject.1.name", "weights.bin"),
    "a path as file name": setting("subject.1.name", "../weights.safetensors"),
    "an absolute path as file name": setting("subject.2.name", "/etc/architecture.json"),
    "another last subject": setting("subject.3.name", "key"),
    "a place for the wrapped key": setting("subject.3.annotations", {"offset": 0, "length": 1}),
    "two digests": lambda t: t["subject"][0]["digest"].update(sha512="0" * 128),
    "a digest in capitals": setting("subject.0.digest.sha256", "A" * 64),
    "a digest that is too short": setting("subject.0.digest.sha256", "a" * 63),
    "a digest of another kind": setting("subject.1.digest", {"sha1": "a" * 40}),
    "a ciphertext that starts elsewhere": setting("subject.0.annotations.offset", 1),
    "a negative length": setting("subject.1.annotations.length", -1),
    "a length that is true": setting("subject.1.annotations.length", True),
    "a length in text": setting("subject.1.annotations.length", "174"),
    "no context": setting(P + "context", None),
    "an unknown context field": setting(C + "extra", 1),
    "no sequence": dropping(C + "seq"),
    "version true": setting(C + "version", True),
    "a version in text": setting(C + "version", "1"),
    "sequence zero": setting(C + "seq", 0),
    "sequence over its limit": setting(C + "seq", limits.MAX_SEQUENCE + 1),
    "round zero": setting(C + "round", 0),
    "an id with capitals": setting(C + "id", "B-1"),
    "an id that is a number": setting(C + "id", 7),
    "an id with a path": setting(C + "id", "../b-1"),
    "an id that a terminal obeys": setting(C + "id", "b\u001b[2J"),
    "a kid that is no digest": setting(C + "kid", "kid"),
    "a base that is no digest": setting(C + "base", "none"),
    "a sender that is no text": setting(C + "sender", 7),
    "a sender without end": setting(C + "sender", "x" * 257),
    "no outputs": setting(P + "outputs", []),
    "outputs as text": setting(P + "outputs", "cat"),
    "an output twice": setting(P + "outputs", ["cat", "cat"]),
    "a formula as output": setting(P + "outputs", ["=cmd()"]),
    "an escape in an output": setting(P + "outputs", ["cat\x1b[31m"]),
    "a mark of direction in an output": setting(P + "outputs", ["cat\u202e"]),
    "a letter that looks like another": setting(P + "outputs", ["c\u0430t"]),
    "half a character": setting(P + "outputs", ["\ud800"]),
    "an output that is too long": setting(P + "outputs", ["c" * 65]),
    "a task with blanks": setting(P + "task", "a task"),
    "an architecture that is a list": setting(P + "architecture", []),
    "a time with an offset": setting(P + "issued", "2026-01-31T13:00:00+01:00"),
    "a time with a fraction": setting(P + "issued", "2026-01-31T12:00:00.5Z"),
    "a time in other digits": setting(P + "issued", "\u0662026-01-31T12:00:00Z"),
    "a day that is not": setting(P + "expires", "2026-02-30T12:00:00Z"),
    "a year zero": setting(P + "issued", "0000-01-31T12:00:00Z"),
    "a gate without a verdict": setting(P + "gate.passed", 1),
    "a gate without a report": setting(P + "gate.report", ""),
    "a gate with its scores": setting(P + "gate.scores", {"nearest": 1}),
    "a hostile unit": setting(P + "privacy.unit", "=unit"),
    "no mechanism with parameters": setting(P + "privacy.mechanism", "none"),
    "a mechanism without parameters": setting(P + "privacy.parameters", None),
    "empty parameters": setting(P + "privacy.parameters", {}),
    "an unknown mechanism": setting(P + "privacy.mechanism", "laplace"),
    "the number of patients": setting(Q + "units", 100),
    "no steps": setting(Q + "steps", 0),
    "steps without end": setting(Q + "steps", 10_000_001),
    "steps as text": setting(Q + "steps", "50"),
    "a rate as integer": setting(Q + "sample_rate", 1),
    "a rate not canonical": setting(Q + "sample_rate", "1.00"),
    "an epsilon that is no number": setting(Q + "epsilon", "nan"),
    "an infinite epsilon": setting(Q + "epsilon", "inf"),
    "an epsilon over every double": setting(Q + "epsilon", "1e999"),
    "a zero with a sign": setting(Q + "epsilon", "-0.0"),
    "a ledger that goes below zero": setting(P + "privacy.ledger.counter", -1),
    "a ledger without a head": setting(P + "privacy.ledger.head", ""),
}

RAW: dict[str, Callable[[bytes], bytes]] = {
    "an empty payload": lambda data: b"",
    "a payload that is null": lambda data: b"null",
    "a payload that is a list": lambda data: b"[]",
    "a blank before the statement": lambda data: b" " + data,
    "a blank after the statement": lambda data: data + b" ",
    "a statement over its limit": lambda data: data + b" " * limits.MAX_STATEMENT_BYTES,
    "a number past exact integers": lambda data: data.replace(
        b'"seq":7', b'"seq":9007199254740993'
    ),
    "a sequence with an exponent": lambda data: data.replace(b'"seq":7', b'"seq":7e0'),
    "a sequence with a leading zero": lambda data: data.replace(b'"seq":7', b'"seq":07'),
    "a sequence twice": lambda data: data.replace(b'"seq":7', b'"seq":6,"seq":7'),
    "an epsilon that is a bare number": lambda data: data.replace(b'"steps":50', b'"steps":50.0'),
    "an architecture nested too deep": lambda data: data.replace(
        b'"preset":"tiny"', b'"preset":' + b"[" * 16 + b"]" * 16
    ),
    "a statement that is a pickle": lambda data: PICKLE,
    "a statement in another encoding": lambda data: data.decode().encode("utf-16-le"),
}

STEP_6: dict[str, Change] = {
    "version 2": setting(C + "version", 2),
    "version 1000": setting(C + "version", 1000),
    "another suite": setting(C + "suite", "X25519+ChaCha20"),
    "no encryption": setting(C + "suite", "none"),
    "the suite without its signature": setting(
        C + "suite", "XWing-HKDFSHA256-AES256GCM+Cobblestone256"
    ),
}
STEP_7: dict[str, Change] = {
    "another sender": setting(C + "sender", "spiffe://riverside/site/b"),
    "a sender in another federation": setting(C + "sender", "spiffe://other/site/a"),
    "the coordinator as sender": setting(C + "sender", "spiffe://riverside/coordinator"),
    "a sender with a slash more": setting(C + "sender", "spiffe://riverside/site/a/"),
    "a sender in capitals": setting(C + "sender", "SPIFFE://riverside/site/a"),
    "an empty sender": setting(C + "sender", ""),
    "another certificate": setting(C + "sender_cert", OTHER),
}
STEP_8: dict[str, Change] = {
    "another coordinator": setting(C + "recipient", "spiffe://other/coordinator"),
    "a site as recipient": setting(C + "recipient", "spiffe://riverside/site/b"),
    "no recipient": setting(C + "recipient", ""),
    "another recipient key": setting(C + "kid", OTHER),
}
STEP_9: dict[str, Change] = {
    "another study": setting(C + "study_digest", OTHER),
    "the next round": setting(C + "round", 2),
    "the largest round": setting(C + "round", 1_000_000),
    "a base release": setting(C + "base", OTHER),
}
LATER = NOW + timedelta(seconds=limits.MAX_CLOCK_SKEW_S + 1)
STEP_10: dict[str, Change] = {
    "issued after the clock skew": setting(P + "issued", clock.rfc3339(LATER)),
    "issued in another century": setting(P + "issued", "2126-01-31T12:00:00Z"),
    "expired": setting(P + "expires", clock.rfc3339(NOW)),
    "expired long ago": setting(P + "expires", "0001-01-01T00:00:00Z"),
    "valid for a second too long": setting(
        P + "expires", clock.rfc3339(NOW + timedelta(days=limits.MAX_VALIDITY_DAYS, seconds=1))
    ),
    "valid for ever": setting(P + "expires", "9999-12-31T23:59:59Z"),
    "expires before it is issued": both(
        setting(P + "issued", "2026-01-31T12:05:00Z"),
        setting(P + "expires", "2026-01-31T12:04:00Z"),
    ),
}
STEP_11: dict[str, Change] = {
    "a gap before the first file": setting("subject.1.annotations.offset", 1),
    "a gap between the files": lambda t: _move(t, 1),
    "files that overlap": lambda t: _move(t, -1),
    "files in the same place": setting("subject.2.annotations.offset", 0),
    "an empty weights file": setting("subject.1.annotations.length", 0),
    "an empty architecture file": setting("subject.2.annotations.length", 0),
    "an architecture over its limit": setting(
        "subject.2.annotations.length", limits.MAX_ARCHITECTURE_BYTES + 1
    ),
    "a ciphertext over its limit": setting(
        "subject.0.annotations.length", 2 * limits.MAX_PAYLOAD_BYTES + 1
    ),
    "a ciphertext of nine petabytes": setting(
        "subject.0.annotations.length", canonical.MAX_INTEGER
    ),
    "a payload over its limit": lambda t: _resize(t, limits.MAX_PAYLOAD_BYTES),
}
STEP_12: dict[str, Change] = {
    "another task": setting(P + "task", "segmentation"),
    "outputs in another order": setting(P + "outputs", ["dog", "cat"]),
    "an output the study has not": setting(P + "outputs", ["cat", "dog", "fox"]),
    "an output in capitals": setting(P + "outputs", ["Cat", "dog"]),
    "another preset": setting(P + "architecture.preset", "huge"),
    "another kind": setting(P + "architecture.kind", "resnet"),
    "a class name as kind": setting(P + "architecture.kind", "torch.nn.Module"),
    "code in the architecture": setting(P + "architecture.code", "import os"),
    "a version that is true": setting(P + "architecture.version", True),
    "an empty architecture": setting(P + "architecture", {}),
}
STEP_13: dict[str, Change] = {
    "an unknown unit": setting(P + "privacy.unit", "cohort"),
    "a gate that did not pass": setting(P + "gate.passed", False),
    "a sample rate of zero": setting(Q + "sample_rate", "0.0"),
    "a negative sample rate": setting(Q + "sample_rate", "-0.01"),
    "a sample rate over one": setting(Q + "sample_rate", "1.5"),
    "no noise": setting(Q + "noise_multiplier", "0.0"),
    "negative noise": setting(Q + "noise_multiplier", "-20.0"),
    "less noise": setting(Q + "noise_multiplier", "19.0"),
    "noise that takes hours to recompute": both(
        setting(Q + "noise_multiplier", "0.0001"), setting(Q + "sample_rate", "0.5")
    ),
    "noise past every figure": setting(Q + "noise_multiplier", "1e300"),
    "more steps": setting(Q + "steps", 60),
    "the most steps": setting(Q + "steps", 10_000_000),
    "a smaller epsilon": setting(Q + "epsilon", "0.2"),
    "an epsilon of zero": setting(Q + "epsilon", "0.0"),
    "a negative epsilon": setting(Q + "epsilon", "-1.0"),
    "an epsilon over the policy": setting(Q + "epsilon", "8.001"),
    "a smaller delta": setting(Q + "delta", "1e-09"),
    "a delta over the policy": setting(Q + "delta", "1.1e-05"),
    "a delta of one": setting(Q + "delta", "1.0"),
    "a delta of zero": setting(Q + "delta", "0.0"),
}
STEP_14: dict[str, Change] = {
    "the last sequence again": setting(C + "seq", 6),
    "the first sequence": setting(C + "seq", 1),
    "a ledger that went back": setting(P + "privacy.ledger.counter", 2),
    "a ledger that began again": setting(P + "privacy.ledger.counter", 0),
    "a ledger with two histories": setting(P + "privacy.ledger.head", OTHER),
}
PEERS = {
    "a class to load": "CVE-2026-24186: a serialiser loaded any class that the sender named",
    "a class name as kind": "CVE-2026-24186, CVE-2026-31220: names became code",
    "code in the architecture": "CVE-2026-31220: approved code was run by exec()",
    "a path as file name": "CVE-2026-56445, CVE-2026-21851, CVE-2024-27318: path traversal",
    "an absolute path as file name": "CVE-2026-27489, CVE-2022-25882: path traversal",
    "an id that is a number": "CVE-2023-28635: a name that is an integer",
    "an id with a path": "CVE-2026-56445: an identifier became a path",
    "no encryption": "GHSA-rjmv-52mp-gjrr: plain input was accepted where encryption was agreed",
    "another sender": "OpenFL: the sender of a header was believed",
    "a ciphertext of nine petabytes": "CVE-2025-23311, CVE-2022-21822: size without bound",
    "a payload over its limit": "Flower issue 3006, NVFlare PR 5015: size met too late",
    "the last sequence again": "NVFlare PR 4422: replay",
}


def _move(table: dict, by: int) -> None:
    table["subject"][2]["annotations"]["offset"] += by


def _resize(table: dict, total: int) -> None:
    table["subject"][1]["annotations"]["length"] = total
    table["subject"][2]["annotations"]["offset"] = total


def _replay(forge: Forge) -> Case:
    return replace(forge.honest, verifier={"used_digests": [canonical.digest(forge.payload)]})


def _tombstone(forge: Forge) -> Case:
    """Return revoked weights, sealed again under a new statement and sequence."""
    context = forge.world.context(forge.world.a, seq=8, id="b-2")
    used = [canonical.digest(forge.weights)]
    return replace(forge.seal(context=context), verifier={"used_digests": used})


def _verifier(**changes: object) -> Callable[[Forge], Case]:
    return lambda forge: replace(forge.honest, verifier=changes)


KNOWLEDGE: list[tuple[int, str, Callable[[Forge], Case]]] = [
    (0, "what the coordinator knows", _verifier(last_seq=0, used_digests=[OTHER])),
    (7, "another site on the channel", _verifier(channel="spiffe://riverside/site/b")),
    (7, "the coordinator on the channel", _verifier(channel="spiffe://riverside/coordinator")),
    (8, "a key that was retired", _verifier(kid=OTHER)),
    (8, "a coordinator of another name", _verifier(recipient="spiffe://elsewhere/coordinator")),
    (9, "a closed study", _verifier(study_open=False)),
    (9, "the study under another title", _verifier(study="renamed")),
    (10, "a month later", _verifier(now="2026-03-02T12:00:00Z")),
    (14, "a sequence that was used", _verifier(last_seq=7)),
    (14, "a counter that is higher here", _verifier(ledger_counter=4)),
    (14, "the statement of before", _replay),
    (14, "weights that were revoked", _tombstone),
]


def _sealed_for(study: str, **claims: object) -> Callable[[Forge], Case]:
    """Return a maker of a blueprint for another study of the set."""

    def make(forge: Forge) -> Case:
        context = forge.world.context(forge.world.a, study_digest=forge.studies[study].digest)
        privacy = replace(forge.privacy, **claims)  # type: ignore[arg-type]
        return replace(forge.seal(context=context, privacy=privacy), verifier={"study": study})

    return make


PLAIN, STRONG = "a study that takes personal data", "a study that protects patients"
POLICIES = [
    (0, PLAIN, PLAIN, _sealed_for("personal data", gaussian=None)),
    (13, "no mechanism where one is asked for", PLAIN, _sealed_for("usual", gaussian=None)),
    (
        13,
        "no mechanism for patients",
        PLAIN,
        _sealed_for("by patient", unit="patient", gaussian=None),
    ),
    (0, STRONG, STRONG, _sealed_for("by patient", unit="patient")),
    (13, "images where patients are protected", STRONG, _sealed_for("by patient", unit="image")),
]


def _signed_by_b(forge: Forge) -> Case:
    envelope = forge.sign(forge.payload, by=forge.world.b)
    return replace(
        forge.honest,
        envelope=envelope,
        chain=forge.world.b.signing_chain,
        verifier={"channel": forge.world.b.identity.uri},
    )


def _raw(alter: Callable[[bytes], bytes]) -> Callable[[Forge], Case]:
    def make(forge: Forge) -> Case:
        altered = alter(forge.payload)
        assert altered != forge.payload
        return forge.raw(altered)

    return make


def catalogue() -> list[Vector]:
    """Return the vectors of steps 5 to 14."""
    again = "signed again"
    changed = [
        vector
        for number, faults in enumerate(
            (STEP_5, STEP_6, STEP_7, STEP_8, STEP_9, STEP_10, STEP_11, STEP_12, STEP_13, STEP_14),
            start=5,
        )
        for vector in signed(number, faults, peers=PEERS)
    ]
    family = KNOWLEDGE[0][1]
    return [
        Vector(step=0, fault=again, family=again, make=lambda f: f.signed(json_as_it_is)),
        *changed,
        *(Vector(step=5, fault=f, family=again, make=_raw(alter)) for f, alter in RAW.items()),
        Vector(step=7, fault="a stolen statement", family=again, make=_signed_by_b),
        *(Vector(step=s, fault=f, family=family, make=make) for s, f, make in KNOWLEDGE),
        *(Vector(step=s, fault=f, family=group, make=make) for s, f, group, make in POLICIES),
    ]


def json_as_it_is(table: dict) -> None:
    """Change nothing."""
    json.dumps(table)
