"""A site without a line: the same rules, states and log entries as over the wire (A17, A18)."""

import dataclasses
import io
import time
from datetime import timedelta

import pytest

from coordinator import enrolments, logbook, registry, requests, revocation, stick
from coordinator.errors import NotAllowedError, StateError
from coordinator.intake import supervisor
from edge_agent import contact, enrolment, inspection, installed, outbound, outbox, submission
from edge_agent import stick as edge
from edge_agent.errors import TrustError
from edge_agent.home import Home
from federation.auditlog.events import Kind
from federation.stick import index as rules
from federation.stick import medium
from kit import canonical, clock
from kit.errors import KitError
from pki import certificates, keys
from pki.enrolment import Token
from protos import exchange_pb2 as pb
from tests.fakes import runs, site


@pytest.fixture
def federation(tmp_path):
    """A federation with a study, a site still to come, and nobody who serves."""
    made = site.found(tmp_path, exchange_port=8443, enrol_port=8444)
    with made.open() as coordinator:
        site.create_study(coordinator)
    return made


@pytest.fixture
def no_intake(monkeypatch):
    """Leave what was received to a later intake: two torch processes each."""
    monkeypatch.setattr(supervisor, "run_waiting", lambda _coordinator: 0)


def now(ahead=timedelta(0)):
    return clock.utc_now() + ahead


def kinds(coordinator):
    return [event.kind for event in logbook.events(coordinator)]


def request(federation, token, *, name="a", home=None):
    """Write an enrolment's request; returns its code and file."""
    file = federation.folder / f"{name}-request.stick"
    begun = enrolment.prepare(home or federation.folder / name, token, epsilon=8.0, delta=1e-5)
    asked = edge.enrol(begun, file, None, now=now())
    return asked.code, file


def settle(federation, file, name="a", *, at=None):
    begun = enrolment.prepare(federation.folder / name, None, epsilon=None, delta=None)
    return edge.enrol(begun, None, file, now=at or now())


def enrol(federation, name="a"):
    """Enrol a site by three files; returns its home."""
    with federation.open() as coordinator:
        token = site.token_file(coordinator, name, federation.folder)
        code, asked = request(federation, token, name=name)
        stick.import_file(coordinator, asked)
        enrolments.confirm(coordinator, name, code)
        answer = exported(coordinator, name)
    settle(federation, answer, name)
    home = federation.home(name)
    outbound.set_policy(home, outbound.Policy(approval=outbound.OFF))
    return home


def exported(coordinator, name="a", **options):
    path = coordinator.home.path.parent / f"to-{name}.stick"
    stick.export(coordinator, name, path, **options)
    return path


def submitted(federation, home, run=site.STUDY):
    path = federation.folder / f"from-{home.config.site}.stick"
    edge.submit(home, run, path, now=now())
    return path


def with_run(federation, home):
    study = home.study(site.STUDY)
    runs.write_run(home, study, site.LABELS[home.config.site])
    return home


def test_three_files_enrol_a_site_with_the_states_and_entries_of_a_line(federation):
    with federation.open() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        code, asked = request(federation, token)
        done = stick.import_file(coordinator, asked)
        assert (done.site, done.site_state) == ("a", registry.REQUESTED)
        assert stick.import_file(coordinator, asked) == done  # twice is once
        assert kinds(coordinator)[-2:] == [Kind.TOKEN_ISSUED, Kind.SITE_REQUESTED]
        with pytest.raises(NotAllowedError, match="not enrolled"):
            exported(coordinator)
        with pytest.raises(StateError, match="code is not that of the request"):
            enrolments.confirm(coordinator, "a", "AAAA-AAAA")
        enrolments.confirm(coordinator, "a", code)
        answer = exported(coordinator)
        assert Kind.SITE_CONFIRMED in kinds(coordinator)
    enrolled = settle(federation, answer)
    assert (enrolled.site, enrolled.federation) == ("a", site.FEDERATION)
    home = Home.open(federation.folder / "a")
    assert home.study(site.STUDY).classes == site.CLASSES
    assert contact.known(home).size == len(logged(federation))


def logged(federation):
    with federation.open() as coordinator:
        return kinds(coordinator)


def test_a_request_shows_nothing_of_the_tokens_secret(federation):
    with federation.open() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
    secret = Token.from_bytes(token.read_bytes()).secret
    _, asked = request(federation, token)
    assert secret not in asked.read_bytes()
    assert secret.hex().encode() not in asked.read_bytes()
    assert b"enrolment-request" not in asked.read_bytes()[:40]
    assert medium.MAGIC in asked.read_bytes()


