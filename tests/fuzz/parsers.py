"""Every reader of foreign bytes in the kit, with good documents to begin from.

A reader takes bytes and returns; all that it may raise is a `KitError`. What is signed is read
behind a true signature, so that the parser is reached and not only the check before it.
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from coordinator import contact, messages
from edge_agent import messages as answers
from edge_agent import trust
from edge_agent.datasets import decode, npz
from federation import dsse, endorsement
from federation.auditlog.checkpoint import Checkpoint, Receipt, cosignatures
from federation.auditlog.events import Event, Kind, read_leaf
from federation.blueprint import envelope, weights
from federation.blueprint.approval import PAYLOAD_TYPE as APPROVAL_TYPE
from federation.blueprint.approval import SCHEME, Approval, Decision
from federation.blueprint.statement import PAYLOAD_TYPE, Statement
from federation.delegation import Delegation
from federation.endorsement import Endorsement
from federation.release import onnx_lint
from federation.release import statement as documents
from federation.release.site_metrics import SiteMetrics
from federation.release.synthetic import SyntheticSet
from federation.stick import index as stick
from federation.stick import medium
from federation.study import RecipientKey, Reviewer, Study
from kit import canonical
from pki import certificates, enrolment, kem, keys, verification
from protos import exchange_pb2 as pb
from tests.fakes import federation
from tests.fakes.federation import NOW
from tests.fakes.forge import TABLE, Forge

MIB = 1 << 20
DIGEST = canonical.digest(b"x")
_FORGE = Forge()
_WORLD = _FORGE.world
_IMAGE = _WORLD.study.image
_HUB = federation.MemoryCoordinator(_WORLD)
_KEY, _CONTEXT = bytes(range(32)), b"context"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One reader: `seeds` makes documents that it takes; `memory_bytes` bounds what it may add."""

    read: Callable[[bytes], Any]
    seeds: Callable[[], list[bytes]]
    memory_bytes: int = 64 * MIB


def _text(data: bytes) -> str:
    """Return what a protobuf string field could hold: UTF-8, whatever it says."""
    return data.decode("utf-8", "replace")


def _receipt() -> Receipt:
    entries = _HUB.entries(certificates.fingerprint(_WORLD.root.certificate))
    return Receipt.from_text(entries[0].receipt)


def _read_receipt(data: bytes) -> None:
    pins = _WORLD.pins
    Receipt.from_text(_text(data)).verify(_HUB.leaves[0], origin=pins.log_origin, key=pins.log_key)


def _read_checkpoint(data: bytes) -> None:
    Checkpoint.verify(_text(data), origin=_WORLD.pins.log_origin, key=_WORLD.pins.log_key)


def _cosigned() -> bytes:
    """Return a checkpoint that a witness cosigned."""
    pins, note = _WORLD.pins, _HUB.checkpoint()
    head = Checkpoint.verify(note, origin=pins.log_origin, key=pins.log_key)
    line = head.cosign(_WORLD.b.signing_key, name="witness", at=NOW)
    return head.sign(_WORLD.log_key, [line]).encode()


def _read_cosigned(data: bytes) -> None:
    cosignatures(_text(data), {"witness": keys.public_bytes(_WORLD.b.signing_key)})


def _read_chain(data: bytes) -> None:
    chain = certificates.from_pem(data)
    verification.verify_signing(chain, root=_WORLD.root.certificate, now=NOW)


def _approval() -> Approval:
    return Approval(
        blueprint=DIGEST,
        study=_WORLD.study.digest,
        decision=Decision.APPROVE,
        reason_commitment=DIGEST,
        time="2026-01-31T12:00:00Z",
        scheme=SCHEME,
        reviewer="reviewer-0",
    )


def _read_approval(data: bytes) -> None:
    """Read a record that a reviewer of the study truly signed, whatever it says."""
    key = _WORLD.reviewer_keys[0]
    signed = dsse.sign(data, APPROVAL_TYPE, key, keyid=canonical.digest(keys.public_bytes(key)))
    Approval.verify(signed, study=_WORLD.study, blueprint=DIGEST)


def _word() -> Endorsement:
    return Endorsement(
        federation=federation.NAME,
        site="a",
        reviewer="reviewer-0",
        public_key=DIGEST,
        time="2026-01-31T12:00:00Z",
        expires="2026-03-31T12:00:00Z",
    )


def _endorsed() -> Reviewer:
    return _word().sign(_WORLD.a.signing_key, _WORLD.a.signing_chain[0])


def _read_endorsed(data: bytes) -> None:
    _verify_endorsed(endorsement.from_file(data))


def _verify_endorsed(reviewer: Reviewer) -> None:
    certified, logged = _WORLD.a.keyid, federation.NOW
    Endorsement.verify(reviewer, federation=federation.NAME, certified=certified, logged=logged)


