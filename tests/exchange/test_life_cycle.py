"""Certificates and keys over their lives: renewed without a restart, signed for by the old ones."""

import contextlib
import dataclasses
from datetime import timedelta

import pytest
import sqlalchemy as sa

from coordinator import (
    callers,
    enrolments,
    expiries,
    issuance,
    logbook,
    readmission,
    registry,
    rekeying,
    renewals,
    state,
)
from coordinator.errors import NotAllowedError, NotFoundError
from edge_agent import alarms, bringing, contact, enrolment, inspection, renewal
from edge_agent.errors import AlarmError
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from federation.auditlog import pseudonyms
from federation.auditlog.events import Kind
from federation.rekey import Rekey, Usage
from kit import canonical, clock, config
from kit.errors import FormatError, KitError
from pki import certificates, keys, lifetimes
from pki.crl import RevocationList
from pki.errors import IdentityError
from tests.exchange.channels import stub
from tests.fakes import site


@pytest.fixture
def federation(tmp_path):
    return site.found(tmp_path)


def kinds(coordinator):
    return [event.kind for event in logbook.events(coordinator)]


def signing_leaf(home):
    return certificates.from_pem(home.signing_chain.read_bytes())[0]


def age_signing(coordinator, home, *, days):
    """Make a site's signing certificate `days` old, and the registry know it as current."""
    who, issuing = home.identity, coordinator.issuing
    public = keys.load_signing(home.key("signing.key")).public_key()
    then = clock.utc_now() - timedelta(days=days)
    leaf = certificates.issue_signing(issuing, who, public, now=then)
    chain = certificates.pem(leaf, issuing.certificate)
    home.signing_chain.write_bytes(chain)
    with coordinator.write() as tx:
        fingerprint = issuance.keep(tx, chain, holder=who.name, usage=issuance.SIGNING)
        tx.execute(
            sa.update(state.sites)
            .where(state.sites.c.id == who.name)
            .values(signing_chain=chain, signing_fingerprint=fingerprint)
        )
    return leaf


def test_the_signing_certificate_renews_at_two_thirds_with_a_key_that_the_old_one_signed_for(
    federation,
):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        young = age_signing(coordinator, home, days=200)
        site.visit(home)
        assert signing_leaf(home) == young
        old = age_signing(coordinator, home, days=250)
        key = home.key("signing.key").read_bytes()
        site.visit(home)
        fresh = signing_leaf(home)
        assert fresh.not_valid_after_utc > old.not_valid_after_utc
        assert home.key("signing.key").read_bytes() != key
        assert keys.load_signing(home.key("signing.key")).public_key() == fresh.public_key()
        assert not home.next_signing_key.exists()
        assert kinds(coordinator)[-1] is Kind.SIGNING_KEY_RENEWED
        site.visit(home)  # and no alarm about its own doing
        assert alarms.kept(home) == []


@pytest.mark.parametrize("done", ["asked", "answered"])
def test_a_signing_renewal_that_was_killed_goes_on_with_the_same_key(federation, done, monkeypatch):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        old = age_signing(coordinator, home, days=250)

        def die(*_arguments, **_options):
            raise SystemExit("killed")

        with monkeypatch.context() as patch:
            if done == "asked":
                patch.setattr(renewal, "write_atomic", die)
            else:
                patch.setattr(Home, "settle_signing_key", die)
                patch.setattr(Exchange, "open", _open_without_settling(home))
            with pytest.raises(SystemExit, match="killed"):
                site.visit(home)
        site.visit(home)
        assert signing_leaf(home) != old
        assert (
            keys.load_signing(home.key("signing.key")).public_key()
            == signing_leaf(home).public_key()
        )
        assert kinds(coordinator).count(Kind.SIGNING_KEY_RENEWED) == 1


def _open_without_settling(home):
    original = Exchange.open.__func__

    def opened(_cls=None):
        settle, Home.settle_signing_key = Home.settle_signing_key, lambda *_: None
        manager = original(Exchange, home)

        class Manager:
            def __enter__(self):
                found = manager.__enter__()
                Home.settle_signing_key = settle
                return found

            def __exit__(self, *details):
                return manager.__exit__(*details)

        return Manager()

    return lambda _home: opened()


def order_of(home, *, signer=None, chain=None, request=None, **changes):
    chain = chain or certificates.from_pem(home.signing_chain.read_bytes())
    base = Rekey(
        site=home.config.site,
        usage=Usage.SIGNING,
        previous=certificates.fingerprint(chain[0]),
        request=request or certificates.request(keys.new_signing_key()),
        chain=b"",
        time=clock.rfc3339(clock.utc_now()),
    )
    order = dataclasses.replace(base, **changes)
    key = signer or keys.load_signing(home.key("signing.key"))
    return order.sign(key, chain[0]), certificates.pem(*chain)


