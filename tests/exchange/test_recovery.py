"""A4: a restored backup is refused, and comes back only as a signed record, replayed from sites."""

import shutil

import pytest

from coordinator import (
    audit,
    enrolments,
    exports,
    logbook,
    recovery,
    registry,
    releases,
    revocation,
    state,
)
from coordinator.errors import StateError
from edge_agent import contact, inspection
from edge_agent import recovery as site_recovery
from edge_agent.errors import TrustError
from federation.auditlog.recovery import Recovery, read
from kit.errors import FormatError, KitError
from pki import certificates, keys
from tests.fakes import site, states
from tests.fakes.records import submit
from tests.fakes.terminal import Terminal


def revoke(federation, digest):
    with federation.open() as coordinator:
        key = federation.reviewer()
        revocation.revoke(coordinator, digest, reviewer_key=key, reason="asked to")


def invite(federation, name):
    with federation.open() as coordinator:
        enrolments.issue_token(coordinator, name)


@pytest.fixture
def kept():
    """The backups of a test, oldest first."""
    return []


@pytest.fixture
def restored(enrolled, kept, monkeypatch):
    """Yesterday's database under today's sites: b saw what was lost, a saw one entry more."""
    # What is received stays so: the intake has its own tests, and takes its time.
    monkeypatch.setattr("coordinator.intake.supervisor.run_waiting", lambda _coordinator: 0)
    mine = submit(enrolled, "c")
    kept.append(states.keep(enrolled.hub))
    revoke(enrolled, mine)
    lost = submit(enrolled, "a")
    invite(enrolled, "d")
    with enrolled.serving():
        site.visit(enrolled.home("b"))
    invite(enrolled, "e")
    with enrolled.serving():
        site.visit(enrolled.home("a"))
    states.put_back(enrolled.hub, kept[0])
    site_recovery.export(enrolled.home("b"), enrolled.folder / "b-copy")
    return enrolled, mine, lost


def recover(federation, *copies, key=None):
    with federation.open() as coordinator:
        folders = [federation.folder / name for name in copies]
        return recovery.recover(
            coordinator, folders, reviewer_key=key or federation.reviewer(), reason="disk died"
        )


def test_what_a_backup_forgot_comes_back_from_a_site_s_copy(restored):
    federation, mine, lost = restored
    with federation.serving(), pytest.raises(KitError, match="the site has seen") as refusal:
        site.visit(federation.home("b"))
    assert "rolled back" in refusal.value.hint
    with federation.open() as coordinator:
        assert audit.verify(coordinator)  # the backup agrees with itself: only sites can tell
    done = recover(federation, "b-copy")
    assert done.done
    assert f"blueprint {lost}" in done.lost
    with federation.open() as coordinator:
        found = audit.verify(coordinator)  # tables and log agree again
        assert found.size > done.size
        rows = {r.digest: r for r in all_rows(coordinator)}
        assert (rows[mine].state, rows[mine].destroyed is not None) == ("revoked", True)
        assert lost not in rows
        with coordinator.state.read() as tx:
            assert set(releases.out_of_use(tx)[0]) == {mine, lost}
        sites = {s.id: s.state for s in registry.list_sites(coordinator)}
        assert sites == {"a": "active", "b": "active", "c": "active"}
    with federation.serving():
        world = site.visit(federation.home("b"))
        assert mine in world.trust.revoked_blueprints
        standing = inspection.status(federation.home("b"), now=site.clock.utc_now())
        assert standing.log_recoveries == 1
        site.visit(federation.home("c"))
    with pytest.raises(KitError, match="used before"):
        replay(federation, lost)


def all_rows(coordinator):
    with coordinator.state.read() as tx:
        return tx.all(state.blueprints.select())


def replay(federation, digest):
    """A site's outbox still holds what was lost; it is not taken as if nothing had been."""
    from coordinator import submissions

    home = federation.home("a")
    with federation.open() as coordinator, coordinator.state.read() as tx:
        row = registry.find_study(tx, site.STUDY)
        chain = certificates.from_pem(home.read(home.signing_chain, "chain"))
        used = submissions._expectations(coordinator, tx, "a", row.digest, chain).used_digests
    if digest in used:
        raise KitError("used before")


