"""Seal and open: encrypt, then sign; verify in numbered steps, then decrypt.

The steps are those of `docs/blueprint-format.md`, section 5, with the same numbers there, here and
in the tests. A step that does not hold raises `RefusalError` with its number; nothing later runs.
Steps 1 to 15 need no secret; 16 to 22 look at the payload; 23 (a sample of the model) is the
coordinator's.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import BinaryIO, Protocol

import numpy as np
from cryptography import cobblestone, x509
from cryptography.exceptions import InvalidTag

from federation import accounting, dsse
from federation.accounting import DpEvent
from federation.blueprint import limits, weights
from federation.blueprint.errors import RefusalError
from federation.blueprint.privacy import PrivacyClaim
from federation.blueprint.statement import (
    ARCHITECTURE,
    PAYLOAD_TYPE,
    SUITE,
    TASK,
    VERSION,
    WEIGHTS,
    Context,
    FileEntry,
    Gate,
    Statement,
)
from federation.study import PersonalData, Study, Unit
from kit import canonical, clock
from kit.errors import KitError
from pki import certificates, kem, keys, verification
from pki.crl import RevocationList
from pki.identity import Identity

_CHUNK_BYTES = 1 << 20


class Sink(Protocol):
    """What ciphertext is written to: a file, or one that is flushed on the way."""

    def write(self, data: bytes, /) -> int:
        """Take all of `data`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What travels beside a ciphertext: the signed statement and the wrapped key.

    `content_key` (sensitive) does not travel: the sender's own way back into what it sealed.
    """

    envelope: bytes
    wrapped_key: bytes
    content_key: bytes = field(repr=False)

    @property
    def statement(self) -> Statement:
        """The statement inside the (own, just made) envelope."""
        return Statement.from_bytes(dsse.parse(self.envelope, PAYLOAD_TYPE).payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed(Seal):
    """What travels, with the ciphertext in memory."""

    ciphertext: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What the site says about its weights, besides the context."""

    outputs: tuple[str, ...]
    privacy: PrivacyClaim
    gate: Gate
    issued: datetime


def seal(
    weights_bytes: bytes,
    architecture: Mapping[str, object],
    context: Context,
    claims: Claims,
    *,
    recipient: bytes,
    key: keys.SigningKey,
) -> Sealed:
    """Encrypt the two files to `recipient` and sign the statement over both.

    Raises:
        FormatError: a claim cannot be written in the format.
        IdentityError: `recipient` is not an X-Wing key.
    """
    sink = io.BytesIO()
    made = seal_stream(
        io.BytesIO(weights_bytes), sink, architecture, context, claims, recipient=recipient, key=key
    )
    return Sealed(
        envelope=made.envelope,
        wrapped_key=made.wrapped_key,
        content_key=made.content_key,
        ciphertext=sink.getvalue(),
    )


def seal_stream(
    source: BinaryIO,
    sink: Sink,
    architecture: Mapping[str, object],
    context: Context,
    claims: Claims,
    *,
    recipient: bytes,
    key: keys.SigningKey,
) -> Seal:
    """Encrypt weights from `source`, and the architecture, into `sink`; a chunk is in memory.

    Raises:
        FormatError: a claim cannot be written in the format.
        IdentityError: `recipient` is not an X-Wing key.
    """
    table = canonical.encode(dict(architecture))
    content_key = cobblestone.Cobblestone256Encryptor.generate_key()
    encryptor = cobblestone.Cobblestone256Encryptor(content_key, context.binding)
    weights_digest, digest, length, written = hashlib.sha256(), hashlib.sha256(), 0, 0

    def put(data: bytes) -> None:
        nonlocal written
        digest.update(data)
        written += sink.write(data)

    while chunk := source.read(_CHUNK_BYTES):
        weights_digest.update(chunk)
        length += len(chunk)
        put(encryptor.update(chunk))
    put(encryptor.update(table))
    put(encryptor.finalize())
    wrapped = kem.wrap(content_key, recipient, info=context.binding)
    statement = Statement(
        context=context,
        ciphertext_sha256=digest.hexdigest(),
        ciphertext_length=written,
        wrapped_key_sha256=canonical.digest(wrapped),
        files=(
            FileEntry(name=WEIGHTS, sha256=weights_digest.hexdigest(), offset=0, length=length),
            FileEntry(
                name=ARCHITECTURE, sha256=canonical.digest(table), offset=length, length=len(table)
            ),
        ),
        task=TASK,
        outputs=claims.outputs,
        architecture=json.loads(table),
        privacy=claims.privacy,
        gate=claims.gate,
        issued=clock.rfc3339(claims.issued),
        expires=clock.rfc3339(claims.issued + timedelta(days=limits.MAX_VALIDITY_DAYS)),
    )
    data = statement.to_bytes()
    Statement.from_bytes(data)
    envelope = dsse.sign(data, PAYLOAD_TYPE, key, keyid=context.sender_cert)
    return Seal(envelope=envelope, wrapped_key=wrapped, content_key=content_key)


