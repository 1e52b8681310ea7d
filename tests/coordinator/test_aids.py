"""Review aids as a service: they look, they are shown, they decide nothing; and A20."""

import json
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from coordinator import (
    aids,
    cli,
    inspections,
    logbook,
    payloads,
    remote_review,
    review_records,
    reviews,
    sketches,
    state,
)
from coordinator.errors import NotFoundError, StateError
from coordinator.intake import limited, supervisor
from coordinator.remote_review import Package
from federation.blueprint.approval import Decision
from federation.learning.generator import architecture as networks
from federation.learning.review.finding import Aid, Finding, Outcome
from federation.learning.review.sketch import CLASS_BITS, WEIGHT_BITS, Sketch
from tests.fakes import runs, site


def outcomes(inspection):
    return {finding.aid: finding.outcome for finding in inspection.findings}


def drawn_file(coordinator, digest):
    return coordinator.stores.shards.path(payloads.drawn_name(digest))


@pytest.fixture(scope="module")
def examined_once(tmp_path_factory):
    """Three blueprints that wait for review and were examined, each among the others."""
    folder = tmp_path_factory.mktemp("examined")
    federation = site.copy("pending", folder, tmp_path_factory.getbasetemp())
    with federation.open() as coordinator:
        assert reviews.show(coordinator, federation.digest("a")).aids[0] == inspections.NONE_YET
        before = len(logbook.events(coordinator))
        found = aids.inspect(coordinator, site.STUDY)
        assert {each.site for each in found} == {"a", "b", "c"}
        assert len(logbook.events(coordinator)) == before
    return federation


@pytest.fixture
def examined(examined_once, tmp_path):
    return examined_once.clone(tmp_path / "federation")


def test_what_the_aids_find_is_kept_and_shown_and_decides_nothing(examined, capsys):
    digest = examined.digest("a")
    with examined.open() as coordinator:
        found = inspections_of(coordinator, digest)
        assert [finding.aid for finding in found.findings] == list(Aid)
        assert found.compared_with == tuple(sorted(map(examined.digest, "bc")))
        assert found.is_of_today
        assert outcomes(found)[Aid.CLASSES] is not Outcome.CANNOT_TELL
        # Labels that nobody else declares.
        assert outcomes(found)[Aid.LABELS] is outcomes(found)[Aid.TRIGGER] is Outcome.CANNOT_TELL
        assert outcomes(found)[Aid.REVOKED] is Outcome.CLEAR
        assert reviews.show(coordinator, digest).aids == found.lines()
        shown = Package.from_bytes(remote_review.package(coordinator, digest)).shown()
        assert shown["aids_by_the_coordinator"] == found.lines()
    assert set(examined.states().values()) == {"pending"}
    home = ["--home", str(examined.hub)]
    assert cli.run(["inspect", digest[:8], *home, "--json"]) == 0
    [again] = json.loads(capsys.readouterr().out)
    assert again["findings"] == [json.loads(json.dumps(f.to_table())) for f in found.findings]
    flag(examined, digest)
    assert cli.run(["approve", digest, *home, *by(examined)]) == 0
    assert "review aids: noise: flagged: look" in capsys.readouterr().err
    assert cli.run(["approve", examined.digest("b"), *home, *by(examined)]) == 0
    assert "flagged: look" not in capsys.readouterr().err
    assert examined.states() == {"a": "approved", "b": "approved", "c": "pending"}


def flag(federation, digest):
    """Let an aid have flagged something."""
    flagged = Finding(
        aid=Aid.NOISE, outcome=Outcome.FLAGGED, measure=0.0, threshold=0.25, words="look"
    )
    with federation.open() as coordinator, coordinator.write() as tx:
        review_records.keep(tx, digest, (), [flagged])


def by(federation):
    key = federation.roots / "reviewer-reviewer-1.key"
    return ["--key", str(key), "--reason", "seen"]