def test_a_site_that_saw_more_accepts_a_recovery_only_with_its_quorum_and_a_person(restored):
    federation, _, _ = restored
    a = federation.home("a")
    record = recover(federation, "b-copy").record
    with federation.serving():
        with pytest.raises(TrustError, match="contradicts what this site saw") as refusal:
            site.visit(a)
        assert "edge-agent audit accept" in refusal.value.hint
        made = read(record.read_bytes().splitlines())
        forged = federation.folder / "forged.jsonl"
        forged.write_bytes(made.sign(keys.new_signing_key()) + b"\n")
        with pytest.raises(FormatError, match="signed by nobody on a list of reviewers"):
            site_recovery.accept(a, forged)
        other = Recovery.from_bytes(made.to_bytes().replace(made.root.encode(), b"0" * 64))
        forged.write_bytes(other.sign(federation.reviewer()) + b"\n")
        with pytest.raises(TrustError, match="keeps another log"):
            site_recovery.accept(a, forged)
        earlier = Recovery.from_bytes(made.to_bytes().replace(b'"epoch":1', b'"epoch":2'))
        forged.write_bytes(earlier.sign(federation.reviewer()) + b"\n")
        with pytest.raises(TrustError, match=r"holds no `log\.recovered` with this record"):
            site_recovery.accept(a, forged)
        terminal = Terminal(federation.folder)
        refused = terminal.run("edge-agent", "a", "audit", "accept", "--record", record)
        assert refused.code != 0  # nobody answered the question
        assert "token.issued" in refused.err
        size = contact.known(a).size
        done = terminal.json("edge-agent", "a", "audit", "accept", "--record", record, "--yes")
        aside = federation.folder / "a" / "state" / "before-epoch-1"
        assert (aside / "log.jsonl").read_bytes().count(b"\n") == size
        assert done["log_size"] == site.visit(a).trust.size
        with pytest.raises(KitError, match="there is nothing to accept"):
            site_recovery.prepare(a, record)


def test_a_recovery_from_a_copy_of_another_log_is_refused(restored, kept):
    federation, _, _ = restored
    with pytest.raises(StateError, match="no copy is as long as this log"):
        recover(federation)
    invite(federation, "x")  # served on before anybody recovered: now there are two histories
    with pytest.raises(StateError, match="differ before entry") as refusal:
        recover(federation, "b-copy")
    assert "restore the backup again" in refusal.value.hint
    states.put_back(federation.hub, kept[0])
    with pytest.raises(FormatError, match="signed by nobody"):
        recover(federation, "b-copy", key=keys.new_signing_key())
    copy = federation.folder / "b-copy" / "leaves.jsonl"
    good = copy.read_bytes()
    copy.write_bytes(good.replace(b"site.confirmed", b"site.requested", 1))
    with pytest.raises(FormatError, match="are not those of its checkpoint"):
        recover(federation, "b-copy")
    copy.write_bytes(good)
    assert recover(federation, "b-copy").done


def test_two_sites_that_saw_two_logs_prove_it_by_comparing(restored):
    federation, _, _ = restored
    a, b = federation.home("a"), federation.home("b")
    same = site_recovery.compare(a, federation.folder / "b-copy")
    assert (same.agree, same.first) == (True, same.there)
    recover(federation, "b-copy")
    with federation.serving():
        site.visit(b)
    site_recovery.export(b, federation.folder / "b-later")
    with pytest.raises(TrustError, match="two logs under one key: they part at entry"):
        site_recovery.compare(a, federation.folder / "b-later")


def test_an_export_verifies_without_home_and_network(enrolled, tmp_path):
    with enrolled.serving():
        for name in ("a", "b"):
            site.visit(enrolled.home(name))
    with enrolled.open() as coordinator:
        size = exports.export(coordinator, tmp_path / "out")
        public = keys.public_bytes(coordinator.log_key).hex()
        assert size == len(logbook.events(coordinator))
        with pytest.raises(KitError, match="exists and is not empty"):
            exports.export(coordinator, tmp_path / "out")
    shutil.rmtree(enrolled.folder)
    terminal = Terminal(tmp_path)
    words = ("coordinator", None, "audit", "check", str(tmp_path / "out"))
    alone = terminal.json(*words)
    assert (alone["size"], alone["cosigned"], alone["witnesses"]) == (size, 3, 3)
    assert "compare it with a site's pins" in alone["log_key_is"]
    assert terminal.json(*words, "--log-key", public)["log_key_is"] == "the one you gave"
    refused = terminal.run(*words, "--log-key", "0" * 64)
    assert (refused.code, "another key" in refused.err) == (1, True)
    note = tmp_path / "out" / "checkpoint.note"
    text = note.read_text()
    note.write_text("\n".join(text.splitlines()[:5]) + "\n")
    assert exports.check(tmp_path / "out", public).cosigned == 0
    note.write_text(text)
    (tmp_path / "out" / "more").write_text("x")
    with pytest.raises(FormatError, match="a log export has the files"):
        exports.check(tmp_path / "out", public)
