"""A15: a reviewer signs away from the coordinator's machine, and never blindly."""

import dataclasses
import json
from datetime import timedelta

import pytest

from coordinator import audit, cli, remote_review, reviews
from coordinator.errors import StateError
from coordinator.home import CONFIG, CoordinatorConfig
from coordinator.remote_review import Package
from federation.blueprint.approval import Approval, Decision
from kit import canonical, clock, config
from kit.errors import FormatError, KitError
from pki import keys
from tests.fakes import runs, site


def asked(federation, name="a"):
    with federation.open() as coordinator:
        return Package.from_bytes(remote_review.package(coordinator, federation.digest(name)))


def signed(federation, package, *, decision=Decision.APPROVE, key=None, typed=None, now=None):
    return remote_review.sign(
        package,
        decision,
        key=key or federation.reviewer(),
        reason="plausible",
        typed=package.statement.digest[:8] if typed is None else typed,
        now=now or clock.utc_now(),
    )


def take(federation, record, *, name="a", decision=Decision.APPROVE):
    with federation.open() as coordinator:
        signed = remote_review.read_record(record)
        return remote_review.take(coordinator, federation.digest(name), decision, signed)


def test_a15_a_record_signed_elsewhere_counts_as_one_signed_here(pending):
    package = asked(pending)
    shown = package.shown()
    assert shown["blueprint"] == pending.digest("a")
    assert shown["outputs"] == site.LABELS["a"]
    record = signed(pending, package)
    assert take(pending, record).state == "approved"
    with pytest.raises(StateError, match="not pending"):
        take(pending, record)
    with pending.open() as coordinator:
        assert audit.verify(coordinator)
        assert reviews.show(coordinator, pending.digest("b")).state == "pending"


def test_a15_nobody_signs_what_they_did_not_compare(pending):
    package = asked(pending)
    other = asked(pending, "b").statement.digest
    for typed in ("", package.statement.digest[:7], other[:8]):
        with pytest.raises(FormatError, match="not the first digits"):
            signed(pending, package, typed=typed)
    with pytest.raises(FormatError, match="nobody on the study's list"):
        signed(pending, package, key=keys.new_signing_key())
    assert signed(pending, package)


def test_a15_a_package_says_what_its_bytes_say(pending):
    """The digest is that of the statement in hand, whatever the coordinator's machine showed."""
    with pending.open() as coordinator:
        data = remote_review.package(coordinator, pending.digest("a"))
    table = canonical.decode(data)
    assert Package.from_bytes(data).statement.digest == pending.digest("a")
    with pending.open() as coordinator:
        other = site.create_study(coordinator, name="other")
    swapped = table | {"study": canonical.b64encode(other.to_bytes())}
    for bad in (
        swapped,
        table | {"version": 1},
        table | {"extra": 1},
        table | {"aids": "all is well"},
    ):
        with pytest.raises(FormatError):
            Package.from_bytes(canonical.encode(bad))


def test_a15_an_altered_or_borrowed_record_is_not_taken(pending):
    record = signed(pending, asked(pending))
    table = canonical.decode(record)
    rejection = signed(pending, asked(pending), decision=Decision.REJECT)
    cases = [
        (canonical.encode(table | {"reason": "something else"}), "reason is not the one"),
        (canonical.encode(table | {"salt": "00" * 16}), "reason is not the one"),
        (canonical.encode(table | {"salt": 7}), "salt"),
        (rejection, "says reject, not approve"),
        (signed(pending, asked(pending, "b")), "another study or blueprint"),
    ]
    for data, reason in cases:
        with pytest.raises(KitError, match=reason):
            take(pending, data)
    assert pending.states()["a"] == "pending"
    envelope = canonical.b64decode(table["envelope"])
    study = asked(pending).study
    assert Approval.verify(envelope, study=study, blueprint=pending.digest("a"))
    assert take(pending, record).state == "approved"