def test_a_stolen_token_used_by_stick_revokes_the_site_and_is_on_record(federation):
    with federation.open() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        _, asked = request(federation, token)
        stick.import_file(coordinator, asked)
        _, theirs = request(federation, token, name="thief", home=federation.folder / "thief")
        assert Kind.SITE_REVOKED not in kinds(coordinator)
        with pytest.raises(NotAllowedError, match="used with other keys; the site is revoked"):
            stick.import_file(coordinator, theirs)
        assert kinds(coordinator)[-1] is Kind.SITE_REVOKED


def test_a_token_for_a_stick_lives_as_long_as_it_was_given_and_no_longer(federation):
    with federation.open() as coordinator:
        with pytest.raises(StateError, match="30 days"):
            enrolments.issue_token(coordinator, "a", lifetime=timedelta(days=31))
        made = enrolments.issue_token(coordinator, "a", lifetime=timedelta(days=10))
        token = federation.folder / "a.token"
        token.write_bytes(made.to_bytes())
        _, asked = request(federation, token)
        coordinator.ahead = timedelta(days=11)
        with pytest.raises(NotAllowedError, match="token has expired"):
            stick.import_file(coordinator, asked)
        coordinator.ahead = timedelta(days=9)
        assert stick.import_file(coordinator, asked).site_state == registry.REQUESTED


def test_the_same_token_works_at_both_doors(federation):
    with federation.serving() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        code, asked = request(federation, token)
        stick.import_file(coordinator, asked)
        assert site.ask(federation.folder / "a", None) == code  # over the wire, as the same site
        enrolments.confirm(coordinator, "a", code)
        enrolment.enrol(federation.folder / "a", None, epsilon=None, delta=None)
        assert site.visit(federation.home("a"))


def test_a_tls_certificate_that_is_over_on_arrival_stops_nobody(federation):
    with federation.open() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        code, asked = request(federation, token)
        stick.import_file(coordinator, asked)
        enrolments.confirm(coordinator, "a", code)
        answer = exported(coordinator)
    late = now(timedelta(days=20))
    assert settle(federation, answer, at=late).site == "a"
    leaf = certificates.from_pem(federation.home("a").tls_chain.read_bytes())[0]
    assert leaf.not_valid_after_utc < late


def test_a_blueprint_by_stick_is_received_logged_and_taken_in_as_over_the_wire(federation):
    home = with_run(federation, enrol(federation))
    file = submitted(federation, home)
    with federation.open() as coordinator:
        done = stick.import_file(coordinator, file)
        assert (done.state, done.blueprint) == ("pending", federation.digest("a"))
        entries = [e.kind for e in logbook.events(coordinator) if e.subject == done.blueprint]
        assert entries == [Kind.BLUEPRINT_RECEIVED, Kind.BLUEPRINT_PENDING]
        before = kinds(coordinator)
        assert stick.import_file(coordinator, file) == done
        assert kinds(coordinator) == before  # twice commits once
        news = exported(coordinator)
    world = edge.visit(home, news, now=now())
    assert [s.state for s in world.blueprints] == ["pending"]
    assert len([entry for _, entry in contact.receipts(home)]) == 2


def test_the_stick_carries_the_bytes_of_the_wire(federation, no_intake):
    home = with_run(federation, enrol(federation))
    file = submitted(federation, home)
    [folder] = home.outbox.iterdir()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    data = file.read_bytes()
    for name in (outbox.ENVELOPE, outbox.WRAPPED, outbox.CIPHERTEXT):
        assert kept[name] in data
    again = submitted(federation, home)  # sealed once: no second statement, no second charge
    assert kept[outbox.ENVELOPE] in again.read_bytes()
    with federation.serving():
        sent = site.submit(home)  # and the line takes what the stick was to carry
    assert sent.blueprint == folder.name


