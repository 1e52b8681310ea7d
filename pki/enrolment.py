"""Enrolment: a token file that pins the federation, a request that proves keys, a spoken code.

The token carries a 256-bit secret once; the coordinator stores its hash only. Over TLS the site
shows the secret; in a file it signs with a key made from it, and the secret stays. The certificate
stays pending until the coordinator's operator types the code that the site reads out (A13): the
code is a hash of the keys, so a thief's request shows another one.
"""

import base64
import hashlib
import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from kit import canonical, clock
from kit.errors import FormatError
from pki import keys

VERSION = 1
TOKEN_LIFETIME = timedelta(hours=24)
# A stick in the post: the request has to arrive while the token lives. No longer than that, for a
# copy that somebody finds is a way in until then, with a person on the telephone as the last door.
MAX_TOKEN_LIFETIME = timedelta(days=30)
SECRET_BYTES = 32
MAX_TOKEN_BYTES = 16 * 1024
_CODE_CHARACTERS = 8  # 40 bits: a thief has one try, in front of a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What a site trusts from its first minute on; everything else follows from these."""

    federation: str
    root_der: bytes
    study_key: bytes
    log_origin: str
    log_key: bytes

    def to_table(self) -> dict[str, str]:
        """Return the JSON form."""
        return {
            "federation": self.federation,
            "root": canonical.b64encode(self.root_der),
            "study_key": canonical.b64encode(self.study_key),
            "log_origin": self.log_origin,
            "log_key": canonical.b64encode(self.log_key),
        }

    @classmethod
    def from_table(cls, value: object) -> Self:
        """Read the JSON form.

        Raises:
            FormatError: a field is missing or off.
        """
        names = {"federation", "root", "study_key", "log_origin", "log_key"}
        table = canonical.fields(value, names, what="pins")
        return cls(
            federation=canonical.name(table["federation"], what="federation"),
            root_der=canonical.b64decode(table["root"]),
            study_key=_key(table["study_key"]),
            log_origin=canonical.label(table["log_origin"], what="log origin"),
            log_key=_key(table["log_key"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One invitation for one site: addresses, pins and a secret; sensitive.

    `checkpoint` is the audit log's at the time of the invitation (a signed note): whatever log the
    site is shown later must contain that one.
    """

    site: str
    secret: bytes
    enrol_address: str
    exchange_address: str
    expires: datetime
    pins: Pins
    checkpoint: str

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of the token file."""
        return canonical.encode(
            {
                "version": VERSION,
                "site": self.site,
                "secret": canonical.b64encode(self.secret),
                "enrol_address": self.enrol_address,
                "exchange_address": self.exchange_address,
                "expires": clock.rfc3339(self.expires),
                "pins": self.pins.to_table(),
                "checkpoint": self.checkpoint,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a token file.

        Raises:
            FormatError: the bytes are not a token.
        """
        names = {
            "version",
            "site",
            "secret",
            "enrol_address",
            "exchange_address",
            "expires",
            "pins",
            "checkpoint",
        }
        table = canonical.fields(
            canonical.decode(data, limit=MAX_TOKEN_BYTES), names, what="enrolment token"
        )
        canonical.version(table["version"], expected=VERSION, what="enrolment token")
        if not isinstance(table["checkpoint"], str):
            raise FormatError("enrolment token has no checkpoint")
        return cls(
            site=canonical.name(table["site"], what="site id"),
            secret=canonical.b64decode(table["secret"]),
            enrol_address=address(table["enrol_address"]),
            exchange_address=address(table["exchange_address"]),
            expires=clock.parse_rfc3339(table["expires"], what="expires"),
            pins=Pins.from_table(table["pins"]),
            checkpoint=table["checkpoint"],
        )


def new_secret() -> bytes:
    """Return a fresh token secret; sensitive."""
    return os.urandom(SECRET_BYTES)


def token_key(secret: bytes) -> keys.SigningKey:
    """Return the key that signs a request which travels without a channel; sensitive.

    It proves the secret to whoever knows its hash, and shows it to nobody on the way.
    """
    seed = hashlib.sha256(b"enrolment token key v1" + secret).digest()
    return keys.SigningKey.from_private_bytes(seed)


def token_hash(public: bytes) -> str:
    """Return what the coordinator stores of a token, from the public half of its key."""
    return hashlib.sha256(b"enrolment token v2" + public).hexdigest()


def secret_hash(secret: bytes) -> str:
    """Return what the coordinator stores of a token, from its secret."""
    return token_hash(keys.public_bytes(token_key(secret)))


def confirmation_code(*requests: bytes) -> str:
    """Return the code that both people compare, e.g. `K7QF-2MDA`: a hash of the requests."""
    state = hashlib.sha256(b"enrolment code v1")
    for request in requests:
        state.update(hashlib.sha256(request).digest())
    text = base64.b32encode(state.digest()).decode()[:_CODE_CHARACTERS]
    return f"{text[:4]}-{text[4:]}"


def request_digest(tls_request: bytes, signing_request: bytes, witness_key: bytes) -> str:
    """Return the digest that stands for an enrolment request in the log."""
    return canonical.digest(tls_request + signing_request + witness_key)


def address(text: object) -> str:
    """Return `host:port` if it is one.

    Raises:
        FormatError: it is not.
    """
    host, _, port = str(text).rpartition(":")
    plain = (
        host.replace("[", "").replace("]", "").replace(":", "").replace("-", "").replace(".", "")
    )
    if not isinstance(text, str) or not plain.isalnum() or not plain.isascii():
        raise FormatError(f"address `{canonical.printable(text)}` is not `host:port`")
    if not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise FormatError(f"address `{canonical.printable(text)}` has no port from 1 to 65535")
    return text


def _key(text: object) -> bytes:
    raw = canonical.b64decode(text)
    if len(raw) != 32:
        raise FormatError("a pinned key has 32 bytes")
    return raw