def test_a15_the_three_commands_and_no_key_at_the_hub(pending, tmp_path, capsys):
    def run(*words):
        cli.app([*map(str, words), "--json"], prog_name="coordinator", standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    digest, hub = pending.digest("a"), pending.hub
    paper, record = tmp_path / "a.review", tmp_path / "a.record"
    key = tmp_path / "mine.key"
    keys.save(key, pending.reviewer())
    run("show", digest[:12], "--home", hub, "--to-sign", paper)
    (pending.roots / "reviewer-reviewer-1.key").unlink()
    words = ["--key", key, "--reason", "plausible", "--record", record, "--digest", digest[:8]]
    assert run("approve", paper, *words)["blueprint"] == digest
    assert run("approve", digest[:12], "--home", hub, "--record", record)["state"] == "approved"
    with pytest.raises(KitError, match="`approve` needs a reviewer's signature"):
        cli.app(["approve", digest[:12], "--home", str(hub)], standalone_mode=False)


@pytest.fixture
def slow(pending):
    """Blueprints that wait for review, in a federation where a revocation can be undone."""
    settings = config.load(pending.hub / CONFIG, CoordinatorConfig)
    config.save(pending.hub / CONFIG, dataclasses.replace(settings, revocation_grace_hours=72))
    return pending


def test_a15_a_revocation_and_its_undo_are_signed_elsewhere(slow):
    revocation = signed(slow, asked(slow), decision=Decision.REVOKE)
    with pytest.raises(FormatError, match="another study or blueprint"):
        take(slow, revocation, name="b", decision=Decision.REVOKE)
    with pytest.raises(FormatError, match="says revoke, not reject"):
        take(slow, revocation, decision=Decision.REJECT)
    done = take(slow, revocation, decision=Decision.REVOKE)
    assert done.done
    assert done.destroy_after
    assert slow.states()["a"] == "revoked"
    with pytest.raises(FormatError, match="says revoke, not restore"):
        take(slow, revocation, decision=Decision.RESTORE)
    undo = signed(slow, asked(slow), decision=Decision.RESTORE)
    back = take(slow, undo, decision=Decision.RESTORE)
    assert (back.done, back.state) == (True, "pending")
    with slow.open() as coordinator:
        assert audit.verify(coordinator)


def test_a15_a_quorum_counts_records_from_elsewhere_beside_those_signed_here(enrolled):
    second = keys.new_signing_key()
    names = {"reviewer-1": enrolled.reviewer(), "reviewer-2": second}
    reviewers = tuple(f"{n}={keys.public_bytes(k).hex()}" for n, k in names.items())
    with enrolled.serving() as coordinator:
        study = site.create_study(coordinator, name="two", quorum=2, reviewers=reviewers)
        site.visit(enrolled.home("a"))
        runs.write_run(enrolled.home("a"), study, site.LABELS["a"], name="two")
        site.submit(enrolled.home("a"), "two")
        site.wait_for(lambda: site.settled(enrolled))
    record = signed(enrolled, asked(enrolled), decision=Decision.REVOKE, key=second)
    assert not take(enrolled, record, decision=Decision.REVOKE).done
    with pytest.raises(StateError, match="decided to revoke this blueprint before"):
        take(enrolled, record, decision=Decision.REVOKE)
    assert enrolled.states()["a"] == "pending"
    with enrolled.open() as coordinator:
        assert site.revocation_of(enrolled, coordinator, "a").done


def test_a3_an_old_signature_revokes_nothing_again(slow):
    """Whoever kept a record that was used, or one that was not, must not use it later."""
    now = clock.utc_now()
    unused = signed(slow, asked(slow, "a"), decision=Decision.REVOKE, now=now - timedelta(hours=1))
    used = signed(slow, asked(slow, "a"), decision=Decision.REVOKE)
    take(slow, used, decision=Decision.REVOKE)
    take(slow, signed(slow, asked(slow), decision=Decision.RESTORE), decision=Decision.RESTORE)
    with pytest.raises(StateError, match="was taken before"):
        take(slow, used, decision=Decision.REVOKE)
    with pytest.raises(FormatError, match="before the blueprint was last revoked or restored"):
        take(slow, unused, decision=Decision.REVOKE)
    for away in (timedelta(days=-31), timedelta(minutes=30)):
        other = signed(slow, asked(slow, "b"), decision=Decision.REVOKE, now=now + away)
        with pytest.raises(FormatError, match="not within the last 30 days"):
            take(slow, other, name="b", decision=Decision.REVOKE)
    assert slow.states() == dict.fromkeys("abc", "pending")
    fresh = signed(slow, asked(slow), decision=Decision.REVOKE)
    assert take(slow, fresh, decision=Decision.REVOKE).done


def test_a15_revoke_by_the_commands_without_a_key_at_the_hub(slow, tmp_path, capsys):
    def run(*words):
        cli.app([*map(str, words), "--json"], prog_name="coordinator", standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    digest, hub = slow.digest("a"), slow.hub
    paper, key = tmp_path / "a.review", tmp_path / "mine.key"
    keys.save(key, slow.reviewer())
    run("show", digest[:12], "--home", hub, "--to-sign", paper)
    (slow.roots / "reviewer-reviewer-1.key").unlink()
    for undo, state in (([], True), (["--undo"], "pending")):
        record = tmp_path / f"a{len(undo)}.record"
        words = ["--key", key, "--reason", "stolen", "--record", record, "--digest", digest[:8]]
        assert run("revoke", paper, *words, *undo)["blueprint"] == digest
        here = ["--home", hub, "--record", record, "--yes", *undo]
        done = run("revoke", digest[:12], *here)
        assert done["done"] is True
        assert state in (done.get("state"), done["done"])
    with pytest.raises(KitError, match="`revoke` needs a reviewer's signature"):
        cli.app(["revoke", digest[:12], "--home", str(hub), "--yes"], standalone_mode=False)
    with pytest.raises(KitError, match="`revoke` needs the coordinator's folder"):
        cli.app(["revoke", digest[:12], "--key", str(key)], standalone_mode=False)