def test_outbound_approval_holds_for_a_stick_and_travels_with_it(federation, no_intake):
    key = federation.folder / "officer.key"
    keys.save(key, keys.new_signing_key())
    public = keys.public_bytes(keys.load_signing(key))
    with federation.open() as coordinator:
        study = site.create_study(coordinator, name="strict", outbound_approval=True)
    home = enrol(federation)
    (home.path / outbound.POLICY).unlink()
    outbound.set_policy(home, outbound.Policy(officers=f"dr-okafor={public.hex()}"))
    runs.write_run(home, study, site.LABELS["a"], name="strict")
    file = federation.folder / "from-a.stick"
    with pytest.raises(KitError, match="second person's signature"):
        submitted(federation, home, "strict")
    digest = inspection.inspect(home, "strict", now=now()).statement
    with pytest.raises(KitError, match="nothing was sent"):
        submitted(federation, home, "strict")
    assert not file.exists()
    inspection.sign_outbound(home, "strict", key, digest[:8], now=now())
    assert submitted(federation, home, "strict") == file
    with federation.open() as coordinator:
        assert stick.import_file(coordinator, file).blueprint == digest
        received = next(e for e in logbook.events(coordinator) if e.subject == digest)
    assert received.details["officer"] == canonical.digest(public)


def test_a_witness_vouches_by_stick(federation):
    homes = {name: enrol(federation, name) for name in "ab"}
    file = federation.folder / "from-a.stick"
    with federation.open() as coordinator:
        before = edge.visit(homes["b"], exported(coordinator, "b"), now=now())
        assert before.vouchings == {}
        edge.visit(homes["a"], exported(coordinator), now=now())
        edge.write(homes["a"], file, now=now(timedelta(days=-20)), asks={})
        with pytest.raises(KitError, match="cosignature's time"):
            late(coordinator, file)
        stick.import_file(coordinator, file)
        after = edge.visit(homes["b"], exported(coordinator, "b"), now=now())
    [word] = after.vouchings.values()
    assert word.size == contact.known(homes["a"]).size


def late(coordinator, file):
    """What the same word meets over a line, where it must be of this hour."""
    with medium.opened(file) as opened:
        word = pb.CosignRequest.FromString(opened.read(rules.COSIGN))
    requests.cosign(coordinator, "a", word)


def test_an_upload_that_began_on_the_wire_is_finished_by_stick(federation, no_intake):
    home = with_run(federation, enrol(federation))
    file = submitted(federation, home)
    [folder] = home.outbox.iterdir()
    ciphertext = (folder / outbox.CIPHERTEXT).read_bytes()
    with federation.serving() as coordinator:
        with submission.Exchange.open(home) as exchange:
            announced = submission.announcement(home, home.study(site.STUDY), folder)
            assert exchange.begin(announced).durable == 0
            half = io.BytesIO(ciphertext[:100_000])
            sent = exchange.upload(folder.name, half, offset=0, sent=lambda _: None)
            assert sent.status.state == "receiving"
        done = stick.import_file(coordinator, file)
        assert (done.blueprint, done.state) == (folder.name, "received")


def test_a_file_is_believed_by_its_signature_alone(federation, no_intake):
    """There is no channel: whoever signs must be who the file speaks for, registered and active."""
    homes = {name: with_run(federation, enrol(federation, name)) for name in "ab"}
    file = submitted(federation, homes["a"])
    with federation.open() as coordinator:
        other = resigned(file, homes["b"])
        with pytest.raises(KitError, match="speaks for another site"):
            stick.import_file(coordinator, other)
        as_b = resigned(file, homes["b"], site="b")  # b's file around a's statement
        with pytest.raises(NotAllowedError, match="not the current one of this site"):
            stick.import_file(coordinator, as_b)
        assert stick.import_file(coordinator, file).state == "received"
        registry.revoke_site(coordinator, "a")
        with pytest.raises(NotAllowedError, match="was revoked"):
            stick.import_file(coordinator, file)


def resigned(file, home, **changes):
    """The same parts under another site's signature."""
    chain = submission.signing_chain(home)
    with medium.opened(file) as opened:
        names = [part.name for part in opened.index.parts if part.name != rules.COSIGN]
        contents = {name: opened.read(name) for name in names}
        contents[rules.CHAIN] = certificates.pem(*chain)
        index = dataclasses.replace(opened.index, parts=medium.describe(contents), **changes)
    made = file.with_name("resigned.stick")
    key = keys.load_signing(home.key("signing.key"))
    medium.save(
        made,
        index,
        contents,
        sign=lambda data: edge.sign(data, rules.PAYLOAD_TYPE, key, chain[0]),
    )
    return made


def test_a_release_by_stick_is_installed_and_a_withdrawn_one_stops(released):
    home = released.home("a")
    with released.open() as coordinator:
        first = exported(coordinator)
        done = edge.fetch(home, site.STUDY, first, now=now())
        assert installed.load(home, site.STUDY, now=now()).release.digest == done.release
        assert edge.fetch(home, site.STUDY, first, now=now()).bytes_downloaded == 0
        revoke(released, coordinator)
        later = exported(coordinator)
    with pytest.raises(KitError, match="every release of study"):
        edge.fetch(home, site.STUDY, later, now=now())
    with pytest.raises(KitError, match="is withdrawn"):
        installed.load(home, site.STUDY, now=now())


