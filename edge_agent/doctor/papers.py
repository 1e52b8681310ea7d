"""This site's own papers: enrolment, keys, certificates, and the clock they are read by."""

from datetime import datetime, timedelta

from cryptography import x509

from edge_agent import contact
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from kit import clock
from kit.errors import KitError
from kit.files import read_limited
from pki import certificates, keys
from pki.enrolment import Token

MAX_SKEW = timedelta(minutes=2)
_MAX_PEM_BYTES = 64 << 10
_AGAIN = (
    "the coordinator runs `sites revoke` and `token`; then `edge-agent enroll --token NEW` in this"
    " very home"
)


def chain(home: Home, *, signing: bool = False) -> tuple[x509.Certificate, ...]:
    """Return one of this site's chains, leaf first."""
    path = home.signing_chain if signing else home.tls_chain
    return certificates.from_pem(read_limited(path, limit=_MAX_PEM_BYTES, what="certificate"))


def invitation(token: Token, *, now: datetime) -> str:
    """Look whether an enrolment token is still good."""
    if now > token.expires:
        raise KitError(
            f"the token expired on {clock.rfc3339(token.expires)}; it is {clock.rfc3339(now)} here",
            hint="set the clock if that is wrong; else ask the coordinator for a new token",
        )
    return f"for site `{token.site}`, good until {clock.rfc3339(token.expires)}"


def own_certificates(home: Home, *, now: datetime) -> str:
    """Look whether this site's certificates hold today."""
    ends = []
    for what, signing in (("TLS", False), ("signing", True)):
        leaf = chain(home, signing=signing)[0]
        if now < leaf.not_valid_before_utc:
            raise KitError(
                f"this site's {what} certificate holds from"
                f" {clock.rfc3339(leaf.not_valid_before_utc)}; it is {clock.rfc3339(now)} here",
                hint="this machine's clock is behind: set it by NTP",
            )
        if now > leaf.not_valid_after_utc:
            raise KitError(
                f"this site's {what} certificate expired on"
                f" {clock.rfc3339(leaf.not_valid_after_utc)}; it is {clock.rfc3339(now)} here",
                hint=f"if the clock is right: {_AGAIN}",
            )
        ends.append(f"{what} until {clock.rfc3339(leaf.not_valid_after_utc)}")
    return ", ".join(ends)


def own_keys(home: Home) -> str:
    """Look whether the keys open and are those of the certificates."""
    home.settle_tls_key(chain(home)[0].public_key())
    tls, signing = keys.load_tls(home.key("tls.key")), keys.load_signing(home.key("signing.key"))
    if tls.public_key() != chain(home)[0].public_key():
        raise KitError("the TLS key is not the certificate's", hint=_AGAIN)
    if signing.public_key() != chain(home, signing=True)[0].public_key():
        raise KitError("the signing key is not the certificate's", hint=_AGAIN)
    keys.load_signing(home.key("witness.key"))
    return "every key opens and fits its certificate"


def conversation(home: Home) -> str:
    """Have a whole contact, and verify everything in it."""
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
    return f"verified up to log entry {world.trust.size}"


def clocks(home: Home, *, now: datetime) -> str:
    """Compare this machine's clock with the time that the coordinator signed just now."""
    known = contact.known(home)
    if known is None:
        raise KitError("the coordinator has signed no time yet")
    ahead = now - clock.parse_rfc3339(known.newest_time)
    if abs(ahead) > MAX_SKEW:
        direction = "ahead of" if ahead > timedelta(0) else "behind"
        raise KitError(
            f"this machine's clock is {abs(ahead)} {direction} the coordinator's",
            hint="set it by NTP (`timedatectl`); if it is right, tell the coordinator",
        )
    return f"within {abs(ahead).total_seconds():.0f} s of the coordinator's"
