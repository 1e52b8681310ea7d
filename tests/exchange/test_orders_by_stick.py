"""What a site orders by stick: signing keys, withdrawals, their undoing, a patient's erasure."""

import shutil
from datetime import timedelta

import pytest
import sqlalchemy as sa

from coordinator import audit, logbook, papers, registry, rekeying, state, stick
from coordinator.errors import NotAllowedError, StateError
from coordinator.intake import supervisor
from edge_agent import alarms, contact
from edge_agent import stick as edge
from federation.auditlog.events import Kind
from federation.stick import index as rules
from federation.stick import medium
from kit import clock
from kit.errors import FormatError, KitError
from pki import certificates, keys
from protos import exchange_pb2 as pb
from tests.exchange.test_erasure import PATIENT, charge, named
from tests.fakes import runs, site

LATE = timedelta(days=250)  # a signing certificate lives a year and is renewed at two thirds


@pytest.fixture
def no_intake(monkeypatch):
    """Leave what was received to a later intake: two torch processes each."""
    monkeypatch.setattr(supervisor, "run_waiting", lambda _coordinator: 0)


@pytest.fixture
def graceful(pending):
    """Blueprints in play, with two days between a revocation and the shredding."""
    path = pending.hub / "config.toml"
    text = path.read_text()
    assert "revocation_grace_hours = 0" in text
    path.write_text(text.replace("revocation_grace_hours = 0", "revocation_grace_hours = 48"))
    return pending


def now(ahead=timedelta(0)):
    return clock.utc_now() + ahead


def kinds(coordinator):
    return [event.kind for event in logbook.events(coordinator)]


def news(coordinator, home, *, at=None):
    """Carry a file to a site and let it read it; returns its world."""
    path = coordinator.home.path.parent / f"to-{home.config.site}.stick"
    stick.export(coordinator, home.config.site, path)
    return edge.visit(home, path, now=at or coordinator.now())


def signing_leaf(home):
    return certificates.from_pem(home.signing_chain.read_bytes())[0]


def own_key(home):
    return keys.load_signing(home.key("signing.key")).public_key()


def test_a1_a_signing_key_is_renewed_by_stick_on_the_word_of_the_old_one(enrolled):
    home, file = enrolled.home("a"), enrolled.folder / "from-a.stick"
    before = signing_leaf(home)
    with enrolled.open() as coordinator:
        edge.write(home, file, now=now(), asks={})
        assert stick.import_file(coordinator, file).renewed == ()  # not due
    with enrolled.open(ahead=LATE) as coordinator:
        edge.write(home, file, now=now(LATE), asks={})
        asked = home.next_signing_key.read_bytes()
        edge.write(home, file, now=now(LATE), asks={})
        assert home.next_signing_key.read_bytes() == asked  # written again: the same key
        assert stick.import_file(coordinator, file).renewed == ("tls", "signing")
        assert kinds(coordinator)[-2:] == [Kind.CERTIFICATE_RENEWED, Kind.SIGNING_KEY_RENEWED]
        entry = logbook.events(coordinator)[-1]
        assert entry.details["previous"] == certificates.fingerprint(before)
        size = len(kinds(coordinator))
        assert stick.import_file(coordinator, file).renewed == ()  # twice is once
        assert len(kinds(coordinator)) == size
        news(coordinator, home)
        assert own_key(home) == signing_leaf(home).public_key() != before.public_key()
        assert not home.next_signing_key.exists()
        assert alarms.kept(home) == []  # the entry is the site's own doing
        old = shutil.copy(file, file.with_name("old.stick"))
        edge.write(home, file, now=now(LATE), asks={})
        assert stick.import_file(coordinator, file).site == "a"  # signed by the new key
        with pytest.raises(NotAllowedError, match="not the current one"):
            stick.import_file(coordinator, old)  # whose key is superseded by that use


def test_a1_an_order_in_a_file_is_believed_by_its_own_signature(enrolled):
    home, other = enrolled.home("a"), enrolled.home("b")
    file = enrolled.folder / "from-a.stick"
    with enrolled.open(ahead=LATE) as coordinator:
        edge.write(other, file, now=now(LATE), asks={})
        with medium.opened(file) as opened:
            foreign = opened.read(rules.REKEY)
        edge.write(home, file, now=now(LATE), asks={rules.REKEY: foreign})
        with pytest.raises(FormatError, match="not signed by"):
            stick.import_file(coordinator, file)
        edge.write(home, file, now=now(LATE), asks={})
        assert "signing" in stick.import_file(coordinator, file).renewed


