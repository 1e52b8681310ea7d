"""An issuing key that was replaced for cause: the root lists its certificates, and sites obey."""

import time

import pytest

from coordinator import renewals
from coordinator import stick as by_stick
from edge_agent import installed, stick
from edge_agent.errors import TrustError
from kit import canonical, clock
from pki import certificates, keys
from pki.crl import RevocationList
from pki.errors import IdentityError
from tests.fakes import site


@pytest.fixture
def federation(tmp_path):
    return site.found(tmp_path)


def documents_of(coordinator, issuing):
    """What whoever holds an issuing key makes: a leaf for the coordinator's documents."""
    key, now = keys.new_signing_key(), coordinator.now()
    leaf = certificates.issue_signing(issuing, coordinator.identity, key.public_key(), now=now)
    return (leaf, issuing.certificate), key


def test_a_stolen_issuing_key_that_was_replaced_signs_nothing_that_a_site_believes(
    released, tmp_path
):
    """By stick, where nothing but the signature stands between: fresh dates over stale news."""
    home, offline = released.home("a"), released.roots
    with released.serving() as coordinator:
        site.visit(home)
        stolen = coordinator.issuing
        forged = forge(coordinator, stolen, tmp_path / "one.stick")
        assert stick.visit(home, forged, now=clock.utc_now())  # before: it is the true CA's
        time.sleep(1)  # the log's times are whole seconds: the release was signed before
        renewals.renew_issuing(coordinator, offline, new_key=True)
        world = site.visit(home)
        listed = RevocationList.read(home.authority_revocations.read_bytes())
        assert stolen.certificate.serial_number in listed.entries
        assert coordinator.issuing_certificate.serial_number not in listed.entries
        assert world.log.history.authorities == canonical.digest(world.authority_revocations)
        assert [r.withdrawn for r in world.releases] == [False]  # signed before, and logged
        installed.fetch(home, site.STUDY, got=lambda *_: None)
        assert installed.load(home, site.STUDY, now=clock.utc_now())
        forged = forge(coordinator, stolen, tmp_path / "two.stick")
        with pytest.raises(IdentityError, match="certificate was replaced"):
            stick.visit(home, forged, now=clock.utc_now())
        true = tmp_path / "true.stick"
        by_stick.export(coordinator, "a", true)
        assert stick.visit(home, true, now=clock.utc_now())
        assert site.visit(released.home("b"))  # with a leaf that the old key had signed
        renewals.renew_issuing(coordinator, offline)  # the same key: nothing more to revoke
        assert site.visit(home).authority_revocations == world.authority_revocations


def forge(coordinator, issuing, path):
    """Export as the true coordinator does, signed by somebody who holds an issuing key."""
    chain, key = documents_of(coordinator, issuing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(coordinator), "signer", property(lambda _self: (chain, key)))
        by_stick.export(coordinator, "a", path)
    return path


def test_the_list_of_revoked_issuing_cas_cannot_be_withheld(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        offline = federation.roots
        renewals.renew_issuing(coordinator, offline, new_key=True)
        assert site.visit(home).authority_revocations
        with coordinator.write() as tx:
            kept = tx.get("authority_crl")
            tx.put("authority_crl", "")
        with pytest.raises(TrustError, match="another list of revoked issuing CAs"):
            site.visit(home)
        with coordinator.write() as tx:
            tx.put("authority_crl", kept)
        assert site.visit(home)
        first = RevocationList.read(home.authority_revocations.read_bytes())
        renewals.renew_issuing(coordinator, offline, new_key=True)
        site.visit(home)
        second = RevocationList.read(home.authority_revocations.read_bytes())
        assert second.number == first.number + 1
        assert set(first.entries) < set(second.entries)
