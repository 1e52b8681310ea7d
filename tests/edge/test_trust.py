"""What a site believes: each lie of a coordinator is refused, and the truth beside it is not."""

from dataclasses import replace
from datetime import timedelta

import pytest

from edge_agent import trust
from edge_agent.errors import TrustError
from edge_agent.trust import Before, Entry, Trust, accept
from federation import dsse
from federation import study as studies
from federation.auditlog import merkle
from federation.auditlog.checkpoint import Receipt
from federation.auditlog.events import Kind
from federation.delegation import Delegation
from federation.release import statement as documents
from kit import canonical
from kit.errors import FormatError, KitError
from pki import certificates, crl, keys
from pki.errors import IdentityError
from tests.fakes import federation
from tests.fakes.federation import NOW, MemoryCoordinator

BLUEPRINT, OTHER = canonical.digest(b"blueprint"), canonical.digest(b"other")


@pytest.fixture(scope="module")
def world():
    return federation.found()


@pytest.fixture
def coordinator(world):
    """A coordinator with one approved blueprint of site a and one release of it."""
    made = MemoryCoordinator(world)
    made.set_state(BLUEPRINT, "received", Kind.BLUEPRINT_RECEIVED)
    made.set_state(BLUEPRINT, "pending", Kind.BLUEPRINT_PENDING)
    made.set_state(BLUEPRINT, "approved", Kind.BLUEPRINT_APPROVED)
    made.publish(BLUEPRINT)
    return made


def believe(world, news, known=None, *, now=NOW, site="a"):
    before = Before(trust=known)
    return accept(news, pins=world.pins, site=site, before=before, now=now)


def contact(coordinator, known=None, *, now=NOW):
    """Make one honest contact and return what the site then knows."""
    size = known.size if known else 0
    return believe(coordinator.federation, coordinator.news(size), known, now=now).trust


def sign(world, payload, kind, *, by=None):
    who = by or world.coordinator
    return documents.sign(payload, kind, who.signing_key, who.signing_chain[0])


def test_an_honest_contact_is_believed_and_kept(world, coordinator):
    found = believe(world, coordinator.news())
    assert found.trust.size == len(coordinator.leaves)
    assert found.trust.newest_time == "2026-01-31T12:00:00Z"
    assert [offer.study for offer in found.studies] == [world.study]
    assert [status.state for status in found.blueprints] == ["approved"]
    assert [offer.withdrawn for offer in found.releases] == [False]
    assert len(found.entries) == 4
    assert Trust.from_bytes(found.trust.to_bytes()) == found.trust


def test_a_log_that_only_grew_is_believed_at_every_contact(world, coordinator):
    known = None
    for number in range(6):
        known = contact(coordinator, known)
        assert known.size == len(coordinator.leaves)
        coordinator.record(Kind.TOKEN_ISSUED, canonical.digest(bytes([number])))
    assert contact(coordinator, known).size == known.size + 1


def test_a_log_that_went_back_is_refused(world, coordinator):
    early = contact(coordinator)
    coordinator.record(Kind.SITE_REVOKED, OTHER)
    known = contact(coordinator, early)
    coordinator.leaves.pop()
    with pytest.raises(TrustError, match="contradicts what this site saw"):
        believe(world, coordinator.news(), known)
    believe(world, coordinator.news(early.size), early)


def test_a_log_that_was_forked_is_refused(world, coordinator):
    known = contact(coordinator)
    twin = MemoryCoordinator(world)
    twin.leaves = list(coordinator.leaves)
    coordinator.record(Kind.TOKEN_ISSUED, OTHER)
    ahead = contact(coordinator, known)
    twin.record(Kind.SITE_REVOKED, OTHER)
    believe(world, replace(twin.news(known.size)), known)
    with pytest.raises(TrustError, match="contradicts"):
        believe(world, twin.news(ahead.size), ahead)
    twin.record(Kind.SITE_REVOKED, OTHER)
    with pytest.raises(TrustError, match="contradicts"):
        believe(world, twin.news(ahead.size), ahead)


def test_a_log_rebuilt_over_a_changed_entry_is_refused(world, coordinator):
    known = contact(coordinator)
    coordinator.record(Kind.TOKEN_ISSUED, OTHER)
    contact(coordinator, known)
    coordinator.leaves[5] = coordinator.leaves[6]
    news = replace(coordinator.news(known.size), blueprints=(), releases=())
    believe(world, news)
    with pytest.raises(TrustError, match="contradicts"):
        believe(world, news, known)


