"""DSSE envelopes (secure-systems-lab/dsse v1.0.2), canonical: one payload, one signature.

Invariants:

- Envelope, payload and base64 are canonical, else refused: one signed thing has one byte string
  (but for the signature, so identity is the digest of the *payload*, never of the envelope).
- The key is chosen by the caller's policy; `keyid` only says which one to look for.
"""

from dataclasses import dataclass

from kit import canonical
from kit.errors import FormatError
from pki import keys

MAX_ENVELOPE_BYTES = 1 << 20
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A parsed envelope; nothing in it is trusted before `verify`."""

    payload: bytes
    payload_type: str
    keyid: str
    signature: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding that is signed (DSSE protocol, section 'PAE')."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, key: keys.SigningKey, *, keyid: str) -> bytes:
    """Return the canonical envelope of `payload` signed with Ed25519."""
    signature = key.sign(pae(payload_type, payload))
    return canonical.encode(
        {
            "payload": canonical.b64encode(payload),
            "payloadType": payload_type,
            "signatures": [{"keyid": keyid, "sig": canonical.b64encode(signature)}],
        }
    )


def parse(data: bytes, payload_type: str, *, limit: int = MAX_ENVELOPE_BYTES) -> Envelope:
    """Read an envelope of one expected type.

    Raises:
        FormatError: too long, not canonical, another type, or not exactly one signature.
    """
    table = canonical.fields(
        canonical.decode(data, limit=limit),
        {"payload", "payloadType", "signatures"},
        what="envelope",
    )
    if table["payloadType"] != payload_type:
        raise FormatError(f"envelope does not hold `{payload_type}`")
    signatures = table["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise FormatError("envelope does not carry exactly one signature")
    entry = canonical.fields(signatures[0], {"keyid", "sig"}, what="signature")
    signature = canonical.b64decode(entry["sig"])
    if len(signature) != _SIGNATURE_BYTES:
        raise FormatError(f"signature does not have {_SIGNATURE_BYTES} bytes")
    return Envelope(
        payload=canonical.b64decode(table["payload"]),
        payload_type=payload_type,
        keyid=canonical.sha256_hex(entry["keyid"], what="keyid"),
        signature=signature,
    )


def verify(envelope: Envelope, key: keys.VerifyingKey) -> bytes:
    """Return the payload after checking its signature.

    Raises:
        IdentityError: the signature does not fit the key.
    """
    message = pae(envelope.payload_type, envelope.payload)
    keys.verify(key, envelope.signature, message, what="the envelope")
    return envelope.payload


def open_with_key(data: bytes, payload_type: str, public: bytes) -> bytes:
    """Parse and verify with one pinned Ed25519 key (32 bytes); return the payload.

    Raises:
        FormatError: the envelope is off, or names another key.
        IdentityError: the signature does not fit.
    """
    envelope = parse(data, payload_type)
    if envelope.keyid != canonical.digest(public):
        raise FormatError("envelope is signed by another key than the pinned one")
    return verify(envelope, keys.verifying_key(public))
