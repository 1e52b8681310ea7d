"""Blueprints with one fault: any layer can be replaced, and all that lie above are made anew.

The site's true key signs, unless a fault is about the signature itself: what refuses a forgery is
then the step that its fault belongs to, and none before it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
from cryptography import x509

from federation import dsse
from federation.blueprint import envelope, limits, weights
from federation.blueprint.privacy import PrivacyClaim
from federation.blueprint.statement import (
    ARCHITECTURE as ARCHITECTURE_FILE,
)
from federation.blueprint.statement import (
    PAYLOAD_TYPE,
    TASK,
    WEIGHTS,
    Context,
    FileEntry,
    Gate,
    Statement,
)
from federation.study import PersonalData, Study, Unit
from kit import canonical, clock
from kit.errors import FormatError
from pki import certificates, identity, kem
from tests.fakes import federation
from tests.fakes.federation import ARCHITECTURE, CLASSES, EMBEDDING, NOW, OUTPUTS, Federation

# One row is wide enough that the largest values allowed break the norm of the tensor.
TABLE: weights.Table = {"head.bias": ("BF16", (3,)), EMBEDDING: ("BF16", (3, 64))}
Change = Callable[[dict[str, Any]], object]

# The second kind of generator, as the registry has it for grey images of 8 px and three classes.
STATISTICS: dict[str, Any] = {
    "kind": "class-gaussian",
    "version": 1,
    "preset": "moments",
    "channels": 1,
    "height": 8,
    "width": 8,
    "num_classes": 3,
}
MEANS = "mean.weight"
STATISTICS_TABLE: weights.Table = {
    "factor.weight": ("BF16", (36, 36)),
    MEANS: ("BF16", (3, 36)),
    "residual": ("BF16", (1,)),
}
_ALLOWED: dict[bytes, tuple[weights.Table, str]] = {
    canonical.encode(ARCHITECTURE): (TABLE, EMBEDDING),
    canonical.encode(STATISTICS): (STATISTICS_TABLE, MEANS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What arrives at a coordinator, and where the coordinator differs from the usual one."""

    envelope: bytes
    wrapped_key: bytes
    ciphertext: bytes
    chain: tuple[x509.Certificate, ...]
    verifier: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """What a coordinator knows, in a form that can be written down."""

    root: bytes
    seed: bytes
    channel: str
    recipient: str
    studies: dict[str, Study]

    def open(self, case: Case) -> None:
        """Run steps 1 to 22 on what arrived.

        Raises:
            RefusalError: the first step that does not hold.
        """
        expected = self._expectations(case.verifier)
        statement = envelope.verify_statement(case.envelope, case.wrapped_key, case.chain, expected)
        key = envelope.unwrap_key(case.wrapped_key, self.seed, statement)
        plaintext = envelope.open_payload(case.ciphertext, key, statement)
        table, rows = _ALLOWED[canonical.encode(dict(statement.architecture))]
        envelope.check_files(plaintext, statement, table, embedding=rows, classes=CLASSES)

    def _expectations(self, changes: dict[str, Any]) -> envelope.Expectations:
        known = {
            "root": canonical.b64encode(self.root),
            "channel": self.channel,
            "recipient": self.recipient,
            "now": clock.rfc3339(NOW),
            "study": "usual",
            "study_open": True,
            "kid": kem.key_id(kem.public_key(self.seed)),
            "last_seq": 6,
            "ledger_counter": 3,
            "ledger_head": canonical.digest(b"ledger"),
            "used_digests": [],
            "bases": {},
        }
        assert changes.keys() <= known.keys()
        known |= changes
        return envelope.Expectations(
            now=clock.parse_rfc3339(known.pop("now")),
            root=certificates.from_der(canonical.b64decode(known.pop("root"))),
            channel=identity.Identity.parse(known.pop("channel")),
            recipient=identity.Identity.parse(known.pop("recipient")),
            study=self.studies[known.pop("study")],
            used_digests=frozenset(known.pop("used_digests")),
            architecture=_only_the_two_kinds,
            **known,
        )


def _only_the_two_kinds(_study: Study, declared: Any) -> None:
    if canonical.encode(declared) not in _ALLOWED:
        raise FormatError("the architecture is not one that the study allows")


