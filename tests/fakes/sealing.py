"""Blueprints sealed by hand: what `submit` would send, with any claim changed."""

import dataclasses
import time
from itertools import count

from coordinator import submissions
from edge_agent import submission
from federation.blueprint.envelope import Claims, seal
from federation.blueprint.statement import SUITE, VERSION, Context
from kit import clock
from pki import certificates, kem, keys
from tests.fakes.site import STUDY

_SEQUENCE = count(int(time.time()) + 1000)


def sealed(home, *, run=STUDY, signer=None, weights=None, **changes):
    """Seal a run of `home`; `changes` go into the context, `weights` replace the run's bytes."""
    item = submission.outgoing(home, run)
    recipient = submission.recipient_key(home, item.study, clock.utc_now())
    signer = signer or home
    context = Context(
        version=VERSION,
        suite=SUITE,
        sender=signer.identity.uri,
        sender_cert=certificates.fingerprint(submission.signing_chain(signer)[0]),
        recipient=home.coordinator.uri,
        kid=kem.key_id(recipient.public),
        study_digest=item.study.digest,
        round=item.study.round,
        base=None,
        seq=next(_SEQUENCE),
        id="b-0",
    )
    return seal(
        weights or item.weights.read_bytes(),
        item.architecture,
        dataclasses.replace(context, **changes),
        Claims(outputs=item.outputs, privacy=item.privacy, gate=item.gate, issued=clock.utc_now()),
        recipient=recipient.public,
        key=keys.load_signing(signer.key("signing.key")),
    )


def begin_fields(home, blueprint):
    """The arguments of `begin` for a sealed blueprint."""
    return {
        "study_digest": blueprint.statement.context.study_digest,
        "envelope": blueprint.envelope,
        "signing_chain": home.signing_chain.read_bytes(),
        "wrapped_key": blueprint.wrapped_key,
    }


def append(coordinator, name, digest, offset, data):
    """Add bytes to an upload that has begun, as one short call would."""
    with submissions.uploading(coordinator, name, digest) as upload:
        upload.append(offset, data)