def test_growth_without_its_proof_is_refused(world, coordinator):
    known = contact(coordinator)
    coordinator.record(Kind.TOKEN_ISSUED, OTHER)
    news = coordinator.news(known.size)
    believe(world, news, known)
    for proof in ((), news.consistency[:-1], (*news.consistency, bytes(32)), (b"",)):
        with pytest.raises(TrustError, match="contradicts"):
            believe(world, replace(news, consistency=proof), known)


def test_a_checkpoint_under_another_key_is_refused(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    stranger = MemoryCoordinator(replace(world, log_key=keys.new_signing_key()))
    with pytest.raises(FormatError, match="another key"):
        believe(world, replace(news, checkpoint=stranger.checkpoint()))


def test_an_older_revocation_list_is_refused(world, coordinator):
    before = coordinator.news()
    coordinator.revoke(BLUEPRINT)
    known = contact(coordinator)
    assert known.revocations == 1
    assert known.revoked_blueprints == (BLUEPRINT,)
    news = coordinator.news(known.size)
    believe(world, news, known)
    with pytest.raises(TrustError, match="older than the one"):
        believe(world, replace(news, revocations=before.revocations), known)


def revocation_list(world, coordinator, **changes):
    made = replace(coordinator.revocations(), **changes)
    return sign(world, made.to_bytes(), documents.REVOCATIONS_TYPE)


def test_a_revoked_blueprint_never_leaves_the_list(world, coordinator):
    coordinator.revoke(BLUEPRINT)
    known = contact(coordinator)
    news = coordinator.news(known.size)
    believe(world, news, known)
    for number in (1, 2):
        shorter = revocation_list(world, coordinator, number=number, blueprints=())
        with pytest.raises(TrustError, match="missing from the revocation list"):
            believe(world, replace(news, revocations=shorter), known)


def test_two_lists_do_not_share_a_number(world, coordinator):
    known = contact(coordinator)
    news = replace(coordinator.news(known.size), releases=())
    believe(world, news, known)
    forked = revocation_list(world, coordinator, releases=(OTHER,))
    with pytest.raises(TrustError, match="same number"):
        believe(world, replace(news, revocations=forked), known)
    coordinator.withdrawn.add(OTHER)
    coordinator.change_list(number=1)
    grown = replace(coordinator.news(known.size), releases=())
    believe(world, grown, known)


def test_the_revocation_list_is_the_one_on_the_log(world, coordinator):
    news = replace(coordinator.news(), releases=())
    believe(world, news)
    for unlogged in ({"number": 1}, {"blueprints": (OTHER,)}):
        made = revocation_list(world, coordinator, **unlogged)
        with pytest.raises(TrustError, match="does not record the revocation list"):
            believe(world, replace(news, revocations=made))


def test_a_revocation_list_of_another_federation_or_signer_is_refused(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    foreign = revocation_list(world, coordinator, federation="upstream")
    with pytest.raises(TrustError, match="another federation"):
        believe(world, replace(news, revocations=foreign))
    by_a = sign(world, coordinator.revocations().to_bytes(), documents.REVOCATIONS_TYPE, by=world.a)
    with pytest.raises(FormatError):
        believe(world, replace(news, revocations=by_a))
    chain = certificates.pem(*world.a.signing_chain)
    with pytest.raises(FormatError):
        believe(world, replace(news, revocations=by_a, signing_chain=chain))


def test_a_certificate_that_expired_proves_no_list(world, coordinator):
    coordinator.now = NOW + timedelta(days=364)
    news = coordinator.news()
    believe(world, news, now=NOW + timedelta(days=364))
    with pytest.raises(IdentityError, match="expired"):
        believe(world, news, now=NOW + timedelta(days=366))


def test_a_release_of_a_revoked_blueprint_is_refused(world, coordinator):
    coordinator.revoke(BLUEPRINT)
    honest = coordinator.news()
    assert believe(world, honest).releases[0].withdrawn
    coordinator.publish(BLUEPRINT, model=b"built again")
    with pytest.raises(TrustError, match="descends from a revoked blueprint"):
        believe(world, coordinator.news())


def test_a_withdrawn_release_offered_as_current_is_refused(world, coordinator):
    coordinator.revoke(BLUEPRINT)
    news = coordinator.news()
    believe(world, news)
    revived = replace(news.releases[0], withdrawn=False)
    with pytest.raises(TrustError, match="do not agree"):
        believe(world, replace(news, releases=(revived,)))


def test_a_withdrawal_needs_the_list_and_the_log(world, coordinator):
    before = coordinator.news()
    coordinator.revoke(BLUEPRINT)
    news = coordinator.news()
    believe(world, news)
    unlogged = replace(news.releases[0], withdrawal=())
    with pytest.raises(TrustError, match="do not agree"):
        believe(world, replace(news, releases=(unlogged,)))
    with pytest.raises(TrustError, match="do not agree"):
        believe(world, replace(news, revocations=before.revocations))


def test_a_release_that_the_log_records_otherwise_is_refused(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    changed = federation.release(world, BLUEPRINT, lease_until=None)
    assert changed.digest == coordinator.releases[0].digest
    envelope = sign(world, changed.to_bytes(), documents.RELEASE_TYPE)
    offer = replace(news.releases[0], envelope=envelope)
    with pytest.raises(TrustError, match="does not record this release"):
        believe(world, replace(news, releases=(offer,)))


def test_a_release_whose_log_entry_names_no_statement_is_refused(world, coordinator):
    believe(world, coordinator.news())
    made = federation.release(world, OTHER, model=b"second")
    coordinator.record(Kind.RELEASE_PUBLISHED, made.digest)
    coordinator.releases.append(made)
    with pytest.raises(TrustError, match="does not record this release"):
        believe(world, coordinator.news())


def test_a_release_without_its_log_entry_is_refused(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    (pending,) = [e for e in coordinator.entries(BLUEPRINT) if b"pending" in e.leaf]
    offer = replace(news.releases[0], published=pending)
    with pytest.raises(TrustError, match="something else"):
        believe(world, replace(news, releases=(offer,)))


def test_a_release_that_a_site_signed_is_refused(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    payload = coordinator.releases[0].to_bytes()
    offer = replace(
        news.releases[0], envelope=sign(world, payload, documents.RELEASE_TYPE, by=world.a)
    )
    with pytest.raises(FormatError, match="not signed by"):
        believe(world, replace(news, releases=(offer,)))


@pytest.mark.parametrize("state", ["rejected", "revoked", "refused", "published", "", "Approved"])
def test_a_state_without_its_log_entry_is_refused(world, coordinator, state):
    news = coordinator.news()
    believe(world, news)
    status = replace(news.blueprints[0], state=state)
    with pytest.raises(TrustError, match="its log does not"):
        believe(world, replace(news, blueprints=(status,)))


def test_only_an_upload_under_way_needs_no_log_entry(world, coordinator):
    news = coordinator.news()
    status = replace(news.blueprints[0], state="receiving", entries=())
    believe(world, replace(news, blueprints=(status,)))
    bare = replace(news.blueprints[0], entries=())
    with pytest.raises(TrustError, match="its log does not"):
        believe(world, replace(news, blueprints=(bare,)))


@pytest.mark.parametrize("state", ["receiving", "received", "pending", "approved"])
def test_a_state_that_the_log_has_left_behind_is_refused(world, coordinator, state):
    coordinator.revoke(BLUEPRINT)
    news = coordinator.news()
    believe(world, news)
    for entries in (news.blueprints[0].entries, news.blueprints[0].entries[::-1]):
        status = replace(news.blueprints[0], state=state, entries=entries)
        with pytest.raises(TrustError, match="its log does not"):
            believe(world, replace(news, blueprints=(status,)))


def test_a_receipt_about_another_blueprint_is_refused(world, coordinator):
    coordinator.set_state(OTHER, "approved", Kind.BLUEPRINT_APPROVED)
    news = coordinator.news()
    believe(world, news)
    borrowed = replace(news.blueprints[0], entries=tuple(coordinator.entries(OTHER)))
    with pytest.raises(TrustError, match="something else"):
        believe(world, replace(news, blueprints=(borrowed,)))


def test_a_receipt_of_another_log_is_refused(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    twin = MemoryCoordinator(replace(world, log_key=keys.new_signing_key()))
    twin.leaves = list(coordinator.leaves)
    foreign = replace(news.blueprints[0], entries=tuple(twin.entries(BLUEPRINT)))
    with pytest.raises(FormatError, match="another key"):
        believe(world, replace(news, blueprints=(foreign,)))


def test_a_leaf_that_its_receipt_does_not_prove_is_refused(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    first, second, *_ = coordinator.entries(BLUEPRINT)
    swapped = Entry(leaf=first.leaf, receipt=second.receipt)
    status = replace(news.blueprints[0], entries=(swapped,), state="received")
    with pytest.raises(FormatError, match="inclusion proof"):
        believe(world, replace(news, blueprints=(status,)))


def test_every_receipt_leads_to_the_checkpoint_of_its_contact(world, coordinator):
    """A second tree under the same log key may not prove what the first does not say."""
    coordinator.revoke(BLUEPRINT)
    news = coordinator.news()
    believe(world, news)
    fork = MemoryCoordinator(world)
    fork.leaves = [*coordinator.leaves, coordinator.leaves[0]]
    stray = fork.entries(BLUEPRINT)
    status = replace(news.blueprints[0], entries=tuple(stray))
    with pytest.raises(TrustError, match="another checkpoint"):
        believe(world, replace(news, blueprints=(status,)))
    published, *withdrawal = fork.entries(coordinator.releases[0].digest)
    for change in ({"published": published}, {"withdrawal": tuple(withdrawal)}):
        offer = replace(news.releases[0], **change)
        with pytest.raises(TrustError, match="another checkpoint"):
            believe(world, replace(news, releases=(offer,)))


def test_a_recipient_key_is_for_this_site_and_study(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    with pytest.raises(TrustError, match="another study, round or site"):
        believe(world, news, site="b")
    for_b = coordinator.study_news(site="b")
    with pytest.raises(TrustError, match="another study, round or site"):
        believe(world, replace(news, studies=(for_b,)))


def study_signed(world, document, kind, *, key=None):
    signer = key or world.study_key
    keyid = canonical.digest(keys.public_bytes(signer))
    return dsse.sign(document, kind, signer, keyid=keyid)


def test_a_study_or_recipient_key_needs_the_pinned_study_key(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    stranger = keys.new_signing_key()
    manifest = study_signed(world, world.study.to_bytes(), studies.PAYLOAD_TYPE, key=stranger)
    payload = dsse.parse(news.studies[0].recipient_key, studies.RECIPIENT_KEY_TYPE).payload
    recipient = study_signed(world, payload, studies.RECIPIENT_KEY_TYPE, key=stranger)
    for change in ({"manifest": manifest}, {"recipient_key": recipient}):
        offer = replace(news.studies[0], **change)
        with pytest.raises(FormatError, match="another key than the pinned one"):
            believe(world, replace(news, studies=(offer,)))


def test_a16_pins_that_the_log_does_not_begin_with_are_refused(world, coordinator):
    """Whoever takes the home can put other keys into tokens, and sign studies with them."""
    thief = federation.found()
    news = coordinator.news()
    for change in ({"study_key": thief.study_key}, {"root": thief.root, "issuing": thief.issuing}):
        stolen = replace(world, **change)
        forged = replace(news, studies=(MemoryCoordinator(stolen).study_news(),))
        with pytest.raises(TrustError, match="not the one the log begins with"):
            believe(stolen, forged)
    # A second founding further down changes nothing, and the honest pins still fit.
    key = canonical.digest(keys.public_bytes(thief.study_key))
    coordinator.record(Kind.FEDERATION_CREATED, OTHER, study_key=key, cosigners=0)
    with pytest.raises(TrustError, match="not the one the log begins with"):
        believe(replace(world, study_key=thief.study_key), coordinator.news())
    assert believe(world, coordinator.news()).log.history.cosigners == 1


def delegated(world, coordinator, *, days=30, now=NOW, key=None, **changes):
    """A delegation on the log, and the study as a coordinator offers it under that delegate."""
    delegate = key or keys.new_signing_key()
    made = replace(
        Delegation.of(world.study, keys.public_bytes(delegate), now=now, days=days), **changes
    )
    coordinator.record(Kind.RECIPIENTS_DELEGATED, made.digest, study=world.study.digest)
    offer = coordinator.study_news()
    payload = dsse.parse(offer.recipient_key, studies.RECIPIENT_KEY_TYPE).payload
    recipient = study_signed(world, payload, studies.RECIPIENT_KEY_TYPE, key=delegate)
    return replace(offer, recipient_key=recipient, delegation=made.sign(world.study_key))


def test_a16_a_recipient_key_is_signed_by_the_newest_delegate_of_its_study(world, coordinator):
    first = delegated(world, coordinator)
    found = believe(world, replace(coordinator.news(), studies=(first,))).studies[0]
    assert found.recipient_key.public == world.recipient
    second = delegated(world, coordinator)
    news = coordinator.news()
    with pytest.raises(TrustError, match="does not record who may sign"):
        believe(world, replace(news, studies=(first,)))
    mixed = replace(second, recipient_key=first.recipient_key)
    with pytest.raises(FormatError, match="another key than the pinned one"):
        believe(world, replace(news, studies=(mixed,)))
    assert believe(world, replace(news, studies=(second,))).studies[0].delegation


def test_a16_a_delegation_that_the_log_names_is_not_left_out(world, coordinator):
    """What the study key signed itself, before it delegated, is out of use from then on."""
    own = coordinator.study_news()
    assert believe(world, replace(coordinator.news(), studies=(own,))).studies[0].recipient_key
    now = delegated(world, coordinator)
    with pytest.raises(TrustError, match="does not record who may sign"):
        believe(world, replace(coordinator.news(), studies=(own,)))
    assert believe(world, replace(coordinator.news(), studies=(now,))).studies[0].delegation


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": "0" * 64}, "another study or round"),
        ({"round": 2}, "another study or round"),
        ({"federation": "upstream"}, "another study or round"),
        ({"role": "studies"}, "not in the registry"),
        ({"expires": "2036-01-01T00:00:00Z"}, "at most 400 days"),
        ({"expires": "2020-01-01T00:00:00Z"}, "at most 400 days"),
    ],
)
def test_a16_a_delegation_is_limited_in_scope_and_time(world, coordinator, change, words):
    wide = delegated(world, coordinator, **change)
    with pytest.raises(FormatError, match=words):
        believe(world, replace(coordinator.news(), studies=(wide,)))
    good = delegated(world, coordinator)
    assert believe(world, replace(coordinator.news(), studies=(good,)))


def test_a16_a_delegate_signs_recipient_keys_and_nothing_else(world, coordinator):
    delegate = keys.new_signing_key()
    good = delegated(world, coordinator, key=delegate)
    manifest = study_signed(world, world.study.to_bytes(), studies.PAYLOAD_TYPE, key=delegate)
    for change in (
        {"manifest": manifest},
        {
            "delegation": Delegation.of(
                world.study, keys.public_bytes(delegate), now=NOW, days=30
            ).sign(delegate)
        },
    ):
        with pytest.raises(FormatError, match="another key than the pinned one"):
            believe(world, replace(coordinator.news(), studies=(replace(good, **change),)))
    assert believe(world, replace(coordinator.news(), studies=(good,)))


def test_a16_a_delegation_that_ended_stops_no_contact(world, coordinator):
    """Withdrawals must arrive; only sealing asks for the time."""
    old = delegated(world, coordinator, now=NOW - timedelta(days=60))
    found = believe(world, replace(coordinator.news(), studies=(old,))).studies[0]
    ended = trust.open_delegation(found.delegation, world.pins, world.study)
    with pytest.raises(KitError, match="right to hand out keys"):
        ended.check_time(world.study, NOW)
    ended.check_time(world.study, NOW - timedelta(days=31))


def test_a_study_of_another_federation_is_refused(world, coordinator):
    news = coordinator.news()
    believe(world, news)
    foreign = replace(world.study, federation="upstream")
    manifest = study_signed(world, foreign.to_bytes(), studies.PAYLOAD_TYPE)
    offer = replace(news.studies[0], manifest=manifest)
    with pytest.raises(TrustError, match="another federation"):
        believe(world, replace(news, studies=(offer,)))


def test_a18_the_newest_signed_time_never_goes_back(world, coordinator):
    coordinator.now = NOW + timedelta(days=2)
    known = contact(coordinator, now=coordinator.now)
    assert known.newest_time == "2026-02-02T12:00:00Z"
    coordinator.now = NOW
    assert contact(coordinator, known).newest_time == "2026-02-02T12:00:00Z"


def test_a18_a_list_from_the_future_does_not_become_the_floor(world, coordinator):
    """One list dated years ahead would stop every prediction until then."""
    coordinator.now = NOW + timedelta(minutes=60)
    known = contact(coordinator)
    trust.check_clock(known, NOW)
    coordinator.now = NOW + timedelta(minutes=60, seconds=1)
    with pytest.raises(KitError, match="ahead of this machine's clock") as caught:
        contact(coordinator, known)
    assert "one of the two clocks" in caught.value.hint


def test_a18_a_clock_that_was_set_back_is_refused(world, coordinator):
    known = contact(coordinator)
    trust.check_clock(None, NOW - timedelta(days=1000))
    trust.check_clock(known, NOW)
    trust.check_clock(known, NOW - timedelta(minutes=60))
    with pytest.raises(KitError, match="behind the newest time") as caught:
        trust.check_clock(known, NOW - timedelta(minutes=60, seconds=1))
    assert "set the clock" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"size": "3"},
        {"size": -1},
        {"root": "x"},
        {"revocations": None},
        {"newest_time": "yesterday"},
        {"revoked_blueprints": "x"},
        {"revoked_blueprints": ["x"]},
        {"withdrawn_releases": None},
        {"checkpoint": None},
        {"extra": 1},
    ],
)
def test_a_damaged_trust_state_is_refused(coordinator, change):
    known = contact(coordinator)
    table = canonical.decode(known.to_bytes())
    assert Trust.from_bytes(canonical.encode(table)) == known
    with pytest.raises(FormatError):
        Trust.from_bytes(canonical.encode(table | change))


def test_check_entry_returns_the_event_that_it_proves(world, coordinator):
    for entry in coordinator.entries(BLUEPRINT):
        event = trust.check_entry(entry, world.pins, subject=BLUEPRINT)
        assert event.kind in trust.PROOF_OF_STATE.values()
        assert coordinator.leaves[Receipt.from_text(entry.receipt).index] == entry.leaf
    with pytest.raises(TrustError):
        trust.check_entry(entry, world.pins, subject=OTHER)


def test_the_root_a_site_keeps_is_that_of_the_log(coordinator):
    known = contact(coordinator)
    assert known.root == merkle.root([merkle.leaf_hash(x) for x in coordinator.leaves]).hex()


def test_a_release_outlives_the_key_that_signed_it_unless_that_was_stolen(world, coordinator):
    old = world.coordinator
    renewed = replace(world, coordinator=federation.member(world.issuing, old.identity))
    news = coordinator.news()
    coordinator.federation = renewed
    after = replace(coordinator.news(), releases=news.releases)  # each with its own chain
    assert [r.release for r in believe(world, after).releases] == coordinator.releases
    borrowed = replace(news.releases[0], signing_chain=after.signing_chain)
    with pytest.raises(FormatError, match="not signed by"):
        believe(world, replace(after, releases=(borrowed,)))
    serial, later = old.signing_chain[0].serial_number, NOW + timedelta(minutes=1)
    for reason, is_good in ((crl.Reason.superseded, True), (crl.Reason.key_compromise, False)):
        entry = crl.Revoked(serial=serial, since=later, reason=reason)
        coordinator.revoked_certificates = [entry]
        offered = replace(coordinator.news(), releases=news.releases)
        if is_good:
            assert believe(world, offered).releases
        else:
            with pytest.raises(IdentityError, match="was revoked"):
                believe(world, offered)


def test_a_revocation_list_of_certificates_never_goes_back(world, coordinator):
    newest = crl.RevocationList.read(coordinator.certificate_revocations(number=5))
    for number, is_good in ((5, True), (6, True), (4, False)):
        news = replace(
            coordinator.news(),
            certificate_revocations=coordinator.certificate_revocations(number=number),
        )
        before = trust.Before(trust=None, revoked=newest)
        if is_good:
            assert accept(news, pins=world.pins, site="a", before=before, now=NOW)
        else:
            with pytest.raises(TrustError, match="older than the one"):
                accept(news, pins=world.pins, site="a", before=before, now=NOW)
