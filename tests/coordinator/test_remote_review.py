"""A15: a reviewer signs away from the coordinator's machine, and never blindly."""

import json

import pytest

from coordinator import audit, cli, remote_review, reviews
from coordinator.errors import StateError
from coordinator.remote_review import Package
from federation.blueprint.approval import Approval, Decision
from kit import canonical, clock
from kit.errors import FormatError, KitError
from pki import keys
from tests.fakes import site


def asked(federation, name="a"):
    with federation.open() as coordinator:
        return Package.from_bytes(remote_review.package(coordinator, federation.digest(name)))


def signed(federation, package, *, decision=Decision.APPROVE, key=None, typed=None):
    return remote_review.sign(
        package,
        decision,
        key=key or federation.reviewer(),
        reason="plausible",
        typed=package.statement.digest[:8] if typed is None else typed,
        now=clock.utc_now(),
    )


def take(federation, record, *, name="a", decision=Decision.APPROVE):
    with federation.open() as coordinator:
        return remote_review.take(coordinator, federation.digest(name), decision, record)


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
    for bad in (swapped, table | {"version": 2}, table | {"extra": 1}):
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
    (hub / "keys" / "reviewer-reviewer-1.key").unlink()
    words = ["--key", key, "--reason", "plausible", "--record", record, "--digest", digest[:8]]
    assert run("approve", paper, *words)["blueprint"] == digest
    assert run("approve", digest[:12], "--home", hub, "--record", record)["state"] == "approved"
    with pytest.raises(KitError, match="--home with --key"):
        cli.app(["approve", digest[:12], "--home", str(hub)], standalone_mode=False)