class Forge:
    """Site a of a fresh federation, and whatever it or a stranger could send."""

    def __init__(self, world: Federation | None = None) -> None:
        self.world = world or federation.found()
        self.values = _tensors()
        self.weights = weights.write(self.values)
        self.architecture = canonical.encode(ARCHITECTURE)
        self.content_key = os.urandom(32)
        # Every unit in every step: epsilon is one formula, and recomputed at once.
        gaussian = federation.mechanism(sample_rate=1.0, noise_multiplier=20.0)
        self.privacy = PrivacyClaim(
            unit="image",
            gaussian=gaussian,
            ledger_head=canonical.digest(b"ledger"),
            ledger_counter=3,
        )
        self.studies = _studies(self.world)
        self.honest = self.seal()

    @property
    def verifier(self) -> Verifier:
        """Return the coordinator that takes the honest blueprint."""
        world = self.world
        return Verifier(
            root=certificates.der(world.root.certificate),
            seed=world.recipient_seed,
            channel=world.a.identity.uri,
            recipient=world.coordinator.identity.uri,
            studies=self.studies,
        )

    @property
    def payload(self) -> bytes:
        """Return the honest statement."""
        return dsse.parse(self.honest.envelope, PAYLOAD_TYPE).payload

    def sign(self, payload: bytes, **options: Any) -> bytes:
        """Return an envelope that the site (or `by`) truly signed, over any bytes at all."""
        signer = options.get("by", self.world.a)
        keyid = options.get("keyid", signer.keyid)
        return dsse.sign(payload, PAYLOAD_TYPE, signer.signing_key, keyid=keyid)

    def signed(self, change: Change, **verifier: Any) -> Case:
        """Return the honest blueprint with a changed statement, signed again by its site."""
        table = json.loads(self.payload)
        change(table)
        return replace(self.honest, envelope=self.sign(canonical.encode(table)), verifier=verifier)

    def raw(self, payload: bytes) -> Case:
        """Return the honest blueprint with other bytes in place of the statement, signed."""
        return replace(self.honest, envelope=self.sign(payload))

    def seal(
        self,
        *,
        data: bytes | None = None,
        file: bytes | None = None,
        plaintext: bytes | None = None,
        encrypt: Callable[[bytes, bytes, bytes], bytes] = envelope.encrypt,
        wrap: Callable[[bytes, bytes], bytes] | None = None,
        change: Change | None = None,
        context: Context | None = None,
        outputs: tuple[str, ...] = OUTPUTS,
        privacy: PrivacyClaim | None = None,
        architecture: dict[str, Any] = ARCHITECTURE,
    ) -> Case:
        """Return a blueprint whose signature vouches for every byte of these layers.

        `data` and `file` are the two files, the second `architecture`'s if not given, `plaintext`
        what is encrypted in their place; `encrypt` gets (plaintext, content key, binding), `wrap`
        (content key, binding).
        """
        data = self.weights if data is None else data
        file = canonical.encode(architecture) if file is None else file
        context = context or self.world.context(self.world.a)
        plaintext = data + file if plaintext is None else plaintext
        ciphertext = encrypt(plaintext, self.content_key, context.binding)
        wrapped = (wrap or self.wrap)(self.content_key, context.binding)
        statement = Statement(
            context=context,
            ciphertext_sha256=canonical.digest(ciphertext),
            ciphertext_length=len(ciphertext),
            wrapped_key_sha256=canonical.digest(wrapped),
            files=(_entry(WEIGHTS, data, 0), _entry(ARCHITECTURE_FILE, file, len(data))),
            task=TASK,
            outputs=outputs,
            architecture=architecture,
            privacy=privacy or self.privacy,
            gate=Gate(passed=True, report=canonical.digest(b"report")),
            issued=clock.rfc3339(NOW),
            expires=clock.rfc3339(NOW + timedelta(days=limits.MAX_VALIDITY_DAYS)),
        )
        table = json.loads(statement.to_bytes())
        if change is not None:
            change(table)
        return Case(
            envelope=self.sign(canonical.encode(table)),
            wrapped_key=wrapped,
            ciphertext=ciphertext,
            chain=self.world.a.signing_chain,
        )

    def wrap(self, content_key: bytes, binding: bytes) -> bytes:
        """Return the content key wrapped as it should be."""
        return kem.wrap(content_key, self.world.recipient, info=binding)

    def raw_weights(self, change: Callable[[dict[str, Any]], object]) -> bytes:
        """Return weights whose bfloat16 bit patterns were changed, without any check."""
        bits = {n: (a.view(np.uint32) >> 16).astype("<u2") for n, a in self.values.items()}
        change(bits)
        return weights.header(TABLE) + b"".join(bits[name].tobytes() for name in sorted(bits))


def statistics() -> weights.Arrays:
    """Return class statistics that bfloat16 holds exactly; the undeclared class has no mean."""
    means = (np.arange(108, dtype=np.float32) % 16).reshape(3, 36) / 16
    means[2] = 0
    residual = np.array([0.25], dtype=np.float32)
    return {"factor.weight": np.eye(36, dtype=np.float32), MEANS: means, "residual": residual}


def _tensors() -> weights.Arrays:
    """Return values that bfloat16 holds exactly; the row of the undeclared class is zero."""
    label = (np.arange(192, dtype=np.float32) % 128).reshape(3, 64) / 8
    label[2] = 0
    return {"head.bias": np.array([0.5, -0.25, 3.0], dtype=np.float32), EMBEDDING: label}


def _studies(world: Federation) -> dict[str, Study]:
    by_patient = replace(world.study.privacy, unit=Unit.PATIENT)
    personal = replace(world.study.privacy, personal_data=PersonalData.ALLOWED)
    return {
        "usual": world.study,
        "renamed": replace(world.study, title="Another"),
        "by patient": replace(world.study, privacy=by_patient),
        "personal data": replace(world.study, privacy=personal),
    }


def _entry(name: str, data: bytes, offset: int) -> FileEntry:
    return FileEntry(name=name, sha256=canonical.digest(data), offset=offset, length=len(data))
