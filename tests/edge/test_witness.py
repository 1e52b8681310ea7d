"""A site as a witness, in words: no more than is true with one, two or many sites."""

from datetime import UTC, datetime

import pytest

from edge_agent import witness
from edge_agent.errors import TrustError
from edge_agent.witness import LogView, Milestone, Vouching
from federation.auditlog import merkle
from federation.auditlog.checkpoint import Checkpoint, Receipt
from federation.auditlog.events import Event, Kind
from kit.errors import KitError
from pki import keys

ORIGIN, LOG = "riverside/log", keys.new_signing_key()
KEYS = {name: keys.new_signing_key() for name in ("s-a", "s-b", "s-c")}
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def own(name="s-a"):
    return keys.public_bytes(KEYS[name])


def leaf(kind, subject, **details):
    made = Event(
        kind=kind,
        time="2026-01-31T12:00:00Z",
        subject=subject,
        actor="coordinator",
        details=details,
    )
    return made.to_leaf()


def view(*names, cosigners=1, more=0):
    founding = {"study_key": "1" * 64, "cosigners": cosigners}
    leaves = [leaf(Kind.FEDERATION_CREATED, "0" * 64, **founding)]
    for name in names:
        leaves.append(leaf(Kind.WITNESS_REGISTERED, own(name).hex(), site=name))
    leaves += [leaf(Kind.KEY_DESTROYED, f"{number:064x}") for number in range(more)]
    root = merkle.root([merkle.leaf_hash(item) for item in leaves])
    head = Checkpoint(origin=ORIGIN, size=len(leaves), root=root)
    return LogView.read(tuple(leaves), head)


def cosigned_by(log, *names):
    lines = [log.checkpoint.cosign(KEYS[n], name=f"{ORIGIN}/{n}", at=AT) for n in names]
    return log.checkpoint.sign(LOG, lines)


def test_the_words_of_one_site_claim_nothing():
    alone = view("s-a")
    assert str(witness.cosigned(cosigned_by(alone, "s-a"), alone)).startswith("cosigned by 1 of 1")
    assert witness.standing(alone, {}, own()).startswith("no other site is on the log")
    nobody = view()
    assert "coordinator alone" in str(witness.cosigned(cosigned_by(nobody), nobody))
    witness.require_vouched(0, alone, {}, own(), what="it")


def test_two_sites_vouch_for_each_other_only():
    two = view("s-a", "s-b")
    assert witness.standing(two, {}, own()) == "0 of 1 other site vouch; a release wants 1"
    mine = {"s-a": Vouching(pseudonym="s-a", size=3, time=AT)}
    with pytest.raises(KitError, match="0 of 1 other sites vouch"):
        witness.require_vouched(0, two, mine, own(), what="it")
    theirs = {"s-b": Vouching(pseudonym="s-b", size=3, time=AT)}
    witness.require_vouched(2, two, theirs, own(), what="it")
    with pytest.raises(KitError, match="0 of 1"):
        witness.require_vouched(3, two, theirs, own(), what="an entry that came after")


def test_a_log_that_lacks_a_leaf_or_holds_another_is_refused():
    good = view("s-a", "s-b", more=3)
    assert LogView.read(good.leaves, good.checkpoint).tree.size == 6
    with pytest.raises(TrustError, match="shows 5 of the log's 6 entries"):
        LogView.read(good.leaves[:-1], good.checkpoint)
    swapped = (*good.leaves[:-2], good.leaves[-1], good.leaves[-2])
    with pytest.raises(TrustError, match="do not lead to its checkpoint"):
        LogView.read(swapped, good.checkpoint)


def test_a_milestone_must_be_found_again():
    log = view("s-a", more=4)
    log.require([Milestone(size=3, root=log.tree.root(3), what="it")])
    for size, root in ((3, bytes(32)), (7, log.tree.root(3))):
        with pytest.raises(TrustError, match="contradicts it"):
            log.require([Milestone(size=size, root=root, what="it")])


def test_a_receipt_takes_the_most_cosigned_checkpoint_that_contains_its_entry():
    early, late = view("s-a", "s-b", "s-c", more=1), view("s-a", "s-b", "s-c", more=5)
    notes = (cosigned_by(early, "s-b", "s-c"), cosigned_by(late, "s-a"))
    inside = Receipt.from_text(late.receipt(4, notes))
    assert (inside.checkpoint, inside.index) == (notes[0], 4)
    inside.verify(late.leaves[4], origin=ORIGIN, key=keys.public_bytes(LOG))
    after = Receipt.from_text(late.receipt(6, notes))
    assert after.checkpoint == notes[1]
    assert late.receipt(6, notes[:1]) is None
    assert (
        str(witness.cosigned(notes[0], late)) == "cosigned by 2 of 3 sites at 2026-03-01T12:00:00Z"
    )


def test_only_a_key_on_the_log_cosigns():
    log = view("s-a")
    assert log.cosign(KEYS["s-b"], at=AT) is None
    line = log.cosign(KEYS["s-a"], at=AT)
    assert log.checkpoint.check_cosignature(line, name=f"{ORIGIN}/s-a", key=own()) == AT
