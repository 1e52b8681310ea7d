"""The names of sites in the log: salted commitments that members can check and outsiders cannot.

The salt is the federation's and the log holds its digest, so the coordinator cannot give two sites
two salts, nor a site a second pseudonym that the site would not look for (A1). Members know the
salt and can recognise one another's entries; whoever holds the log alone cannot.
"""

import hashlib
import hmac

SALT_BYTES = 32
_CHARACTERS = 16  # 64 bits: no two sites of a federation meet by chance


def pseudonym(salt: bytes, uri: str) -> str:
    """Return a site's name in the log, a function of its identity's URI."""
    message = b"site pseudonym v1" + uri.encode()
    return f"s-{hmac.digest(salt, message, hashlib.sha256).hex()[:_CHARACTERS]}"