def test_what_was_found_goes_with_the_blueprint_and_with_those_it_was_compared_with(examined):
    digest, other = examined.digest("a"), examined.digest("b")
    with examined.open() as coordinator:
        kept = drawn_file(coordinator, digest)
        assert kept.stat().st_mode & 0o077 == 0
        assert reviews.show(coordinator, other).aids[0].startswith("made ")
        reviews.decide(
            coordinator, digest, Decision.REJECT, reviewer_key=examined.reviewer(), reason="no"
        )
        assert not kept.exists()
        assert reviews.show(coordinator, other).aids[0] == inspections.NONE_YET
        with pytest.raises(StateError, match="is rejected; the aids look at pending"):
            aids.inspect(coordinator, digest)
        with pytest.raises(NotFoundError, match="is not a digest"):
            aids.inspect(coordinator, "no-such-study")
        [found] = aids.inspect(coordinator, other)
        assert found.compared_with == (examined.digest("c"),)


def test_a_process_beyond_its_limits_leaves_nothing_behind(examined, monkeypatch):
    digest = examined.digest("a")
    tiny = limited.Limits(memory_bytes=48 << 20, timeout_s=60)
    with examined.open() as coordinator:
        coordinator.stores.shards.delete(payloads.drawn_name(digest))
        review_records.forget(coordinator, digest)
        for name in ("DRAW_LIMITS", "SCAN_LIMITS"):
            with monkeypatch.context() as patched:
                patched.setattr(aids, name, tiny)
                with pytest.raises(limited.CheckFailedError, match="memory limit or crash"):
                    aids.inspect(coordinator, digest)
            assert reviews.show(coordinator, digest).aids[0] == inspections.NONE_YET
            assert drawn_file(coordinator, digest).exists() is (name == "SCAN_LIMITS")
        assert aids.inspect(coordinator, digest)[0].made


def test_one_that_cannot_be_examined_does_not_keep_the_others_from_it(examined, monkeypatch):
    bad, run = examined.digest("a"), aids._inspect

    def one_fails(coordinator, digest):
        if digest == bad:
            raise limited.CheckFailedError("it drew nothing")
        run(coordinator, digest)

    with examined.open() as coordinator:
        others = [examined.digest(name) for name in "bc"]
        for digest in (bad, *others):
            review_records.forget(coordinator, digest)
        with monkeypatch.context() as patched:
            patched.setattr(aids, "_inspect", one_fails)
            with pytest.raises(limited.CheckFailedError, match=f"not examined: `{bad[:16]}`"):
                aids.inspect(coordinator, site.STUDY)
        shown = {d: reviews.show(coordinator, d).aids[0] for d in (bad, *others)}
        assert shown[bad] == inspections.NONE_YET
        assert all(shown[digest] != inspections.NONE_YET for digest in others)
        assert len(aids.inspect(coordinator, site.STUDY)) == 3


def revoke_and_send(federation, name, change):
    """Revoke a site's blueprint, change its weights a little, and bring it in again."""
    home, study = federation.home(name), federation.home(name).study(site.STUDY)
    table = networks.expected_tensors(networks.architecture_for(study, "tiny"))
    with federation.serving() as coordinator:
        site.revocation_of(federation, coordinator, name)
        site.visit(home)  # for the recipient key that took the old one's place
        seed = list(site.LABELS).index(name)
        again = runs.write_run(home, study, site.LABELS[name], name="again", seed=seed)
        change(home, again, table)
        site.submit(home, run=again)
        site.wait_for(lambda: site.settled(federation))
    states = federation.states()
    assert states[name] == "pending", states
    with federation.open() as coordinator:
        return inspections_of(coordinator, federation.digest(name))


def inspections_of(coordinator, digest):
    with coordinator.state.read() as tx:
        return inspections.of(tx, reviews.find(tx, digest))


def revoked_finding(inspection):
    return next(finding for finding in inspection.findings if finding.aid is Aid.REVOKED)


def other_training(home, run, _table):
    study = home.study(site.STUDY)
    runs.write_run(home, study, site.LABELS["a"], name=run, seed=77)