def encrypt(plaintext: bytes, key: bytes, context: bytes) -> bytes:
    """Return C2SP chunked encryption (Cobblestone-256) of `plaintext` under `key` and `context`."""
    encryptor = cobblestone.Cobblestone256Encryptor(key, context)
    return encryptor.update(plaintext) + encryptor.finalize()


def decrypt(ciphertext: bytes, key: bytes, context: bytes) -> bytes:
    """Return the plaintext, whole or not at all.

    Raises:
        RefusalError: step 18, wrong key or context, altered or truncated bytes.
    """
    try:
        decryptor = cobblestone.Cobblestone256Decryptor(key, context)
        return decryptor.update(ciphertext) + decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise RefusalError(18, "payload does not decrypt as a whole") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What the coordinator knows when a statement arrives; the rules compare against nothing else.

    `study` is the one the sender asked for; `used_digests` holds statement and plaintext digests
    that must never come in again (replay and tombstones). `bases` are those that training may start
    from in this study: digest -> architecture.
    """

    now: datetime
    root: x509.Certificate
    channel: Identity
    recipient: Identity
    study: Study
    study_open: bool
    kid: str
    last_seq: int
    ledger_counter: int
    ledger_head: str | None = None
    used_digests: frozenset[str]
    architecture: Callable[[Study, Mapping[str, object]], None]
    revocations: RevocationList | None = None
    bases: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def verify_statement(
    envelope_bytes: bytes,
    wrapped_key: bytes,
    chain: Sequence[x509.Certificate],
    expected: Expectations,
) -> Statement:
    """Run steps 1 to 15 and return the statement.

    Raises:
        RefusalError: the first step that does not hold.
    """
    if len(envelope_bytes) > limits.MAX_ENVELOPE_BYTES:
        raise RefusalError(1, "envelope is over its size limit")
    with _step(2):
        envelope = dsse.parse(envelope_bytes, PAYLOAD_TYPE, limit=limits.MAX_ENVELOPE_BYTES)
    with _step(3):
        signer = verification.verify_signing(
            chain, root=expected.root, now=expected.now, revocations=expected.revocations
        )
        if envelope.keyid != certificates.fingerprint(chain[0]):
            raise RefusalError(3, "keyid is not the fingerprint of the presented certificate")
    with _step(4):
        raw = keys.public_bytes(chain[0].public_key())  # type: ignore[arg-type]
        payload = dsse.verify(envelope, keys.verifying_key(raw))
    with _step(5):
        statement = Statement.from_bytes(payload)
    _check_context(statement.context, signer, envelope.keyid, expected)
    _check_times(statement, expected.now)
    _check_lengths(statement)
    _check_task(statement, expected)
    _check_privacy(statement, expected)
    _check_fresh(statement, expected)
    if len(wrapped_key) != kem.WRAPPED_BYTES:
        raise RefusalError(15, "wrapped key has the wrong length")
    if canonical.digest(wrapped_key) != statement.wrapped_key_sha256:
        raise RefusalError(15, "wrapped key is not the signed one")
    return statement


def check_again(statement: Statement, expected: Expectations) -> None:
    """Run steps 8, 9 and 14 once more on a statement that passed them.

    They compare with what another submission may have changed since; under the caller's lock.

    Raises:
        RefusalError: the first step that does not hold any more.
    """
    context = statement.context
    _check_context(context, expected.channel, context.sender_cert, expected)
    _check_fresh(statement, expected)


@contextmanager
def _step(number: int) -> Iterator[None]:
    try:
        yield
    except RefusalError:
        raise
    except KitError as error:
        raise RefusalError(number, str(error)) from error


def _check_context(context: Context, signer: Identity, keyid: str, expected: Expectations) -> None:
    if context.version != VERSION or context.suite != SUITE:
        raise RefusalError(6, "version or suite is not in the registry")
    if signer != expected.channel:
        raise RefusalError(7, "the signer is not the site on this channel")
    if context.sender != signer.uri or context.sender_cert != keyid:
        raise RefusalError(7, "the statement names another sender than its certificate")
    if context.recipient != expected.recipient.uri or context.kid != expected.kid:
        raise RefusalError(8, "the statement is sealed to another recipient or key")
    if context.study_digest != expected.study.digest or context.round != expected.study.round:
        raise RefusalError(9, "the statement is for another study or round")
    if not expected.study_open:
        raise RefusalError(9, "the study takes no more blueprints")
    if context.base is not None and context.base not in expected.bases:
        raise RefusalError(9, "the base is none that this coordinator offers in this study")


def _check_times(statement: Statement, now: datetime) -> None:
    issued, expires = (clock.parse_rfc3339(t) for t in (statement.issued, statement.expires))
    if issued > now + timedelta(seconds=limits.MAX_CLOCK_SKEW_S):
        raise RefusalError(10, "the statement is issued in the future; check the site's clock")
    if now >= expires:
        raise RefusalError(10, "the statement has expired; submit the run again")
    if not timedelta() < expires - issued <= timedelta(days=limits.MAX_VALIDITY_DAYS):
        raise RefusalError(10, "the statement's validity is outside its limit")


def _check_lengths(statement: Statement) -> None:
    if statement.ciphertext_length > 2 * limits.MAX_PAYLOAD_BYTES:
        raise RefusalError(11, "ciphertext is over its size limit")
    offset = 0
    for entry in statement.files:
        if entry.offset != offset or entry.length == 0:
            raise RefusalError(11, "the payload's files overlap, leave a gap or are empty")
        offset += entry.length
    if offset > limits.MAX_PAYLOAD_BYTES:
        raise RefusalError(11, "payload is over its size limit")
    if statement.file(ARCHITECTURE).length > limits.MAX_ARCHITECTURE_BYTES:
        raise RefusalError(11, "architecture.json is over its size limit")


def _check_task(statement: Statement, expected: Expectations) -> None:
    if statement.task != TASK:
        raise RefusalError(12, "the task is not that of the study")
    in_order = tuple(c for c in expected.study.classes if c in statement.outputs)
    if statement.outputs != in_order:
        raise RefusalError(12, "outputs are not classes of the study, in its order")
    with _step(12):
        expected.study.build.require_outputs(statement.outputs)
        expected.architecture(expected.study, statement.architecture)
    base = statement.context.base
    if base is not None and expected.bases[base] != statement.architecture:
        raise RefusalError(12, "the architecture is not that of the base")


def _check_privacy(statement: Statement, expected: Expectations) -> None:
    policy, claim = expected.study.privacy, statement.privacy
    if claim.unit not in (Unit.PATIENT, policy.unit):
        raise RefusalError(13, f"the study protects each {policy.unit}, not each {claim.unit}")
    mechanism = claim.gaussian
    if mechanism is None:
        if policy.personal_data is not PersonalData.ALLOWED:
            raise RefusalError(13, "the study refuses blueprints without differential privacy")
        return
    if not statement.gate.passed:
        raise RefusalError(13, "the site's own gate did not pass")
    if mechanism.epsilon > policy.epsilon or not 0 < mechanism.delta <= policy.delta:
        raise RefusalError(13, "declared epsilon or delta is over the study's policy")
    with _step(13):
        events = [DpEvent(**asdict(event)) for event in mechanism.events]
        if sum(map(accounting.work, events)) > limits.MAX_DP_WORK:
            raise RefusalError(13, "the events have too little noise together to be recomputed")
        true_epsilon = accounting.compose(events, mechanism.delta)
    if true_epsilon > mechanism.epsilon * (1 + limits.EPSILON_TOLERANCE):
        raise RefusalError(13, "declared epsilon is less than its own parameters give")


def _check_fresh(statement: Statement, expected: Expectations) -> None:
    if statement.context.seq <= expected.last_seq:
        raise RefusalError(14, "sequence number was used before")
    if statement.privacy.ledger_counter < expected.ledger_counter:
        raise RefusalError(14, "the site's privacy ledger went backwards; was a backup restored?")
    same_counter = statement.privacy.ledger_counter == expected.ledger_counter
    if same_counter and expected.ledger_head not in (None, statement.privacy.ledger_head):
        raise RefusalError(14, "the site's privacy ledger has two histories; was it copied?")
    digests = {statement.digest, statement.file(WEIGHTS).sha256}
    if digests & expected.used_digests:
        raise RefusalError(14, "this blueprint was submitted before")


def open_payload(ciphertext: bytes, content_key: bytes, statement: Statement) -> bytes:
    """Run steps 16 to 19 and return the plaintext payload; sensitive.

    Raises:
        RefusalError: the first step that does not hold.
    """
    if len(ciphertext) != statement.ciphertext_length:
        raise RefusalError(16, "ciphertext does not have the signed length")
    if canonical.digest(ciphertext) != statement.ciphertext_sha256:
        raise RefusalError(16, "ciphertext is not the signed one")
    plaintext = decrypt(ciphertext, content_key, statement.context.binding)
    if len(plaintext) != statement.plaintext_length:
        raise RefusalError(19, "plaintext does not have the signed length")
    for entry in statement.files:
        data = memoryview(plaintext)[entry.offset : entry.offset + entry.length]
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise RefusalError(19, f"`{entry.name}` is not the signed file")
    return plaintext


def unwrap_key(wrapped_key: bytes, seed: bytes, statement: Statement) -> bytes:
    """Run step 17: return the content key; sensitive.

    Raises:
        RefusalError: the wrapped key does not open under this key and context.
    """
    with _step(17):
        return kem.unwrap(wrapped_key, seed, info=statement.context.binding)


def check_files(
    plaintext: bytes,
    statement: Statement,
    table: weights.Table,
    *,
    embedding: str,
    classes: Sequence[str],
) -> None:
    """Run steps 20 to 22 on an opened payload, one tensor in memory at a time.

    `embedding` names the tensor whose rows are the study's `classes`; a row of a class that the
    site did not declare must be zero in every bit, the sign's included, so that no hidden branch
    travels (A7).

    Raises:
        RefusalError: the first step that does not hold.
    """
    if part(plaintext, statement, ARCHITECTURE) != canonical.encode(statement.architecture):
        raise RefusalError(20, "architecture.json is not the signed architecture")
    data = part(plaintext, statement, WEIGHTS)
    with _step(21):
        weights.check_layout(data, table)
    undeclared = [row for row, label in enumerate(classes) if label not in statement.outputs]
    with _step(22):
        for name, array in weights.iterate(data, table):
            if name == embedding and array[undeclared].view(np.uint32).any():
                raise RefusalError(22, "the embedding row of an undeclared class is not zero")


def part(plaintext: bytes, statement: Statement, name: str) -> bytes:
    """Return one file of an opened payload."""
    entry = statement.file(name)
    return plaintext[entry.offset : entry.offset + entry.length]