def test_an_old_order_is_not_honoured_again_and_over_a_line_an_hour_counts(enrolled):
    home = enrolled.home("a")
    old, newer = enrolled.folder / "old.stick", enrolled.folder / "newer.stick"
    edge.write(home, old, now=now(LATE), asks={})
    keys.save(home.next_signing_key, keys.new_signing_key())  # what it asked for is lost
    edge.write(home, newer, now=now(LATE + timedelta(seconds=5)), asks={})
    with enrolled.open(ahead=LATE + timedelta(days=20)) as coordinator:
        with medium.opened(newer) as opened:
            order = pb.RekeyRequest.FromString(opened.read(rules.REKEY))
        with pytest.raises(FormatError, match="too old"):
            rekeying.rekey(coordinator, "a", order.order, order.signing_chain)
        assert "signing" in stick.import_file(coordinator, newer).renewed
        before = kinds(coordinator)
        assert stick.import_file(coordinator, old).renewed == ()
        assert kinds(coordinator) == before


def test_a_site_asks_early_for_new_certificates_by_stick(enrolled):
    home, file = enrolled.home("a"), enrolled.folder / "from-a.stick"
    before = own_key(home)
    edge.renew(home, file, signing=None, now=now())
    with enrolled.open() as coordinator:
        assert stick.import_file(coordinator, file).renewed == ("tls", "signing")
        news(coordinator, home)
    assert own_key(home) != before
    assert own_key(home) == signing_leaf(home).public_key()


def test_a3_an_undo_travels_by_stick_and_neither_file_works_twice(graceful):
    home, other = graceful.home("a"), graceful.home("b")
    back, undone = graceful.folder / "withdraw.stick", graceful.folder / "undo.stick"
    digest = graceful.digest("a")
    begun = now()

    def at(seconds):
        return begun + timedelta(seconds=seconds)

    with graceful.open() as coordinator:
        news(coordinator, home)
        with pytest.raises(KitError, match="nothing of this site is revoked"):
            edge.undo(home, site.STUDY, undone, reason="we were wrong", now=now())
        edge.withdraw(home, site.STUDY, back, reason="asked", now=at(1))
        edge.undo(home, site.STUDY, undone, reason="we were wrong", now=at(2))
        before = kinds(coordinator)
        with pytest.raises(StateError, match="not revoked"):
            stick.import_file(coordinator, undone)  # the wrong order of two files
        with pytest.raises(StateError, match="another since") as refusal:
            stick.import_file(coordinator, back)  # the site thought better of it
        assert "orders again" in refusal.value.hint
        for file in (back, undone):
            assert stick.import_file(coordinator, file).orders == {digest: "pending"}
        assert kinds(coordinator) == before
        edge.withdraw(home, site.STUDY, back, reason="asked after all", now=at(3))
        edge.undo(home, site.STUDY, undone, reason="we were wrong", now=at(4))
        assert stick.import_file(coordinator, back).orders == {digest: "revoked"}
        assert stick.import_file(coordinator, undone).orders == {digest: "pending"}
        entries = [e.kind for e in logbook.events(coordinator) if e.subject == digest]
        assert entries[-2:] == [Kind.BLUEPRINT_RESTORED, Kind.BLUEPRINT_PENDING]
        before = kinds(coordinator)
        for file in (back, undone):  # what was done once is not done again
            assert stick.import_file(coordinator, file).orders == {digest: "pending"}
        assert kinds(coordinator) == before
        edge.withdraw(home, site.STUDY, back, reason="asked again", now=at(5))
        assert stick.import_file(coordinator, back).orders == {digest: "revoked"}
        news(coordinator, other)
        assert audit.verify(coordinator)


def test_a3_a_site_without_a_line_is_alarmed_of_a_revocation(graceful, capsys):
    home, file = graceful.home("a"), graceful.folder / "from-a.stick"
    with graceful.open() as coordinator:
        edge.withdraw(home, site.STUDY, file, reason="asked", now=now())
        stick.import_file(coordinator, file)
        news(coordinator, graceful.home("b"))
        assert (
            f"alarm: blueprint `{graceful.digest('a')[:16]}` was revoked" in capsys.readouterr().err
        )
        news(coordinator, home)
        assert alarms.kept(home) == []  # and its own doing is no mystery to the site
    size = contact.known(home).size
    with graceful.open() as coordinator, coordinator.write() as tx:
        name = registry.active_site(tx, "a").pseudonym
        tx.record(Kind.CERTIFICATE_RENEWED, "4" * 64, site=name, request="5" * 64)
    with graceful.open(ahead=timedelta(seconds=2)) as coordinator:
        news(coordinator, home)
    assert [alarm.entry for alarm in alarms.kept(home)] == [size]


