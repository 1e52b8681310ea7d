"""Our decryption against Wycheproof's vectors of C2SP chunked encryption (Cobblestone-256)."""

import hashlib
import json
import zlib
from pathlib import Path

import pytest

from federation.blueprint import envelope
from federation.blueprint.errors import RefusalError

FOLDER = Path(__file__).parents[3] / "shared" / "vectors" / "wycheproof"
FILE = FOLDER / "c2sp_chunked_encryption_aes_256_gcm.json"


def cases():
    if not FILE.is_file():
        return []
    groups = json.loads(FILE.read_text())["testGroups"]
    return [test for group in groups for test in group["tests"]]


CASES = cases()


@pytest.mark.skipif(not CASES, reason="Wycheproof's vectors are not beside the repository")
@pytest.mark.parametrize("case", CASES, ids=[str(case["tcId"]) for case in CASES])
def test_decryption_agrees_with_wycheproof(case):
    ciphertext = zlib.decompress(bytes.fromhex(case["ct"]))
    key, context = bytes.fromhex(case["key"]), bytes.fromhex(case["ctx"])
    if case["result"] == "valid":
        plaintext = envelope.decrypt(ciphertext, key, context)
        assert len(plaintext) == case["msgLength"]
        assert hashlib.sha512(plaintext).hexdigest() == case["msgSha512"]
    else:
        with pytest.raises(RefusalError) as caught:
            envelope.decrypt(ciphertext, key, context)
        assert caught.value.step == 18


def test_all_of_the_vectors_were_there_or_none():
    assert len(CASES) in (0, 35)
