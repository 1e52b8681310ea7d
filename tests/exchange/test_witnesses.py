"""A4, A5, S13: every site reads the whole log, vouches for it, and wants others to vouch."""

import shutil
from datetime import timedelta

import pytest

from coordinator import audit, enrolments, logbook, registry, rekeying
from edge_agent import contact, inspection, installed
from edge_agent.errors import TrustError
from edge_agent.exchange import Exchange
from federation.auditlog.checkpoint import Checkpoint, Receipt
from federation.auditlog.events import Kind
from kit.errors import KitError
from pki import keys
from tests.fakes import site, states
from tests.fakes.commands import run
from tests.fakes.records import publish
from tests.fakes.terminal import Terminal


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    """Sites a, b and c of a federation that wants one other site to vouch."""
    folder = tmp_path_factory.mktemp("founded")
    federation = site.found(folder, cosigners=1)
    with federation.open() as coordinator:
        site.create_study(coordinator)
    with federation.serving() as coordinator:
        for name in ("a", "b", "c"):
            site.enrol(coordinator, federation, name)
    return federation


@pytest.fixture
def federation(founded, tmp_path):
    return founded.clone(tmp_path / "federation")


def fetch(home):
    return installed.fetch(home, site.STUDY, got=lambda *_: None)


def test_a_site_reads_every_leaf_and_vouches_for_what_it_read(federation):
    home = federation.home("a")
    with federation.serving() as coordinator:
        world = site.visit(home)
        assert world.log.leaves == tuple(logbook.page(coordinator, 0))
        assert [w.pseudonym for w in world.log.history.witnesses]
        with coordinator.state.read() as tx:
            [note] = [n for n in logbook.Proofs(coordinator, tx).witnessed() if "/s-" in n][-1:]
        names = {line.split(" ")[1].rpartition("/")[2] for line in note.splitlines()[4:]}
        own = world.log.own_name(contact.witness_key(home)).rpartition("/")[2]
        assert own in names
        assert home.log_copy.read_bytes().count(b"\n") == world.trust.size
        again = site.visit(home)
        assert own in again.vouchings
        assert audit.verify(coordinator).witnesses == 3


def test_the_log_is_read_page_by_page(federation, monkeypatch):
    monkeypatch.setattr(logbook, "MAX_PAGE_LEAVES", 3)
    home = federation.home("a")
    home.log_copy.unlink()  # as in a home from before copies were kept
    with federation.serving():
        world = site.visit(home)
        assert len(world.log.leaves) == world.trust.size > 9


def test_a_release_is_taken_only_once_enough_others_vouch_for_its_entry(federation):
    """A5: k-of-n other sites' cosignatures before a release is accepted."""
    made = publish(federation)
    a, b = federation.home("a"), federation.home("b")
    with federation.serving():
        for _ in range(2):  # its own signature does not count
            with pytest.raises(KitError, match="0 of 2 other sites vouch") as refusal:
                fetch(a)
        assert "run the same command again later" in refusal.value.hint
        site.visit(b)
        with pytest.raises(KitError, match="ONNX"):
            fetch(a)  # downloaded, and only then found to be no model
        assert (a.releases / made.digest).is_dir()
        assert (
            "2 of 2 other sites vouch; all of them for"
            in inspection.status(a, now=site.clock.utc_now()).log_cosigned
        )


def test_an_export_names_the_model_that_too_few_others_vouch_for(federation, tmp_path):
    """A5, A17: the site without a line would wait with it, and nobody would have told."""
    made = publish(federation)
    words = ("coordinator", "export", "a", "--home", federation.hub, "--out", tmp_path / "a.stick")
    early = run(*words)
    assert early.code == 0, early.err
    expected = f"coordinator: warning: site `a` installs `{made.digest[:16]}` (0 of 1) only once"
    assert early.err.startswith(expected)
    with federation.serving():
        site.visit(federation.home("a"))
        assert run(*words).err == early.err  # its own word is not another's
        site.visit(federation.home("b"))
    late = run(*words)
    assert (late.code, late.err) == (0, "")


def test_a_fork_shown_to_another_site_is_refused(federation, tmp_path):
    """A5: two logs under one key, each consistent for its reader."""
    fork = federation.clone(tmp_path / "two")
    shutil.copytree(federation.home("b").path, tmp_path / "b-before")
    publish(federation)
    publish(fork, model=b"what only b is shown")
    with federation.serving():
        site.visit(federation.home("a"))
        site.visit(federation.home("c"))
    with fork.serving():
        b = fork.home("b")
        with pytest.raises(KitError, match="0 of 2 other sites vouch"):
            fetch(b)  # everything about it is consistent, but nobody else was shown it
        with federation.open() as honest:
            lines = rows(honest)
    insert(fork, lines)  # the coordinator hands over what the others signed: it does not fit
    with fork.serving(), pytest.raises(KitError, match="does not fit"):
        site.visit(fork.home("b"))
    with federation.serving():
        federation._point(fork.home("b"), federation_config(federation))
        with pytest.raises(TrustError, match="contradicts what this site saw"):
            site.visit(fork.home("b"))
        assert site.visit(federation.home("b")).trust.size  # who never saw the fork goes on


