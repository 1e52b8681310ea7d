import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kit.errors import KitError
from pki import keys
from pki.errors import IdentityError

WYCHEPROOF = Path(__file__).parents[3] / "shared" / "vectors" / "wycheproof"


def test_a_key_file_is_its_owners_alone_and_reads_back(tmp_path):
    for make, load in (
        (keys.new_tls_key, keys.load_tls),
        (keys.new_signing_key, keys.load_signing),
    ):
        path, key = tmp_path / make.__name__, make()
        keys.save(path, key)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert keys.pem(load(path)) == keys.pem(key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610, 0o601, 0o777])
def test_a_key_that_others_can_reach_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    keys.save(path, keys.new_signing_key())
    keys.load_signing(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match="read by others") as caught:
        keys.load_signing(path)
    assert "chmod 600" in caught.value.hint


def test_each_kind_of_key_file_holds_its_kind_of_key(tmp_path):
    tls, signing = tmp_path / "tls", tmp_path / "signing"
    keys.save(tls, keys.new_tls_key())
    keys.save(signing, keys.new_signing_key())
    keys.load_tls(tls)
    keys.load_signing(signing)
    with pytest.raises(IdentityError):
        keys.load_tls(signing)
    with pytest.raises(IdentityError):
        keys.load_signing(tls)
    for other in (
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ):
        path = tmp_path / "other"
        keys.save(path, other)
        with pytest.raises(IdentityError):
            keys.load_tls(path)


def test_bytes_that_are_no_key_are_refused(tmp_path):
    encrypted = keys.new_signing_key().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )
    path = tmp_path / "key"
    for data in (b"", b"text", keys.pem(keys.new_signing_key())[:60], encrypted):
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(IdentityError, match="not a private key"):
            keys.load_signing(path)
    path.write_bytes(bytes(keys.MAX_KEY_BYTES + 1))
    with pytest.raises(KitError, match="is over"):
        keys.load_signing(path)


def test_a_signature_fits_its_message_and_key_only():
    key, other = keys.new_signing_key(), keys.new_signing_key()
    signature = key.sign(b"message")
    keys.verify(key.public_key(), signature, b"message", what="it")
    for wrong in (
        (other.public_key(), signature, b"message"),
        (key.public_key(), signature, b"Message"),
        (key.public_key(), signature[:-1], b"message"),
        (key.public_key(), signature + b"\0", b"message"),
        (key.public_key(), b"", b"message"),
        (key.public_key(), bytes(64), b"message"),
    ):
        with pytest.raises(IdentityError, match="signature of it"):
            keys.verify(*wrong, what="it")


def test_a_public_key_reads_back_from_its_32_bytes():
    key = keys.new_signing_key()
    raw = keys.public_bytes(key)
    assert keys.public_bytes(keys.verifying_key(raw)) == raw == keys.public_bytes(key.public_key())
    for wrong in (raw[:-1], raw + b"\0", b""):
        with pytest.raises(IdentityError):
            keys.verifying_key(wrong)


def ed25519_cases():
    path = WYCHEPROOF / "ed25519.json"
    if not path.is_file():
        return []
    groups = json.loads(path.read_text())["testGroups"]
    return [(group["publicKey"]["pk"], test) for group in groups for test in group["tests"]]


CASES = ed25519_cases()


@pytest.mark.skipif(not CASES, reason="Wycheproof's Ed25519 vectors are not beside the repository")
@pytest.mark.parametrize(("public", "case"), CASES, ids=[f"{case['tcId']}" for _, case in CASES])
def test_signatures_agree_with_wycheproof(public, case):
    key = keys.verifying_key(bytes.fromhex(public))
    signature, message = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
    if case["result"] == "valid":
        keys.verify(key, signature, message, what="it")
    else:
        with pytest.raises(IdentityError):
            keys.verify(key, signature, message, what="it")
