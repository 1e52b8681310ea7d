"""What follows from a log alone: who is a witness, what is in force, how many must vouch."""

import pytest

from federation.auditlog.events import Event, Kind, read_leaf, reread_leaf
from federation.auditlog.history import Founding, History, Logged, revocations_digest
from kit import canonical
from kit.errors import FormatError


def digest(text):
    return canonical.digest(text.encode())


def event(kind, subject="x", actor="coordinator", time="2026-01-31T12:00:00Z", **details):
    return Event(
        kind=kind,
        time=time,
        subject=digest(subject),
        actor=actor,
        details=details,
    )


def joins(name):
    """A site's way onto the log: three entries, the last of which makes it a witness."""
    return [
        event(Kind.TOKEN_ISSUED, site=name),
        event(Kind.SITE_CONFIRMED, site=name),
        event(Kind.WITNESS_REGISTERED, f"key of {name}", site=name),
    ]


def founded(cosigners, *names):
    log = [event(Kind.FEDERATION_CREATED, study_key=digest("study key"), cosigners=cosigners)]
    for name in names:
        log += joins(name)
    return log


def key(name):
    return bytes.fromhex(digest(f"key of {name}"))


def active(history, size=None):
    return {w.pseudonym for w in history.active_witnesses(size or history.size)}


def test_a_witness_counts_from_its_entry_on_until_it_is_shut_out():
    log = [*founded(1, "s-a", "s-b"), event(Kind.SITE_REVOKED, site="s-a")]
    history = History().read(log)
    assert active(history, 3) == set()
    assert active(history, 4) == {"s-a"}
    assert active(history, 7) == {"s-a", "s-b"}
    assert active(history) == {"s-b"}
    assert history.sites == {"s-a": "revoked", "s-b": "active"}


def test_a_new_key_of_a_site_replaces_the_old_one():
    log = [*founded(1, "s-a"), event(Kind.WITNESS_REGISTERED, "second", site="s-a")]
    history = History().read(log)
    [witness] = history.active_witnesses(history.size)
    assert witness.key == bytes.fromhex(digest("second"))
    assert {w.pseudonym for w in history.others(key("s-a"))} == set()  # both keys are its own


@pytest.mark.parametrize(
    ("cosigners", "names", "needed"),
    [
        (1, ["s-a"], 0),
        (1, ["s-a", "s-b"], 1),
        (2, ["s-a", "s-b"], 1),
        (2, ["s-a", "s-b", "s-c"], 2),
        (0, ["s-a", "s-b", "s-c"], 0),
        (5, ["s-a", "s-b", "s-c"], 2),
    ],
)
def test_how_many_others_must_vouch_follows_from_the_log(cosigners, names, needed):
    assert History().read(founded(cosigners, *names)).needed(key("s-a")) == needed


def test_shutting_sites_out_lowers_nothing():
    log = founded(2, "s-a", "s-b", "s-c")
    assert History().read(log).needed(key("s-a")) == 2
    log += [event(Kind.SITE_REVOKED, site=name) for name in ("s-b", "s-c")]
    history = History().read(log)
    assert (history.needed(key("s-a")), active(history)) == (2, {"s-a"})


def test_a_log_reads_the_same_in_pieces():
    log = founded(1, "s-a", "s-b")
    pieces = History()
    for start in range(0, len(log), 2):
        pieces.read(log[start : start + 2])
    assert pieces == History().read(log)


def test_the_newest_entry_of_each_thing_is_in_force():
    log = [
        event(Kind.STUDY_CREATED, "study", round=1),
        event(Kind.RECIPIENT_ISSUED, "old", study=digest("study"), site="s-a"),
        event(Kind.RECIPIENT_ISSUED, "new", study=digest("study"), site="s-a"),
        event(Kind.BLUEPRINT_RECEIVED, "b", actor="s-a"),
        event(Kind.BLUEPRINT_REVOKED, "b"),
        event(Kind.KEY_DESTROYED, "b"),
        event(Kind.KEY_DESTROYED, "old", what="recipient-key"),
        event(Kind.RELEASE_PUBLISHED, "r"),
        event(Kind.RELEASE_WITHDRAWN, "r"),
        event(Kind.REVOCATIONS_CHANGED, "list", number=3),
        event(Kind.STUDY_CLOSED, "study"),
    ]
    history = History().read(log)
    assert list(history.recipients.values()) == [digest("new")]
    assert history.blueprints == {digest("b"): "revoked"}
    assert history.destroyed == {digest("b")}
    assert history.releases == {digest("r"): True}
    assert history.revocations == (3, digest("list"))
    assert history.closed == set(history.studies) == {digest("study")}


