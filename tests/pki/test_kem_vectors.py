"""Our key wrapping against others' vectors: HPKE's for X-Wing, Wycheproof's for its halves.

The HPKE vectors of X-Wing are of another AEAD than our suite's. What they fix is the encapsulation
and its shared secret; the key schedule of RFC 9180 section 5.1 stands here a second time, by hand,
and what it seals must open through `kem.unwrap`.
"""

import hashlib
import hmac
import json
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pki import kem
from pki.errors import IdentityError

WYCHEPROOF = Path(__file__).parents[3] / "shared" / "vectors" / "wycheproof"
SUITE_ID = b"HPKE" + bytes.fromhex("647a") + bytes.fromhex("0001") + bytes.fromhex("0002")
CONTENT_KEY = bytes(range(32))


def xwing():
    if find_spec("cryptography_vectors") is None:
        return []
    file = resources.files("cryptography_vectors") / "HPKE" / "hpke-pq-test-vectors.json"
    return [case for case in json.loads(file.read_text()) if case["kem_id"] == 0x647A]


def wycheproof(name):
    path = WYCHEPROOF / f"{name}.json"
    if not path.is_file():
        return []
    return [test for group in json.loads(path.read_text())["testGroups"] for test in group["tests"]]


XWING, X25519, MLKEM = xwing(), wycheproof("x25519"), wycheproof("mlkem_768")
PUBLIC = kem.public_key(bytes(32))
LATTICE, CURVE = PUBLIC[:1184], PUBLIC[1184:]


def extract(salt, label, material):
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + SUITE_ID + label + material, "sha256")


def expand(key, label, info, length):
    message = length.to_bytes(2, "big") + b"HPKE-v1" + SUITE_ID + label + info
    return hmac.digest(key, message + b"\x01", "sha256")[:length]  # one block of HKDF is enough


def sealed_by_hand(shared_secret, info):
    """RFC 9180 sections 5.1 and 5.2, mode base, HKDF-SHA256 and AES-256-GCM, first message."""
    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared_secret, b"secret", b"")
    key, nonce = expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)
    return AESGCM(key).encrypt(nonce, CONTENT_KEY, b"")


@pytest.mark.vectors
@pytest.mark.skipif(not XWING, reason="the HPKE vectors (cryptography-vectors) are not installed")
def test_what_the_hpke_vectors_encapsulate_opens_under_their_seeds():
    assert len(XWING) == 2
    for case in XWING:
        assert kem.public_key(bytes.fromhex(case["skRm"])).hex() == case["pkRm"]
        seed, info = bytes.fromhex(case["skRm"]), bytes.fromhex(case["info"])
        sealed = sealed_by_hand(bytes.fromhex(case["shared_secret"]), info)
        wrapped = bytes.fromhex(case["enc"]) + sealed
        assert len(wrapped) == kem.WRAPPED_BYTES
        assert kem.unwrap(wrapped, seed, info=info) == CONTENT_KEY
        other = sealed_by_hand(hashlib.sha256(b"another secret").digest(), info)
        with pytest.raises(IdentityError):
            kem.unwrap(bytes.fromhex(case["enc"]) + other, seed, info=info)


@pytest.mark.skipif(not X25519, reason="Wycheproof's X25519 vectors are not beside the repository")
def test_a_recipient_key_of_low_order_is_refused_and_every_other_is_taken():
    refused = 0
    for case in X25519:
        public = LATTICE + bytes.fromhex(case["public"])
        if "ZeroSharedSecret" in case["flags"]:
            with pytest.raises(IdentityError):
                kem.wrap(CONTENT_KEY, public, info=b"")
            refused += 1
        else:
            assert len(kem.wrap(CONTENT_KEY, public, info=b"")) == kem.WRAPPED_BYTES
    assert (refused, len(X25519)) == (31, 518)


@pytest.mark.skipif(not MLKEM, reason="Wycheproof's ML-KEM vectors are not beside the repository")
def test_the_encapsulation_keys_of_wycheproof_are_taken():
    found = [bytes.fromhex(case["ek"]) for case in MLKEM if case["result"] == "valid"]
    for lattice in found:
        assert len(kem.wrap(CONTENT_KEY, lattice + CURVE, info=b"")) == kem.WRAPPED_BYTES
        with pytest.raises(IdentityError):
            kem.wrap(CONTENT_KEY, b"\xff\xff" + lattice[2:] + CURVE, info=b"")
    assert len(found) == 153
