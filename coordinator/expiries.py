"""What runs out at the coordinator: for `certificates list`, `sites list` and metrics."""

from collections.abc import Iterator

import sqlalchemy as sa
from cryptography import x509

from coordinator import delegations, repository, state
from coordinator.context import Coordinator
from kit import clock
from pki import certificates, lifetimes
from pki.lifetimes import ExpiryWarning, Lifetime


def held(coordinator: Coordinator) -> list[Lifetime]:
    """Return everything that runs out: own certificates, sites' signing leaves, authorities."""
    return list(_held(coordinator))


def warnings(coordinator: Coordinator) -> list[ExpiryWarning]:
    """Return what somebody must act on, the most urgent first."""
    return lifetimes.warnings(held(coordinator), now=coordinator.now())


def _held(coordinator: Coordinator) -> Iterator[Lifetime]:
    yield _lifetime("the root certificate", coordinator.root, "found a new federation in time")
    remedy = "run `coordinator certificates renew --issuing --roots DIR` with the root's key"
    yield _lifetime("the issuing CA", coordinator.issuing.certificate, remedy)
    signing = coordinator.signing_chain[0]
    remedy = "`coordinator serve` renews it; else run `coordinator certificates renew`"
    yield _lifetime("the document-signing certificate", signing, remedy, renews=True)
    with coordinator.state.read() as tx:
        rights = delegations.standings(coordinator, tx)
        sites = tx.all(sa.select(state.sites).where(state.sites.c.state == "active"))
        authorities = tx.all(sa.select(state.authorities))
    yield from _repository(coordinator)
    for right in rights:
        name = f"the right to hand out keys of study `{right.study}`"
        remedy = f"run `coordinator study extend {right.study} --roots DIR` with the study key"
        yield Lifetime(name=name, expires=right.expires or right.created, remedy=remedy)
    for row in sorted(sites, key=lambda site: str(site.id)):
        leaf = certificates.from_pem(row.signing_chain)[0]
        name = f"the signing certificate of site `{row.id}`"
        remedy = "the site renews it at a contact; call it if it makes none"
        yield _lifetime(name, leaf, remedy, renews=row.authority is None)
    for row in sorted(authorities, key=lambda authority: str(authority.name)):
        root = certificates.from_pem(row.certificate)[0]
        yield _lifetime(f"the authority `{row.name}`", root, "ask its operator for the next root")


def _repository(coordinator: Coordinator) -> Iterator[Lifetime]:
    """Return how long what the offline keys signed of the repository holds."""
    if repository.is_founded(coordinator.home):
        found = repository.standing(coordinator)
        command = "run `coordinator repository sign --roots DIR"
        for name, expires, remedy in (
            ("list of studies", found.targets_expires, f"{command}` with the study key"),
            ("root", found.root_expires, f"{command} --with-root` with both offline keys"),
        ):
            when = clock.parse_rfc3339(expires)
            yield Lifetime(name=f"the repository's {name}", expires=when, remedy=remedy)


def _lifetime(
    name: str, certificate: x509.Certificate, remedy: str, *, renews: bool = False
) -> Lifetime:
    return Lifetime(
        name=name,
        expires=certificate.not_valid_after_utc,
        remedy=remedy,
        renews_from=lifetimes.renewal_due(certificate) if renews else None,
    )
