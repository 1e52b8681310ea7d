"""Checking the dossier of a revocation with what this site pinned and saw of the log itself."""

from pathlib import Path

from edge_agent import contact
from edge_agent.home import Home
from federation.dossier import document
from federation.dossier import verification as rules
from federation.dossier.verification import Verified
from pki import certificates


def check(home: Home, folder: Path) -> Verified:
    """Verify a dossier; its log must be the one that this site holds a copy of.

    Raises:
        TrustError: this home holds no copy of the log.
        KitError: a file is missing, or the first step that does not hold.
    """
    envelope, chain = document.read(folder)
    pins = home.pins
    return rules.verify(
        envelope,
        chain,
        root=certificates.from_der(pins.root_der),
        log_key=pins.log_key,
        leaves=contact.log_view(home).leaves,
        revocations=contact.revocations(home),
    )