def test_a1_a_new_signing_key_is_taken_only_on_the_word_of_the_present_one(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        other = site.enrol(coordinator, federation, "b")
        issuing, now = coordinator.issuing, clock.utc_now()
        forger = keys.new_signing_key()
        leaf = certificates.issue_signing(issuing, home.identity, forger.public_key(), now=now)
        minted = (leaf, issuing.certificate)  # by somebody who holds the CA
        yesterday = clock.rfc3339(now - timedelta(days=2))
        for made, reason in (
            (order_of(home, signer=forger), "signature"),
            (order_of(home, signer=forger, chain=minted), "not the current one"),
            (order_of(other), "not signed by"),
            (order_of(home, site="b"), "about another site"),
            (order_of(home, previous="0" * 64), "about another site or certificate"),
            (order_of(home, time=yesterday), "too old, or from the future"),
            (order_of(home, request=b"none"), "not a certificate request"),
        ):
            with pytest.raises(KitError, match=reason):
                rekeying.rekey(coordinator, "a", *made)
        with pytest.raises(FormatError, match="unknown certificate"):
            Rekey.from_bytes(canonical.encode({**_table(home), "usage": "root"}))
        fresh = rekeying.rekey(coordinator, "a", *order_of(home))
        assert certificates.from_pem(fresh)[0] != signing_leaf(home)


def _table(home):
    envelope, _ = order_of(home)
    return canonical.decode(canonical.b64decode(canonical.decode(envelope)["payload"]))


def test_the_old_signing_key_counts_until_the_new_one_signed_and_is_listed_then(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        first, key = signing_leaf(home), keys.new_signing_key()
        made = order_of(home, request=certificates.request(key))
        fresh = rekeying.rekey(coordinator, "a", *made)
        assert rekeying.rekey(coordinator, "a", *made) == fresh  # its answer was lost
        with coordinator.write() as tx:
            row = registry.active_site(tx, "a")
            rekeying.check_signer(row, [first])
            chain = certificates.from_pem(fresh)
            rekeying.check_signer(row, chain)
            rekeying.settle_signer(tx, row, certificates.fingerprint(chain[0]))
            row = registry.active_site(tx, "a")
            rekeying.check_signer(row, chain)
            with pytest.raises(NotAllowedError, match="not the current one"):
                rekeying.check_signer(row, [first])
        listed = RevocationList.read(issuance.revocation_list(coordinator))
        assert first.serial_number in listed.entries


def test_a1_a_known_site_is_invited_again_only_by_the_quorum_of_every_open_study(enrolled):
    with enrolled.open() as coordinator:
        registry.revoke_site(coordinator, "a")
        with pytest.raises(NotAllowedError, match="quorum of study `shapes` has not") as refusal:
            enrolments.issue_token(coordinator, "a")
        assert "sites readmit a" in refusal.value.hint
        consent = {"reason": "new machine"}
        with pytest.raises(NotAllowedError, match="no reviewer's"):
            readmission.readmit(coordinator, "a", reviewer_key=keys.new_signing_key(), **consent)
        with pytest.raises(NotFoundError, match="never enrolled"):
            readmission.readmit(coordinator, "z", reviewer_key=enrolled.reviewer(), **consent)
        done = readmission.readmit(coordinator, "a", reviewer_key=enrolled.reviewer(), **consent)
        assert done.missing == ()
        assert kinds(coordinator)[-1] is Kind.READMISSION_RECORDED
        assert enrolments.issue_token(coordinator, "a").site == "a"
        assert enrolments.issue_token(coordinator, "new").site == "new"  # never known: no quorum
        coordinator.ahead = timedelta(days=8)  # consent does not keep
        with pytest.raises(NotAllowedError, match="has not"):
            enrolments.issue_token(coordinator, "a")


def test_a1_consent_serves_one_enrolment(enrolled):
    with enrolled.serving() as coordinator:
        registry.revoke_site(coordinator, "a")
        readmission.readmit(coordinator, "a", reviewer_key=enrolled.reviewer(), reason="again")
        home = site.enrol(coordinator, enrolled, "a")
        assert site.visit(home)
        assert [a.event for a in alarms.kept(home) if not a.acknowledged] == []
        registry.revoke_site(coordinator, "a")
        with pytest.raises(NotAllowedError, match="has not"):
            enrolments.issue_token(coordinator, "a")


def test_a1_a_copied_tls_key_that_renews_is_noticed_and_taken_out_of_use(federation, capsys):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        site.visit(home)
        assert alarms.kept(home) == []
        thief = keys.new_tls_key()
        stolen = certificates.from_pem(
            rekeying.renew(coordinator, "a", certificates.request(thief))
        )
        assert callers.authenticate(coordinator, stolen) == "a"  # its first use: ours is replaced
        own = certificates.from_pem(home.tls_chain.read_bytes())
        with pytest.raises(NotAllowedError, match="not the current one") as refusal:
            callers.authenticate(coordinator, own)
        assert "--reclaim" in refusal.value.hint
        standing = inspection.status(home, now=clock.utc_now())  # the site may still look
        assert ["certificate.renewed" in line for line in standing.unexplained] == [True]
        assert "alarm: log entry" in capsys.readouterr().err
        with pytest.raises(AlarmError, match="not its own doing") as alarm:
            alarms.require_none(home)
        assert alarm.value.exit_code == 4
        bringing.renew(home, tls=None, signing=None, reclaim=True, now=clock.utc_now())
        with pytest.raises(NotAllowedError, match="not the current one"):
            callers.authenticate(coordinator, stolen, superseded=True)
        assert site.visit(home)
        [entry] = [a.entry for a in alarms.kept(home)]
        alarms.acknowledge(home, entry, now=clock.utc_now())
        alarms.require_none(home)
        with pytest.raises(KitError, match="no alarm about log entry 999"):
            alarms.acknowledge(home, 999, now=clock.utc_now())


def test_a1_what_an_insider_logs_under_a_sites_name_is_an_alarm_there_and_nowhere_else(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        other = site.enrol(coordinator, federation, "b")
        with coordinator.write() as tx:
            name = registry.active_site(tx, "a").pseudonym
            for kind, options in (
                (Kind.SITE_CONFIRMED, {"site": name, "request": "1" * 64}),
                (Kind.SIGNING_KEY_RENEWED, {"site": name, "request": "2" * 64}),
                (Kind.BLUEPRINT_RECEIVED, {"actor": name, "study": "3" * 64}),
                (Kind.READMISSION_RECORDED, {"site": name}),
                (Kind.TOKEN_ISSUED, {"site": name}),
            ):
                tx.record(kind, "4" * 64, **options)
        with federation.open() as reader, reader.state.read() as tx:
            salt = bytes.fromhex(tx.get("pseudonym_salt"))
        assert name == pseudonyms.pseudonym(salt, home.identity.uri)
        site.visit(other)
        assert alarms.kept(other) == []
        _visit_despite_odd_log(home)
        assert {a.event for a in alarms.kept(home)} == {
            "site.confirmed",
            "signing-key.renewed",
            "blueprint.received",
            "readmission.recorded",
            "token.issued",
        }


def _visit_despite_odd_log(home):
    with contextlib.suppress(KitError):  # other rules may refuse such a log; the alarm is kept
        site.visit(home)


def test_the_coordinators_document_key_renews_beside_a_running_server(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        before = coordinator.signing_chain[0]
        assert renewals.renew_due(coordinator) == 0
        with federation.open() as beside:  # another process: the command line
            made = renewals.renew_documents(beside)
        assert coordinator.signing_chain[0] != before
        assert certificates.fingerprint(coordinator.signing_chain[0]) == made.fingerprint
        assert site.visit(home)
        assert Kind.DOCUMENT_KEY_RENEWED in kinds(coordinator)
        coordinator.ahead = timedelta(days=250)
        assert renewals.renew_due(coordinator) == 1
        assert renewals.renew_due(coordinator) == 0


def test_the_issuing_ca_is_renewed_by_the_root_and_everybody_goes_on(federation, tmp_path):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        keys.save(tmp_path / "wrong" / "root.key", keys.new_tls_key())
        with pytest.raises(IdentityError, match="is not the root key of this federation"):
            renewals.renew_issuing(coordinator, tmp_path / "wrong")
        with pytest.raises(KitError, match="the root key is not at") as absent:
            renewals.renew_issuing(coordinator)
        assert "bring the medium that holds `root.key`" in absent.value.hint
        for new_key in (False, True):
            before = coordinator.issuing
            renewals.renew_issuing(coordinator, federation.roots, new_key=new_key)
            after = coordinator.issuing
            assert after.certificate != before.certificate
            same = after.key.public_key() == before.key.public_key()
            assert same is not new_key
            assert site.visit(home)  # with the leaf that the one before had issued
        assert site.enrol(coordinator, federation, "b")


def test_a_revoked_site_is_on_the_list_that_every_other_site_gets(federation):
    with federation.serving() as coordinator:
        first = site.enrol(coordinator, federation, "a")
        other = site.enrol(coordinator, federation, "b")
        site.visit(other)
        number = contact.revoked_certificates(other).number
        leaves = [signing_leaf(first), certificates.from_pem(first.tls_chain.read_bytes())[0]]
        registry.revoke_site(coordinator, "a")
        site.visit(other)
        listed = contact.revoked_certificates(other)
        assert listed.number > number
        assert {leaf.serial_number for leaf in leaves} <= set(listed.entries)
        site.visit(other)
        assert contact.revoked_certificates(other).number == listed.number  # one number, one list


def test_both_sides_are_told_what_cannot_renew_itself(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        assert expiries.warnings(coordinator) == []
        assert inspection.status(home, now=clock.utc_now()).warnings == ()
        coordinator.ahead = timedelta(days=5 * 365 - 20)
        assert "the issuing CA" in [w.name for w in expiries.warnings(coordinator)]
        age_signing(coordinator, home, days=330)
        [late] = [w for w in expiries.warnings(coordinator) if w.name.endswith("of site `a`")]
        assert late.remedy
        items = renewal.lifetimes_of(home)
        then = clock.utc_now() + timedelta(days=30)
        assert "the signing certificate" in [w.name for w in lifetimes.warnings(items, now=then)]


def test_a13_a_reused_token_is_an_alarm_that_the_operator_sees(federation):
    with federation.serving() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        site.ask(federation.folder / "a", token)
        assert [s.alarm for s in registry.list_sites(coordinator)] == [None]
        with pytest.raises(KitError, match="the site is revoked"):
            site.ask(federation.folder / "thief", token)
        [found] = registry.list_sites(coordinator)
        assert (found.state, "used by two" in found.alarm) == ("revoked", True)
        assert Kind.TOKEN_REUSED in kinds(coordinator)


def test_a_malformed_request_is_the_senders_mistake_and_not_a_stranger(federation):
    import grpc

    from protos import exchange_pb2 as pb

    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        key = keys.load_tls(home.key("tls.key"))
        with stub(coordinator, key=key, chain=home.tls_chain.read_bytes()) as on:
            with pytest.raises(grpc.RpcError) as refusal:
                on.Renew(pb.RenewRequest(tls_request=b"no request"), timeout=20)
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            request = certificates.request(keys.new_tls_key())
            assert on.Renew(pb.RenewRequest(tls_request=request), timeout=20).tls_chain


def test_a23_the_demo_federation_is_served_on_loopback_only(tmp_path):
    from coordinator import grpc_server

    made = site.found(tmp_path, federation="demo")
    for listen, is_served in (("127.0.0.1", True), ("[::1]", True), ("0.0.0.0", False)):
        with made.open() as coordinator:
            changed = dataclasses.replace(coordinator.config, listen=listen)
            coordinator.__dict__["config"] = changed
            serving = grpc_server.serving(coordinator, exchange_port=0, enrol_port=0)
            if is_served:
                with serving:
                    pass
                continue
            with pytest.raises(IdentityError, match="loopback addresses only"), serving:
                pass


def test_a23_a_site_looks_for_the_demo_federation_on_its_own_machine_only(tmp_path):
    """Its token and its configuration may name another: nothing is sent there."""
    made = site.found(tmp_path, federation="demo")
    with made.serving() as coordinator:
        token = site.token_file(coordinator, "a", made.folder)
        away = made.folder / "away.token"
        away.write_text(token.read_text().replace("127.0.0.1", "192.0.2.1"))  # RFC 5737
        assert "192.0.2.1" in away.read_text()
        with pytest.raises(IdentityError, match="loopback addresses only"):
            site.ask(made.folder / "b", away)
        enrolments.confirm(coordinator, "a", site.ask(made.folder / "a", token))
        enrolment.enrol(made.folder / "a", None, epsilon=None, delta=None)
        home = made.home("a")
        assert site.visit(home)
        near = home.config
        for address in ("192.0.2.1:8443", "hospital.example:8443"):
            config.save(home.config_path, dataclasses.replace(near, exchange_address=address))
            with pytest.raises(IdentityError, match="loopback addresses only"):
                site.visit(home)
        config.save(home.config_path, near)
        assert site.visit(home)


def test_an_enrolment_notes_what_it_asked_for_before_it_asks(federation):
    from edge_agent import acts

    with federation.serving() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        site.ask(federation.folder / "a", token)
        subjects = {e.subject for e in logbook.events(coordinator)[-2:]}
        assert subjects <= acts.known(Home(federation.folder / "a")).digests
        assert enrolment.has_begun(federation.folder / "a")
