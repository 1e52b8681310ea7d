"""The seed tree: HKDF-SHA256 (RFC 5869) from a study secret to every public random choice.

It covers the coordinator's work only. DP noise and Poisson draws never come from here (A9).
"""

import hashlib
import hmac

_HASH_BYTES = 32


def hkdf(secret: bytes, info: bytes, *, length: int = 32, salt: bytes = b"") -> bytes:
    """Return `length` bytes of HKDF-SHA256 (RFC 5869, extract then expand).

    Raises:
        RuntimeError: `length` is over 255 blocks.
    """
    if not 0 < length <= 255 * _HASH_BYTES:
        raise RuntimeError("HKDF length out of range")
    key = hmac.digest(salt or bytes(_HASH_BYTES), secret, hashlib.sha256)
    output, block = b"", b""
    for counter in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), hashlib.sha256)
        output += block
    return output[:length]


def derive(secret: bytes, *labels: str | bytes) -> bytes:
    """Return 32 bytes for a path of length-prefixed labels, so that paths never collide."""
    info = b""
    for label in labels:
        data = label.encode() if isinstance(label, str) else label
        info += len(data).to_bytes(4, "big") + data
    return hkdf(secret, info)


def seed(secret: bytes, *labels: str | bytes) -> int:
    """Return a 63-bit seed (what `torch.Generator.manual_seed` takes) for a path of labels."""
    return int.from_bytes(derive(secret, *labels)[:8], "big") >> 1
