"""Steps 1, 2 and 4: the envelope and its signature."""

import json
from collections.abc import Callable
from dataclasses import replace

from federation import dsse
from federation.blueprint import limits
from federation.blueprint.approval import PAYLOAD_TYPE as APPROVAL_TYPE
from federation.blueprint.statement import PAYLOAD_TYPE
from kit import canonical
from pki import keys
from tests.fakes.forge import Case, Forge
from tests.vectors.catalogue.changes import byte_faults
from tests.vectors.hostile import Vector

# The order of Ed25519's group (RFC 8032 section 5.1): S + L is the same point as S.
_L = 2**252 + 27742317777372353535851937790883648493
PICKLE = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."  # os.system("true")


def _over(unit: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data + unit * (limits.MAX_ENVELOPE_BYTES + 1 - len(data))


STEP_1 = {
    "one byte over the limit": lambda data: bytes(limits.MAX_ENVELOPE_BYTES + 1),
    "blanks after the envelope up to the limit and one more": _over(b" "),
    "lists within lists without end": lambda data: b"[" * (limits.MAX_ENVELOPE_BYTES + 1),
    "a megabyte of digits": lambda data: b"9" * (1 << 20),
}


def _table(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    """Return a fault that changes the envelope's JSON and keeps it canonical."""

    def alter(data: bytes) -> bytes:
        table = json.loads(data)
        change(table)
        return canonical.encode(table)

    return alter


def _text(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def alter(data: bytes) -> bytes:
        assert data.count(old) == 1, old
        return data.replace(old, new)

    return alter


def _spare_bits(table: dict) -> None:
    # A signature of 64 bytes ends in `==`, with four bits that decoding throws away.
    sig = table["signatures"][0]["sig"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    table["signatures"][0]["sig"] = sig[:-3] + alphabet[alphabet.index(sig[-3]) + 1] + "=="


def _signature(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    return _table(lambda table: change(table["signatures"][0]))


STEP_2 = {
    "no bytes": lambda data: b"",
    "the last byte cut off": lambda data: data[:-1],
    "the first byte cut off": lambda data: data[1:],
    "a line end after it": lambda data: data + b"\n",
    "a zero byte after it": lambda data: data + b"\0",
    "a second envelope after it": lambda data: data + data,
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "another encoding of the text": lambda data: data.decode().encode("utf-16"),
    "a blank after a colon": _text(b'"payload":', b'"payload": '),
    "an escape for a letter": _text(b'"payloadType"', b'"payload\\u0054ype"'),
    "keys in another order": lambda data: json.dumps(
        dict(reversed(json.loads(data).items())), separators=(",", ":")
    ).encode(),
    "a key twice": _text(b'"payloadType":', b'"payloadType":"x","payloadType":'),
    "a number with a fraction": _text(b'"signatures":', b'"number":1.5,"signatures":'),
    "not a number": _text(b'"signatures":', b'"number":NaN,"signatures":'),
    "an unknown field": _table(lambda t: t.update(extra=1)),
    "no payload": _table(lambda t: t.pop("payload")),
    "a payload that is no text": _table(lambda t: t.update(payload=7)),
    "another payload type": _table(lambda t: t.update(payloadType="application/json")),
    "the payload type of an approval": _table(lambda t: t.update(payloadType=APPROVAL_TYPE)),
    "no signature": _table(lambda t: t.update(signatures=[])),
    "signatures that are null": _table(lambda t: t.update(signatures=None)),
    "one signature outside a list": _table(lambda t: t.update(signatures=t["signatures"][0])),
    "the signature twice": _table(lambda t: t.update(signatures=t["signatures"] * 2)),
    "an empty signature": _signature(lambda s: s.update(sig="")),
    "a signature of 63 bytes": _signature(lambda s: s.update(sig=canonical.b64encode(bytes(63)))),
    "a signature of 65 bytes": _signature(lambda s: s.update(sig=canonical.b64encode(bytes(65)))),
    "spare bits in base64": _table(_spare_bits),
    "base64 without padding": _signature(lambda s: s.update(sig=s["sig"].rstrip("="))),
    "a line break in base64": _signature(
        lambda s: s.update(sig=s["sig"][:40] + "\n" + s["sig"][40:])
    ),
    "base64 for addresses of pages": _signature(lambda s: s.update(sig="-_" + s["sig"][2:])),
    "a key id in capitals": _signature(lambda s: s.update(keyid=s["keyid"].upper())),
    "a key id that is empty": _signature(lambda s: s.update(keyid="")),
    "no key id": _signature(lambda s: s.pop("keyid")),
    "a certificate beside the signature": _signature(lambda s: s.update(cert="x")),
    "lists as deep as the limit allows bytes": lambda data: b"[" * limits.MAX_ENVELOPE_BYTES,
    "a pickle": lambda data: PICKLE,
    "a zip archive": lambda data: b"PK\x05\x06" + bytes(18),
}


def _payload(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(table: dict) -> None:
        payload = canonical.b64decode(table["payload"])
        assert payload.count(old) == 1
        table["payload"] = canonical.b64encode(payload.replace(old, new))

    return _table(change)


def _raw_signature(alter: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return _signature(
        lambda s: s.update(sig=canonical.b64encode(alter(canonical.b64decode(s["sig"]))))
    )


def _plus_the_order(signature: bytes) -> bytes:
    number = int.from_bytes(signature[32:], "little") + _L
    return signature[:32] + number.to_bytes(32, "little")


STEP_4 = {
    "one bit of R": _raw_signature(lambda sig: bytes([sig[0] ^ 1]) + sig[1:]),
    "one bit of S": _raw_signature(lambda sig: sig[:32] + bytes([sig[32] ^ 1]) + sig[33:]),
    "the same point with S over the order": _raw_signature(_plus_the_order),
    "a signature of zeros": _raw_signature(lambda sig: bytes(64)),
    "the neutral point and zero": _raw_signature(lambda sig: b"\1" + bytes(63)),
    "an epsilon changed after signing": _payload(b'"steps":50', b'"steps":51'),
    "a gate changed after signing": _payload(b'"passed":true', b'"passed":false'),
    "a blank added after signing": _payload(b'"seq":7', b'"seq":7 '),
}


def _by(sign: Callable[[Forge], bytes]) -> Callable[[Forge], Case]:
    """Return a maker that puts another signature (64 bytes) over the honest statement."""

    def make(forge: Forge) -> Case:
        table = json.loads(forge.honest.envelope)
        table["signatures"][0]["sig"] = canonical.b64encode(sign(forge))
        return replace(forge.honest, envelope=canonical.encode(table))

    return make


def _stranger(forge: Forge) -> bytes:
    return keys.new_signing_key().sign(dsse.pae(PAYLOAD_TYPE, forge.payload))


def _other_site(forge: Forge) -> bytes:
    return forge.world.b.signing_key.sign(dsse.pae(PAYLOAD_TYPE, forge.payload))


def _own(message: Callable[[Forge], bytes]) -> Callable[[Forge], bytes]:
    return lambda forge: forge.world.a.signing_key.sign(message(forge))


SIGNERS = {
    "signed by a stranger": _by(_stranger),
    "signed by another site of the federation": _by(_other_site),
    "a signature over the payload without its type": _by(_own(lambda f: f.payload)),
    "a signature made for an approval": _by(_own(lambda f: dsse.pae(APPROVAL_TYPE, f.payload))),
    "a signature over another payload": _by(_own(lambda f: dsse.pae(PAYLOAD_TYPE, b"{}"))),
}

PEERS = {
    "no signature": "NVFlare PR 4422: an unsigned token was accepted",
    "an empty signature": "NVFlare PR 4422: an empty login nonce was accepted",
    "a pickle": "CVE-2022-34668, CVE-2023-23930, CVE-2026-5536: a message was unpickled",
    "a zip archive": "CVE-2026-21851: an archive of a stranger was unpacked",
    "lists within lists without end": "CVE-2025-23310: nesting overflowed a stack",
    "a megabyte of digits": "CVE-2022-21822: work without bound before authentication",
    "a gate changed after signing": "NVFlare PR 4422: what followed a failed check ran on",
}


def catalogue() -> list[Vector]:
    """Return the vectors of steps 1, 2 and 4."""
    made = [
        Vector(step=4, fault=fault, family="altered bytes", make=make)
        for fault, make in SIGNERS.items()
    ]
    return [
        Vector(step=0, fault="altered bytes", family="altered bytes", make=lambda f: f.honest),
        *byte_faults(1, "envelope", STEP_1, peers=PEERS),
        *byte_faults(2, "envelope", STEP_2, peers=PEERS),
        *byte_faults(4, "envelope", STEP_4, peers=PEERS),
        *made,
    ]
