"""Identities: one SPIFFE URI in the certificate's subject alternative name, nothing else."""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Self

from kit import canonical
from kit.errors import FormatError
from pki.errors import IdentityError

DEMO_FEDERATION = "demo"
_URI = re.compile(r"spiffe://([^/]+)/(site|coordinator)(?:/([^/]+))?")


class Role(StrEnum):
    """What a certificate's holder is in the federation."""

    SITE = "site"
    COORDINATOR = "coordinator"


@dataclass(frozen=True, slots=True)
class Identity:
    """A member of a federation; `name` is the site id, empty for the coordinator."""

    federation: str
    role: Role
    name: str = ""

    @property
    def uri(self) -> str:
        """The SPIFFE URI, `spiffe://<federation>/site/<id>` or `spiffe://<federation>/coordinator`."""
        tail = f"/{self.name}" if self.role is Role.SITE else ""
        return f"spiffe://{self.federation}/{self.role}{tail}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read a SPIFFE URI; names compare for equality after this.

        Raises:
            IdentityError: `uri` is not one of the two forms.
        """
        match = _URI.fullmatch(uri)
        if match is None or (match[2] == Role.SITE) != (match[3] is not None):
            raise IdentityError(f"`{canonical.printable(uri)}` is not a federation identity")
        try:
            name = canonical.name(match[3], what="site id") if match[3] else ""
            return cls(canonical.name(match[1], what="federation"), Role(match[2]), name)
        except FormatError as error:
            raise IdentityError(f"`{canonical.printable(uri)}`: {error}") from error


def site(federation: str, name: str) -> Identity:
    """Return the identity of a site after checking both names."""
    return Identity(
        canonical.name(federation, what="federation"),
        Role.SITE,
        canonical.name(name, what="site id"),
    )


def coordinator(federation: str) -> Identity:
    """Return the identity of a federation's coordinator."""
    return Identity(canonical.name(federation, what="federation"), Role.COORDINATOR)


def is_loopback(host: str) -> bool:
    """Whether a host (a name or an address, in brackets or not) is this machine itself."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_place(federation: str, host: str) -> None:
    """Keep the demo federation, whose secrets anybody can make, on one machine (A23).

    Raises:
        IdentityError: it would be served or reached elsewhere.
    """
    if federation == DEMO_FEDERATION and not is_loopback(host):
        raise IdentityError(
            f"the federation `{DEMO_FEDERATION}` works on loopback addresses only",
            hint="found one with a name of your own: `coordinator init --federation NAME`",
        )