def _read_endorsement(data: bytes) -> None:
    """Read a word that a site truly signed, whatever it says."""
    signer, kind = _WORLD.a, endorsement.PAYLOAD_TYPE
    signed = documents.sign(data, kind, signer.signing_key, signer.signing_chain[0])
    reviewer = replace(_endorsed(), endorsement=canonical.b64encode(signed))
    _verify_endorsed(reviewer)


def _read_npz(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        path.write_bytes(data)
        npz.keys(path)
        npz.read(path, federation.CLASSES, split="train")


def _read_answer(data: bytes) -> None:
    """Read what a coordinator answers to a contact; gRPC refuses what is no message at all."""
    try:
        reply = pb.ContactReply.FromString(data)
    except DecodeError:
        return
    before = trust.Before(trust=None)
    trust.accept(answers.news(reply), pins=_WORLD.pins, site="a", before=before, now=NOW)


def _answer() -> Any:
    """Return the coordinator's message for what a site reads as one list: releases and bases."""
    news = _HUB.news()
    fields = {slot: getattr(news, slot) for slot in news.__slots__}
    return messages.contact_reply(contact.News(**fields, bases=news.releases[:1]))


def _stick() -> tuple[stick.Index, dict[str, bytes]]:
    parts = {
        stick.TOKEN_KEY: bytes(32),
        stick.TLS_REQUEST: certificates.request(keys.new_tls_key()),
        stick.SIGNING_REQUEST: certificates.request(_WORLD.a.signing_key),
        stick.WITNESS_KEY: bytes(32),
    }
    index = stick.Index(
        kind=stick.Kind.ENROLMENT_REQUEST,
        federation=federation.NAME,
        site="a",
        number=1,
        issued="2026-01-31T12:00:00Z",
        expires="2026-02-01T12:00:00Z",
        parts=medium.describe(parts),
    )
    return index, parts


def _stick_file() -> bytes:
    index, parts = _stick()
    key, keyid = _WORLD.a.signing_key, _WORLD.a.keyid
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.stick"
        medium.save(
            path,
            index,
            parts,
            sign=lambda data: dsse.sign(data, stick.PAYLOAD_TYPE, key, keyid=keyid),
        )
        return path.read_bytes()


def _read_stick(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.stick"
        path.write_bytes(data)
        with medium.opened(path) as found:
            for part in found.index.parts:
                found.read(part.name)


def _npz_seeds() -> list[bytes]:
    images = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
    labels = np.array([[0], [1], [0], [1]], dtype=np.uint8)
    made = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, train_images=images, train_labels=labels)
        made.append(stream.getvalue())
    return made


def _image_seeds() -> list[bytes]:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999)
    made = []
    for image, kind in (
        (grey, "PNG"),
        (deep, "PNG"),
        (grey.convert("P"), "PNG"),
        (grey.convert("RGB"), "JPEG"),
        (grey, "TIFF"),
        (deep, "TIFF"),
    ):
        stream = io.BytesIO()
        image.save(stream, kind)
        made.append(stream.getvalue())
    return made


def _onnx_seeds() -> list[bytes]:
    import torch

    from federation.learning.downstream.classifier import build_classifier, classifiers, initialise
    from federation.learning.downstream.export import export_onnx

    network = build_classifier(
        sorted(classifiers())[0], channels=1, height=8, width=8, num_classes=2
    )
    initialise(network, torch.Generator().manual_seed(0))
    model = export_onnx(
        network.eval(), channels=1, height=8, width=8, labels=("a", "b"), metadata={"study": "s"}
    )
    return [model]


