"""Passphrases without a person, and eyes for keys that lie in clear on a disk."""

import base64
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization

from pki import protection

WORDS = "correct horse battery"
OTHER = "staple in another stable"
CHEAP = protection.Cost(memory_kib=64, iterations=1, lanes=1)  # what is tested is not the cost


@dataclass
class Words:
    """A source that offers these passphrases and counts how often it was asked."""

    words: tuple[str, ...] = (WORDS,)
    asked: int = 0

    def candidates(self, _what):
        self.asked += 1
        yield from self.words

    def hint(self):
        return "say the words"


def traces(key):
    """Return what of a private key must not lie in clear anywhere, in the forms files use."""
    if isinstance(key, bytes):
        raw = [key]
    else:
        whole = key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        number = getattr(key, "private_numbers", None)
        secret = number().private_value.to_bytes(32, "big") if number else key.private_bytes_raw()
        raw = [whole, secret]
    text = [base64.b64encode(data) for data in raw]
    lines = [base64.encodebytes(data).replace(b"\n", b"")[:60] for data in raw]
    return [*raw, *text, *lines, *(data.hex().encode() for data in raw)]


def files_with_clear_keys(folder, *keys):
    """Return the files below `folder` that hold one of the keys, or any PEM key, in clear."""
    marks = [b"PRIVATE KEY-----", *(mark for key in keys for mark in traces(key))]
    found = set()
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        flat = data.replace(b"\n", b"")
        if any(mark in data or mark in flat for mark in marks):
            found.add(str(path.relative_to(folder)))
    return found