def test_a_recovery_ends_the_approvals_of_what_was_lost():
    log = [
        event(Kind.APPROVAL_RECORDED, "b", record=digest("kept")),
        event(Kind.APPROVAL_RECORDED, "b", record=digest("lost")),
        event(Kind.LOG_RECOVERED, "record", epoch=1, restored=1, size=2),
        event(Kind.APPROVAL_RECORDED, "b", record=digest("again")),
    ]
    history = History().read(log)
    assert set(history.approvals) == {digest("kept"), digest("again")}
    assert [at for at, _ in history.epochs] == [2]


def test_a15_a_site_signs_with_its_current_certificate_and_only_while_it_is_active():
    log = [
        *founded(1, "s-a", "s-b"),
        event(Kind.SIGNING_KEY_RENEWED, "second", site="s-a"),
        event(Kind.STUDY_CREATED, "study", round=1),
        event(Kind.SITE_REVOKED, site="s-a"),
        *joins("s-a"),
    ]
    history = History().read(log)
    found = {at: history.signer_at("s-a", at) for at in range(len(log) + 1)}
    first, second = digest("x"), digest("second")
    assert [found[at] for at in (2, 3, 6)] == [None, first, first]  # an entry is for those after it
    assert [found[at] for at in (8, 9, 10, 11)] == [second, None, None, None]
    assert found[len(log)] == first
    assert history.signer_at("s-b", len(log)) == first
    assert history.signer_at("s-z", len(log)) is None


def test_a15_a_study_is_of_the_latest_time_that_the_log_gave():
    log = [
        event(Kind.KEY_DESTROYED, time="2026-03-01T00:00:00Z"),
        event(Kind.STUDY_CREATED, "late"),
        event(Kind.STUDY_CREATED, "late", time="2026-05-01T00:00:00Z"),
    ]
    history = History().read(log)
    assert history.studies[digest("late")] == Logged(index=1, time="2026-03-01T00:00:00Z")


def test_a16_only_the_first_entry_founds():
    history = History().read(founded(1, "s-a", "s-b"))
    assert history.founding == Founding(root=digest("x"), study_key=digest("study key"))
    again = event(Kind.FEDERATION_CREATED, "y", study_key=digest("another"), cosigners=0)
    later = History().read([*founded(1, "s-a", "s-b"), again])
    assert (later.founding, later.cosigners) == (history.founding, 1)
    assert History().read([event(Kind.TOKEN_ISSUED, site="s-a"), again]).founding is None
    with pytest.raises(FormatError):
        History().read([event(Kind.FEDERATION_CREATED, cosigners=1)])


@pytest.mark.parametrize(
    "broken",
    [
        event(Kind.SITE_CONFIRMED),
        event(Kind.WITNESS_REGISTERED),
        event(Kind.RECIPIENT_ISSUED, site="s-a"),
        event(Kind.REVOCATIONS_CHANGED),
        event(Kind.REVOCATIONS_CHANGED, number=-1),
        event(Kind.APPROVAL_RECORDED),
        event(Kind.LOG_RECOVERED, epoch=1),
    ],
)
def test_an_entry_that_lacks_what_its_kind_carries_is_refused(broken):
    good = founded(1, "s-a")
    assert History().read(good).size == 4
    with pytest.raises(FormatError):
        History().read([*good, broken])


def test_an_entry_of_a_later_version_counts_and_says_nothing():
    table = canonical.decode(event(Kind.KEY_DESTROYED).to_leaf())
    later = canonical.encode(table | {"kind": "party.held", "version": 2, "more": [1]})
    assert read_leaf(later) is None
    assert History().read([None, *founded(1, "s-a")]).witnesses[0].since == 4
    for other in (table | {"extra": 1}, table | {"kind": "Party Held"}, table | {"kind": 7}):
        with pytest.raises(FormatError):
            read_leaf(canonical.encode(other))


def test_what_was_read_once_is_read_the_same_again():
    made = event(Kind.STUDY_CREATED, "study", round=1).to_leaf()
    later = canonical.encode(canonical.decode(made) | {"kind": "party.held"})
    for leaf in (made, later):
        assert reread_leaf(leaf) == read_leaf(leaf)
    assert read_leaf(made) is not None


def test_the_digest_of_a_list_does_not_hang_on_its_order():
    one, two = digest("1"), digest("2")
    assert revocations_digest([one, two], ()) == revocations_digest([two, one], ())
    assert revocations_digest([one], [two]) != revocations_digest([two], [one])