@pytest.mark.parametrize("change", [runs.change_one_weight, other_training])
def test_a20_one_changed_bit_of_a_revoked_blueprint_is_flagged_another_training_is_not(
    pending, change
):
    gone = pending.digest("a")
    found = revoked_finding(revoke_and_send(pending, "a", change))
    with pending.open() as coordinator:
        control = revoked_finding(inspections_of(coordinator, pending.digest("b")))
        with pytest.raises(NotFoundError):
            payloads.keystore(coordinator).get(payloads.BLUEPRINT, gone)  # shredded, and known
    assert gone[:16] in found.words
    assert "the same site's revoked" in found.words
    is_copy = change is runs.change_one_weight
    assert found.outcome is (Outcome.FLAGGED if is_copy else Outcome.CLEAR)
    assert (found.measure >= found.threshold) is is_copy
    assert control.outcome is Outcome.CLEAR
    assert "another site's revoked" in control.words


def test_a20_a_sketch_is_bits_and_no_build_reads_one(examined):
    with examined.open() as coordinator, coordinator.state.read() as tx:
        kept = [json.loads(row.sketch) for row in tx.all(sa.select(state.sketches))]
    classes = [len(labels) for labels in site.LABELS.values()]
    held = [len(k["weights"]) * 4 + sum(len(b) * 4 for b in k["classes"].values()) for k in kept]
    assert sorted(held) == sorted(WEIGHT_BITS + CLASS_BITS * n for n in classes)
    for name in site.LABELS:
        site.approve(examined, name)
    without = examined.clone(examined.folder.parent / "without")
    with without.open() as coordinator:
        with coordinator.write() as tx:
            tx.execute(sa.delete(state.sketches))
            tx.execute(sa.delete(state.review_aids))
            tx.put("sketch-key", "00" * 32)
        for name in site.LABELS:
            digest = without.digest(name)
            coordinator.stores.shards.delete(payloads.drawn_name(digest))
            assert reviews.show(coordinator, digest).aids[0] == inspections.NONE_YET
    assert site.build(without).release == site.build(examined).release


def test_a20_a_blueprint_of_before_sketches_says_that_it_cannot_tell(pending):
    with pending.open() as coordinator:
        with coordinator.write() as tx:
            tx.execute(sa.delete(state.sketches))
        found = revoked_finding(inspections_of(coordinator, pending.digest("a")))
    assert found.outcome is Outcome.CANNOT_TELL


GOOD = [
    Finding(aid=aid, outcome=Outcome.CLEAR, measure=None, threshold=1.0, words="").to_table()
    for aid in Aid
    if aid is not Aid.REVOKED
]


def test_the_verdicts_of_the_processes_are_read_as_a_stranger_s():
    assert len(aids._findings(GOOD)) == len(GOOD)
    revoked = GOOD[0] | {"aid": "revoked"}
    for bad in (None, [], GOOD[1:], GOOD[::-1], [revoked, *GOOD[1:]], [*GOOD, GOOD[0]], ["x"]):
        with pytest.raises(limited.CheckFailedError, match="no readable verdict"):
            aids._findings(bad)
    sketch = Sketch(
        layout="0" * 64,
        shape="1x8x8",
        weights=bytes(WEIGHT_BITS // 8),
        classes={"cat": bytes(CLASS_BITS // 8)},
    )
    statement = SimpleNamespace(outputs=("cat",))
    assert supervisor._sketch(sketch.to_table(), statement) == sketch
    for outputs in ((), ("cat", "dog"), ("dog",)):
        with pytest.raises(limited.CheckFailedError, match="no readable verdict"):
            supervisor._sketch(sketch.to_table(), SimpleNamespace(outputs=outputs))
    with pytest.raises(limited.CheckFailedError, match="no readable verdict"):
        supervisor._sketch({}, statement)


def test_the_key_of_the_sketches_is_made_once_and_is_the_coordinator_s(pending, tmp_path):
    with pending.open() as coordinator:
        first = sketches.key(coordinator)
        assert sketches.key(coordinator) == first
        assert len(first) == 32
    (tmp_path / "other").mkdir()
    with site.found(tmp_path / "other").open() as coordinator:
        assert sketches.key(coordinator) != first