_CONTRACT = onnx_lint.ModelContract(channels=1, height=8, width=8, labels=("a", "b"))
_DOCUMENTS: dict[str, tuple[Callable[[bytes], Any], Callable[[], bytes]]] = {
    "canonical JSON": (canonical.decode, lambda: _FORGE.payload),
    "DSSE envelope": (lambda d: dsse.parse(d, PAYLOAD_TYPE), lambda: _FORGE.honest.envelope),
    "statement": (Statement.from_bytes, lambda: _FORGE.payload),
    "weights": (lambda d: weights.read(d, TABLE), lambda: _FORGE.weights),
    "ciphertext": (
        lambda d: envelope.decrypt(d, _KEY, _CONTEXT),
        lambda: envelope.encrypt(bytes(20_000), _KEY, _CONTEXT),
    ),
    "wrapped key": (
        lambda d: kem.unwrap(d, _WORLD.recipient_seed, info=_CONTEXT),
        lambda: kem.wrap(_KEY, _WORLD.recipient, info=_CONTEXT),
    ),
    "recipient key bytes": (
        lambda d: kem.wrap(_KEY, d, info=_CONTEXT),
        lambda: _WORLD.recipient,
    ),
    "checkpoint": (_read_checkpoint, lambda: _HUB.checkpoint().encode()),
    "cosigned checkpoint": (_read_cosigned, _cosigned),
    "leaf of another version": (read_leaf, lambda: _HUB.leaves[0]),
    "receipt": (_read_receipt, lambda: _receipt().to_text().encode()),
    "log entry": (Event.from_leaf, lambda: _HUB.leaves[0]),
    "enrolment token": (enrolment.Token.from_bytes, lambda: _token().to_bytes()),
    "request for transport": (
        certificates.requested_tls_key,
        lambda: certificates.request(keys.new_tls_key()),
    ),
    "request for signing": (
        certificates.requested_signing_key,
        lambda: certificates.request(keys.new_signing_key()),
    ),
    "certificate chain": (_read_chain, lambda: certificates.pem(*_WORLD.a.signing_chain)),
    "study manifest": (Study.from_bytes, _WORLD.study.to_bytes),
    "manifest with endorsed reviewers": (
        Study.from_bytes,
        lambda: replace(_WORLD.study, quorum=1, reviewers=(_endorsed(),)).to_bytes(),
    ),
    "endorsed reviewer": (_read_endorsed, lambda: endorsement.to_file(_endorsed())),
    "endorsement": (_read_endorsement, lambda: _word().to_bytes()),
    "delegation": (
        Delegation.from_bytes,
        lambda: Delegation.of(_WORLD.study, bytes(32), now=NOW, days=30).to_bytes(),
    ),
    "recipient key": (
        RecipientKey.from_bytes,
        lambda: RecipientKey(
            study_digest=DIGEST, round=1, site="a", public=_WORLD.recipient
        ).to_bytes(),
    ),
    "approval": (
        _read_approval,
        lambda: dsse.parse(_approval().sign(_WORLD.reviewer_keys[0]), APPROVAL_TYPE).payload,
    ),
    "release statement": (
        documents.Release.from_bytes,
        lambda: federation.release(_WORLD, DIGEST).to_bytes(),
    ),
    "revocation list": (
        documents.Revocations.from_bytes,
        lambda: _HUB.revocations().to_bytes(),
    ),
    "withdrawal": (
        documents.Withdrawal.from_bytes,
        lambda: documents.Withdrawal(
            blueprint=DIGEST,
            study_digest=DIGEST,
            reason_commitment=DIGEST,
            time="2026-01-31T12:00:00Z",
        ).to_bytes(),
    ),
    "synthetic set": (
        lambda data: SyntheticSet.from_bytes(data, study=_WORLD.study, labels=("cat",)),
        lambda: SyntheticSet(
            study=_WORLD.study.digest,
            labels=("cat",),
            images=(np.zeros((2, _IMAGE.channels, _IMAGE.height, _IMAGE.width), dtype=np.uint8),),
        ).to_bytes(),
    ),
    "site metrics": (
        SiteMetrics.from_bytes,
        lambda: SiteMetrics(
            release=DIGEST,
            study_digest=DIGEST,
            images=400,
            accuracy_percent=90,
            balanced_accuracy_percent=None,
            time="2026-01-31T12:00:00Z",
            salt="c" * 64,
        ).to_bytes(),
    ),
    "answer to a contact": (
        _read_answer,
        lambda: _answer().SerializeToString(),
    ),
    "stick index": (stick.Index.from_bytes, _stick()[0].to_bytes),
    "stick file": (_read_stick, _stick_file),
    "state of trust": (
        trust.Trust.from_bytes,
        trust.accept(
            _HUB.news(), pins=_WORLD.pins, site="a", before=trust.Before(trust=None), now=NOW
        ).trust.to_bytes,
    ),
}


def _trust() -> trust.Trust:
    before = trust.Before(trust=None)
    return trust.accept(_HUB.news(), pins=_WORLD.pins, site="a", before=before, now=NOW).trust


def _token() -> enrolment.Token:
    return enrolment.Token(
        site="a",
        secret=b"s" * 32,
        enrol_address="hub.example:1",
        exchange_address="hub.example:2",
        expires=NOW,
        pins=_WORLD.pins,
        checkpoint=_HUB.checkpoint(),
    )


def _one(seed: Callable[[], bytes]) -> Callable[[], list[bytes]]:
    return lambda: [seed()]


for _number in range(6):  # a log that is long enough for a path
    _HUB.record(Kind.BLUEPRINT_RECEIVED, canonical.digest(bytes([_number])))
_HUB.set_state(DIGEST, "approved", Kind.BLUEPRINT_APPROVED)
_HUB.publish(DIGEST)

TARGETS: dict[str, Target] = {
    **{name: Target(read=read, seeds=_one(seed)) for name, (read, seed) in _DOCUMENTS.items()},
    "image": Target(read=decode.decode, seeds=_image_seeds, memory_bytes=1024 * MIB),
    "npz archive": Target(read=_read_npz, seeds=_npz_seeds, memory_bytes=256 * MIB),
    "ONNX model": Target(
        read=lambda d: onnx_lint.lint(d, contract=_CONTRACT),
        seeds=_onnx_seeds,
        memory_bytes=256 * MIB,
    ),
}