def revoke(federation, coordinator):
    digest = federation.digest("b")
    key = federation.reviewer()
    return revocation.revoke(coordinator, digest, reviewer_key=key, reason="gone")


def test_a18_an_old_stick_brings_no_withdrawn_model_back(released):
    home = released.home("a")
    with released.open() as coordinator:
        old = exported(coordinator).rename(released.folder / "old.stick")
        edge.fetch(home, site.STUDY, old, now=now())  # while it was new it was good
        revoke(released, coordinator)
    late = timedelta(seconds=2)
    with released.serving() as coordinator:
        site.wait_for(lambda: now() > edge.freshness(home).issued + late / 2)
        site.visit(home)
    with pytest.raises(KitError, match="before what this site knows already") as refusal:
        edge.fetch(home, site.STUDY, old, now=now(late))
    assert "hide a withdrawal" in refusal.value.hint
    with pytest.raises(KitError, match="is withdrawn"):
        installed.load(home, site.STUDY, now=now(late))


def test_a18_a_file_from_the_future_names_the_clock(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        news = exported(coordinator)
    with pytest.raises(KitError, match="from now, by this machine's clock"):
        edge.visit(home, news, now=now(timedelta(hours=-2)))
    assert edge.visit(home, news, now=now())
    with enrolled.open(ahead=timedelta(hours=-2)) as behind:
        file = enrolled.folder / "from-a.stick"
        edge.write(home, file, now=now(), asks={})
        with pytest.raises(KitError, match="from now, by this machine's clock"):
            stick.import_file(behind, file)
    with enrolled.open() as coordinator:
        assert stick.import_file(coordinator, file).site == "a"


def test_a17_past_its_time_a_stick_installs_nothing_and_what_is_installed_serves(released):
    home, late = released.home("a"), timedelta(days=36)
    with released.open() as coordinator:
        first = exported(coordinator)
    done = edge.fetch(home, site.STUDY, first, now=now())
    assert edge.warnings(home, now()) == []
    runs.write_run(home, home.study(site.STUDY), site.LABELS["a"], name="again")
    with pytest.raises(KitError, match="its news are taken, nothing is installed"):
        edge.fetch(home, site.STUDY, first, now=now(late))
    with pytest.raises(KitError, match="was valid until"):
        edge.submit(home, "again", released.folder / "late.stick", now=now(late))
    assert not (released.folder / "late.stick").exists()
    assert edge.submit(home, "again", released.folder / "in-time.stick", now=now())
    found = installed.load(home, site.STUDY, now=now(late))
    assert found.release.digest == done.release
    [warning] = edge.warnings(home, now(late))
    assert "a withdrawal since then is not known here" in warning


def test_a17_how_long_a_stick_holds_is_the_federations_to_say(released):
    home = released.home("a")
    with released.open() as coordinator:
        settings = dataclasses.replace(coordinator.config, stick_days=90)
        coordinator.__dict__["config"] = settings
        news = exported(coordinator)
        assert edge.fetch(home, site.STUDY, news, now=now(timedelta(days=89)))
    with pytest.raises(KitError, match="nothing is installed"):
        edge.fetch(home, site.STUDY, news, now=now(timedelta(days=91)))


def test_an_expired_stick_still_brings_a_withdrawal(released):
    home = released.home("a")
    with released.open() as coordinator:
        edge.fetch(home, site.STUDY, exported(coordinator), now=now())
        revoke(released, coordinator)
        late = exported(coordinator)
    assert installed.load(home, site.STUDY, now=now())
    with pytest.raises(KitError, match="nothing is installed"):
        edge.fetch(home, site.STUDY, late, now=now(timedelta(days=36)))
    with pytest.raises(KitError, match="is withdrawn"):
        installed.load(home, site.STUDY, now=now())


def test_a_file_for_another_site_is_refused(enrolled):
    with enrolled.open() as coordinator:
        for_b = exported(coordinator, "b")
        with pytest.raises(TrustError, match="for another site"):
            edge.visit(enrolled.home("a"), for_b, now=now())
        assert edge.visit(enrolled.home("b"), for_b, now=now())
        with pytest.raises(KitError, match="is for site `b`, not from it"):
            stick.import_file(coordinator, for_b)


def test_a_fork_of_the_log_is_seen_by_stick_as_well(enrolled, tmp_path):
    home = enrolled.home("a")
    fork = enrolled.clone(tmp_path / "fork")
    with enrolled.open() as coordinator:
        enrolments.issue_token(coordinator, "x")
        edge.visit(home, exported(coordinator), now=now())
        time.sleep(1)  # whole seconds: the lie must be the newer file
        with fork.open() as forked:
            enrolments.issue_token(forked, "y")
            enrolments.issue_token(forked, "z")
            lie = exported(forked)
        with pytest.raises(TrustError, match="contradict"):
            edge.visit(home, lie, now=now())
        assert edge.visit(home, exported(coordinator), now=now())


def test_a_coordinator_that_was_rolled_back_hears_of_it_by_stick(enrolled, tmp_path):
    home, file = enrolled.home("a"), enrolled.folder / "from-a.stick"
    backup = enrolled.clone(tmp_path / "backup")
    with enrolled.open() as coordinator:
        enrolments.issue_token(coordinator, "x")
        edge.visit(home, exported(coordinator), now=now())
        edge.write(home, file, now=now(), asks={})
        assert stick.import_file(coordinator, file).site == "a"
    size = contact.known(home).size
    with (
        backup.open() as restored,
        pytest.raises(StateError, match=f"the site has seen {size}"),
    ):
        stick.import_file(restored, file)


def test_a_withdrawal_by_stick_is_signed_by_the_sites_own_key(released):
    home, file = released.home("a"), released.folder / "from-a.stick"
    with released.open() as coordinator:
        edge.visit(home, exported(coordinator), now=now())
        edge.withdraw(home, site.STUDY, file, reason="consent", now=now())
        assert b"consent" not in file.read_bytes()
        done = stick.import_file(coordinator, file)
        assert done.orders == {released.digest("a"): "revoked"}
        before = kinds(coordinator)
        assert stick.import_file(coordinator, file) == done
        assert kinds(coordinator) == before
        world = edge.visit(home, exported(coordinator), now=now())
    assert {s.state for s in world.blueprints} == {"revoked"}
    with pytest.raises(KitError, match="nothing to withdraw"):
        edge.withdraw(home, site.STUDY, file, reason="again", now=now())


def test_a_tls_certificate_is_renewed_by_stick_once_per_request(enrolled):
    home, later = enrolled.home("a"), timedelta(days=5)
    file = enrolled.folder / "from-a.stick"
    before = home.tls_chain.read_bytes()
    edge.write(home, file, now=now(), asks={})
    with enrolled.open(ahead=later) as coordinator:
        assert stick.import_file(coordinator, file).renewed == ()  # not due
        edge.write(home, file, now=now(later), asks={})
        assert stick.import_file(coordinator, file).renewed == ("tls",)
        assert kinds(coordinator)[-1] is Kind.CERTIFICATE_RENEWED
        assert stick.import_file(coordinator, file).renewed == ()  # twice is once
        news = exported(coordinator)
    edge.visit(home, news, now=now(later))
    fresh = certificates.from_pem(home.tls_chain.read_bytes())[0]
    assert fresh.not_valid_after_utc > certificates.from_pem(before)[0].not_valid_after_utc
    assert keys.load_tls(home.key("tls.key")).public_key() == fresh.public_key()
    assert not home.next_tls_key.exists()


def test_an_old_renewal_request_is_not_honoured_again(enrolled):
    """A stolen retired key with its old request must not become a certificate again."""
    home, later = enrolled.home("a"), timedelta(days=5)
    old, newer = enrolled.folder / "old.stick", enrolled.folder / "newer.stick"
    edge.write(home, old, now=now(later), asks={})
    edge.write(home, newer, now=now(later), asks={})
    with enrolled.open(ahead=later) as coordinator:
        assert stick.import_file(coordinator, newer).renewed == ("tls",)
        before = kinds(coordinator)
        assert stick.import_file(coordinator, old).renewed == ()
        assert kinds(coordinator) == before


def test_a_file_that_waited_too_long_is_written_again(enrolled):
    home, file = enrolled.home("a"), enrolled.folder / "from-a.stick"
    edge.write(home, file, now=now(), asks={})
    with enrolled.open(ahead=timedelta(days=31)) as coordinator:
        with pytest.raises(NotAllowedError, match="was valid until") as refusal:
            stick.import_file(coordinator, file)
        assert "writes it again" in refusal.value.hint
    with enrolled.open(ahead=timedelta(days=29)) as coordinator:
        assert stick.import_file(coordinator, file).site == "a"