@pytest.fixture
def two_studies(enrolled, no_intake):
    """Site a has a blueprint in each of two studies, both sent by stick; a patient is in both."""
    home = enrolled.home("a")
    charge(home, site.STUDY, [PATIENT, "somebody"])
    with enrolled.open() as coordinator:
        study = site.create_study(coordinator, name="other")
        news(coordinator, home)
        runs.write_run(home, study, site.LABELS["a"], name="other", seed=21)
        charge(home, "other", [PATIENT])
        digests = []
        for name in (site.STUDY, "other"):
            file = enrolled.folder / f"{name}.stick"
            edge.submit(home, name, file, now=now())
            digests.append(stick.import_file(coordinator, file).blueprint)
        news(coordinator, home)
    return enrolled, home, tuple(digests)


def erase(home, file, at=None):
    return edge.withdraw_patients(home, named(home), file, reason="she asked", now=at or now())


def test_erasure_of_a_patient_travels_by_stick(two_studies):
    federation, home, digests = two_studies
    file = federation.folder / "erasure.stick"
    found, written = erase(home, file)
    assert sorted(found.withdrawn) == sorted(digests)
    assert found.cannot_tell == ()
    assert written.carries[-2:] == ("withdraw", "withdraw-2")
    assert PATIENT.encode() not in file.read_bytes()
    assert b"she asked" not in file.read_bytes()
    with federation.open() as coordinator:
        assert stick.import_file(coordinator, file).orders == dict.fromkeys(digests, "revoked")
        before = kinds(coordinator)
        stick.import_file(coordinator, file)
        assert kinds(coordinator) == before  # twice commits once
        with coordinator.state.read() as tx:
            for digest in digests:
                assert len(papers.of(tx, digest, papers.Paper.WITHDRAWAL)) == 1
        assert audit.verify(coordinator)
        world = news(coordinator, home)
    assert {s.state for s in world.blueprints} == {"revoked"}
    again, nothing = erase(home, file)
    assert (again.withdrawn, sorted(again.withdrawn_before)) == ((), sorted(digests))
    assert nothing is None


def test_erasure_reaches_a_blueprint_that_is_still_in_the_post(enrolled, no_intake):
    home = enrolled.home("a")
    charge(home, site.STUDY, [PATIENT])
    sent, order = enrolled.folder / "blueprint.stick", enrolled.folder / "erasure.stick"
    with enrolled.open() as coordinator:
        news(coordinator, home)
        edge.submit(home, site.STUDY, sent, now=now())
        [digest] = [folder.name for folder in home.outbox.iterdir()]
        found, _ = erase(home, order)
        assert found.withdrawn == (digest,)
        assert stick.import_file(coordinator, order).orders == {digest: stick.NOT_HERE}
        with pytest.raises(NotAllowedError, match="withdrew blueprint"):
            stick.import_file(coordinator, sent)
        assert Kind.BLUEPRINT_RECEIVED not in kinds(coordinator)
        runs.write_run(home, home.study(site.STUDY), site.LABELS["a"], name="without", seed=9)
        charge(home, "without", ["somebody"])
        edge.submit(home, "without", sent, now=now())
        assert stick.import_file(coordinator, sent).state == "received"


def test_another_sites_order_keeps_nobodys_blueprint_out(enrolled, no_intake):
    """A finder of a stick reads the digest; an order of their own must not block the site."""
    home, hostile = enrolled.home("a"), enrolled.home("b")
    sent, theirs = enrolled.folder / "blueprint.stick", enrolled.folder / "theirs.stick"
    with enrolled.open() as coordinator:
        news(coordinator, home)
        news(coordinator, hostile)
        edge.submit(home, site.STUDY, sent, now=now())
        [digest] = [folder.name for folder in home.outbox.iterdir()]
        study = {digest: home.study(site.STUDY).digest}
        asks = edge._orders(hostile, study, reason="x", now=now())
        edge.write(hostile, theirs, now=now(), asks=asks)
        assert stick.import_file(coordinator, theirs).orders == {digest: stick.NOT_HERE}
        assert stick.import_file(coordinator, sent).state == "received"
        edge.write(
            hostile, theirs, now=now(), asks=edge._orders(hostile, study, reason="y", now=now())
        )
        with pytest.raises(NotAllowedError, match="no such blueprint"):
            stick.import_file(coordinator, theirs)


def test_what_was_refused_meanwhile_does_not_stop_the_other_orders(two_studies):
    federation, home, digests = two_studies
    file = federation.folder / "erasure.stick"
    erase(home, file)
    with federation.open() as coordinator:
        with coordinator.write() as tx:
            table = state.blueprints
            tx.execute(
                sa.update(table).where(table.c.digest == digests[0]).values(state="rejected")
            )
        done = stick.import_file(coordinator, file)
    assert done.orders == {digests[0]: "rejected", digests[1]: "revoked"}
