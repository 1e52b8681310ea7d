from dataclasses import dataclass

import pytest

from pki import certificates
from tests.fakes.federation import NAME, NOW


@dataclass(frozen=True)
class Authorities:
    root: certificates.Authority
    issuing: certificates.Authority


@pytest.fixture(scope="session")
def ca() -> Authorities:
    root = certificates.new_root(NAME, now=NOW)
    return Authorities(root, certificates.new_issuing(root, NAME, now=NOW))


@pytest.fixture(scope="session")
def foreign() -> Authorities:
    """Another CA that gives itself the same names."""
    root = certificates.new_root(NAME, now=NOW)
    return Authorities(root, certificates.new_issuing(root, NAME, now=NOW))
