"""C2SP tlog-cosignature, `cosignature/v1` with Ed25519."""

import base64
import hashlib
from datetime import UTC, datetime

import pytest

from federation.auditlog.checkpoint import (
    MAX_SIGNATURES,
    Checkpoint,
    Receipt,
    claimed_size,
    cosignatures,
)
from kit.errors import FormatError, KitError
from pki import keys
from pki.errors import IdentityError

ORIGIN = "riverside/log"
AT = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
LOG, A, B = (keys.new_signing_key() for _ in range(3))
LOG_PUBLIC, A_PUBLIC, B_PUBLIC = map(keys.public_bytes, (LOG, A, B))
HEAD = Checkpoint(origin=ORIGIN, size=7, root=bytes(range(32)))
A_NAME, B_NAME = f"{ORIGIN}/s-a", f"{ORIGIN}/s-b"
A_LINE, B_LINE = HEAD.cosign(A, name=A_NAME, at=AT), HEAD.cosign(B, name=B_NAME, at=AT)
KNOWN = {A_NAME: A_PUBLIC, B_NAME: B_PUBLIC}


def test_a_cosignature_is_the_one_that_the_specification_describes():
    body = f"{ORIGIN}\n7\n{base64.b64encode(HEAD.root).decode()}\n"
    mark, name, text = A_LINE.split(" ")
    raw = base64.b64decode(text)
    assert (mark, name, len(raw)) == ("\u2014", A_NAME, 4 + 8 + 64)
    assert raw[:4] == hashlib.sha256(A_NAME.encode() + b"\n\x04" + A_PUBLIC).digest()[:4]
    assert int.from_bytes(raw[4:12], "big") == int(AT.timestamp())
    message = f"cosignature/v1\ntime {int(AT.timestamp())}\n{body}"
    A.public_key().verify(raw[12:], message.encode())


def test_a_note_with_cosignatures_is_still_the_log_s_own():
    text = HEAD.sign(LOG, [A_LINE, B_LINE])
    assert Checkpoint.verify(text, origin=ORIGIN, key=LOG_PUBLIC) == HEAD
    assert cosignatures(text, KNOWN) == {A_NAME: AT, B_NAME: AT}
    assert claimed_size(text) == 7


def test_only_known_witnesses_count():
    text = HEAD.sign(LOG, [A_LINE, B_LINE])
    assert cosignatures(text, {A_NAME: A_PUBLIC}) == {A_NAME: AT}
    assert cosignatures(text, {A_NAME: B_PUBLIC}) == {}
    assert cosignatures(HEAD.sign(LOG), KNOWN) == {}


def test_a_cosignature_of_another_tree_or_time_is_refused():
    for other in (
        Checkpoint(origin=ORIGIN, size=8, root=HEAD.root),
        Checkpoint(origin=ORIGIN, size=7, root=bytes(32)),
        Checkpoint(origin="upstream/log", size=7, root=HEAD.root),
    ):
        with pytest.raises(IdentityError):
            cosignatures(other.sign(LOG, [A_LINE]), KNOWN)
        with pytest.raises(IdentityError):
            other.check_cosignature(A_LINE, name=A_NAME, key=A_PUBLIC)
    assert HEAD.check_cosignature(A_LINE, name=A_NAME, key=A_PUBLIC) == AT
    raw = bytearray(base64.b64decode(A_LINE.split(" ")[2]))
    raw[11] ^= 1
    later = f"\u2014 {A_NAME} {base64.b64encode(raw).decode()}"
    with pytest.raises(IdentityError):
        HEAD.check_cosignature(later, name=A_NAME, key=A_PUBLIC)


def test_the_log_s_own_signature_is_no_cosignature():
    own = HEAD.sign(LOG).split("\n")[-2]
    with pytest.raises(FormatError):
        HEAD.check_cosignature(own, name=ORIGIN, key=LOG_PUBLIC)
    with pytest.raises(FormatError):
        Checkpoint.verify(HEAD.sign(LOG).replace(own, A_LINE), origin=ORIGIN, key=LOG_PUBLIC)


FAULTS = {
    "the same twice": [A_LINE, A_LINE],
    "no mark": [A_LINE[2:]],
    "no name": [A_LINE.replace(A_NAME, "")],
    "a blank in the name": [A_LINE.replace(A_NAME, "a b")],
    "no base64": [A_LINE[:-4] + "!!!!"],
    "an empty line": ["", A_LINE],
    "too many": [HEAD.cosign(A, name=f"w{i}", at=AT) for i in range(MAX_SIGNATURES)],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_note_with_one_faulty_line_is_refused(fault):
    assert Checkpoint.verify(HEAD.sign(LOG, [A_LINE]), origin=ORIGIN, key=LOG_PUBLIC) == HEAD
    with pytest.raises(KitError):
        Checkpoint.verify(HEAD.sign(LOG, FAULTS[fault]), origin=ORIGIN, key=LOG_PUBLIC)


def test_a_receipt_carries_its_cosignatures():
    made = Receipt(index=3, path=(), checkpoint=HEAD.sign(LOG, [A_LINE]))
    assert cosignatures(Receipt.from_text(made.to_text()).checkpoint, KNOWN) == {A_NAME: AT}