def federation_config(federation):
    with federation.open() as coordinator:
        return coordinator.config


def rows(coordinator):
    from coordinator import state

    with coordinator.state.read() as tx:
        found = tx.all(state.cosignatures.select())
        newest = max(row.size for row in found)
    return [tuple(row) for row in found if row.size == newest]


def insert(federation, lines):
    with federation.database() as database:
        database.execute("DELETE FROM cosignatures")
        for line in lines:
            database.execute("INSERT INTO cosignatures VALUES (?, ?, ?, ?)", line)


def test_a_cosignature_is_taken_from_the_site_that_made_it_and_for_this_log_only(federation):
    a, c = federation.home("a"), federation.home("c")
    with federation.serving() as coordinator:
        world = site.visit(a)
        size = world.trust.size
        key = keys.load_signing(a.key("witness.key"))
        now = coordinator.now()
        good = world.log.cosign(key, at=now)
        other = Checkpoint(origin=coordinator.log_origin, size=size, root=bytes(32))
        name = world.log.own_name(contact.witness_key(a))
        with Exchange.open(a) as exchange:
            exchange.cosign(size, good)
            for bad_size, line, words in (
                (size, other.cosign(key, name=name, at=now), "does not fit"),
                (size + 1, good, "nothing else can be cosigned"),
                (0, good, "nothing else can be cosigned"),
                (size - 1, good, "does not fit"),
                (size, world.log.cosign(key, at=now - timedelta(hours=2)), "time is not now"),
                (size, good.replace(name, name + "x"), "not one of this witness"),
            ):
                with pytest.raises(KitError, match=words):
                    exchange.cosign(bad_size, line)
        with Exchange.open(c) as exchange, pytest.raises(KitError, match="not one of this witness"):
            exchange.cosign(size, good)


def test_receipts_say_who_cosigned_and_verify_without_network_and_coordinator(federation):
    """`cosigned by k of n at t`, from plain files."""
    publish(federation)
    a = federation.home("a")
    with federation.serving():
        site.visit(federation.home("b"))
        site.visit(a)
        site.visit(a)  # now its own signature is on the checkpoint as well
    shutil.rmtree(federation.hub)
    [proof] = a.receipts.glob("*release.published*.tlog-proof")
    terminal = Terminal(federation.folder)
    shown = terminal.json("edge-agent", "a", "audit", "verify", "--receipt", str(proof))
    assert shown["event"] == "release.published"
    assert shown["cosigned"].startswith("cosigned by 2 of 3 sites at 20")
    text = proof.read_text()
    lines = text.splitlines()
    proof.write_text("\n".join(lines[:-1]) + "\n")
    one = inspection.audit_receipt(a, proof)
    assert one.cosigned.startswith("cosigned by 1 of 3 sites")
    altered = lines[-1][:-8] + ("AAAAAAA=" if not lines[-1].endswith("AAAAAAA=") else "BBBBBBB=")
    proof.write_text("\n".join([*lines[:-1], altered]) + "\n")
    with pytest.raises(KitError):
        inspection.audit_receipt(a, proof)


def test_a_site_whose_trust_state_was_deleted_believes_nothing(federation):
    """A4: without the last checkpoint any log would be consistent."""
    a = federation.home("a")
    publish(federation)
    with federation.serving():
        site.visit(federation.home("b"))
        before = site.visit(a).trust
        a.trust.unlink()
        with pytest.raises(TrustError, match=r"trust\.json` is missing") as refusal:
            site.visit(a)
        assert "edge-agent audit rebuild" in refusal.value.hint
        with pytest.raises(TrustError, match="is missing"):
            inspection.audit(a, offline=True)
        terminal = Terminal(federation.folder)
        done = terminal.run("edge-agent", "a", "audit", "rebuild", "--yes", "--json")
        assert done.code == 0, done.err
        assert "is not proved any more" in done.err
        assert contact.known(a).size == before.size
        with pytest.raises(KitError, match="nothing is to be rebuilt"):
            inspection.rebuild(a)


def test_a_site_without_even_its_token_s_checkpoint_believes_nothing(federation):
    a = federation.home("a")
    with federation.serving():
        site.visit(a)
        for path in (a.path / "state").iterdir():
            path.rename(federation.folder / path.name)
        with pytest.raises(TrustError, match="not even the checkpoint of the enrolment token"):
            site.visit(a)
        (federation.folder / "first-checkpoint.note").rename(a.first_checkpoint)
        assert site.visit(a)


def test_a_rebuild_believes_no_log_that_a_receipt_contradicts(federation):
    a = federation.home("a")
    with federation.open() as coordinator, coordinator.write() as tx:
        tx.record(Kind.TOKEN_ISSUED, "0" * 64, site="s-1")
    old = states.keep(federation.hub)
    publish(federation)
    with federation.serving():
        site.visit(a)
    a.trust.unlink()
    states.put_back(federation.hub, old)
    publish(federation, model=b"another")
    with federation.serving(), pytest.raises(TrustError, match="contradicts the receipt"):
        inspection.rebuild(a)
    assert not a.trust.exists()


def test_the_token_pins_the_first_checkpoint(federation, tmp_path):
    """A5: a site that enrols is shown a log that contains the one of its invitation."""
    with federation.serving() as coordinator:
        token = site.token_file(coordinator, "d", tmp_path)
        code = site.ask(federation.folder / "d", token)
        enrolments.confirm(coordinator, "d", code)
        site.enrolment.enrol(federation.folder / "d", None, epsilon=8.0, delta=1e-5)
        home = federation.home("d")
        pinned = home.first_checkpoint.read_text()
        head = Checkpoint.verify(pinned, origin=home.pins.log_origin, key=home.pins.log_key)
        assert head.size < site.visit(home).trust.size
    other = Checkpoint(origin=head.origin, size=head.size, root=bytes(32))
    log_key = keys.load_signing(federation.hub / "keys" / "log.key")
    home.first_checkpoint.write_text(other.sign(log_key))
    with federation.serving(), pytest.raises(TrustError, match="enrolment token's checkpoint"):
        site.visit(home)
    home.first_checkpoint.write_text(pinned)
    with federation.serving():
        assert site.visit(home)


def test_an_altered_copy_of_the_log_is_noticed(federation):
    a = federation.home("a")
    with federation.serving():
        site.visit(a)
        good = a.log_copy.read_bytes()
        a.log_copy.write_bytes(good.replace(b"site.confirmed", b"site.requested"))
        with pytest.raises(TrustError, match="is not the one that this site verified"):
            site.visit(a)
        a.log_copy.write_bytes(good + b"half a li")  # what a crash leaves is written over
        assert site.visit(a)
        assert a.log_copy.read_bytes() == good


def test_a_study_whose_terms_changed_under_its_name_is_not_taken(federation, monkeypatch):
    from dataclasses import replace

    from coordinator import state
    from federation.study import Study

    a = federation.home("a")
    with federation.serving() as coordinator:
        site.visit(a)
        with coordinator.write() as tx:
            row = registry.find_study(tx, site.STUDY)
            old = Study.from_bytes(row.manifest)
            tx.execute(state.studies.update().values(id="moved"))
            tx.execute(state.recipient_keys.delete())
        weaker = replace(old, quorum=1, title="other terms")
        registry.create_study(coordinator, weaker, signer=site.study_key(coordinator))
        with pytest.raises(TrustError, match="with other terms, but not as a new round") as said:
            site.visit(a)
        assert old.digest[:16] in said.value.hint
        with coordinator.write() as tx:
            tx.execute(state.studies.delete().where(state.studies.c.digest == weaker.digest))
            tx.execute(state.recipient_keys.delete())
        again = replace(weaker, round=2)
        registry.create_study(coordinator, again, signer=site.study_key(coordinator))
        site.visit(a)
        assert a.study(site.STUDY).round == 2


def test_one_site_cannot_make_the_log_grow_at_will(federation, monkeypatch):
    monkeypatch.setattr(logbook, "MAX_ENTRIES_A_DAY", 3)
    from pki import certificates

    def renew(coordinator, name):
        rekeying.renew(coordinator, name, certificates.request(keys.new_tls_key()))

    with federation.open() as coordinator:
        for _ in range(3):
            renew(coordinator, "a")
        with pytest.raises(KitError, match="caused 3 log entries today") as refusal:
            renew(coordinator, "a")
        assert "midnight" in refusal.value.hint
        renew(coordinator, "b")
        coordinator.ahead = timedelta(days=1)
        renew(coordinator, "a")


def test_a_receipt_of_a_submission_waits_for_no_cosignature(federation):
    """The newest entries have no cosignatures yet; what is kept says so and is renewed later."""
    a = federation.home("a")
    publish(federation)
    with federation.serving():
        site.visit(a)
        [proof] = a.receipts.glob("*release.published*.tlog-proof")
        first = inspection.audit_receipt(a, proof).cosigned
        site.visit(federation.home("b"))
        site.visit(a)
        later = inspection.audit_receipt(a, proof).cosigned
    assert first == "cosigned by 0 of 3 sites"
    assert later.startswith("cosigned by 2 of 3 sites at")
    assert Receipt.from_text(proof.read_text()).checkpoint.count("\u2014") == 3
