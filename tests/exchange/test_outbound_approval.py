"""Outbound approval: one person alone cannot send, and a study can ask to see the second's word."""

import dataclasses

import pytest
import sqlalchemy as sa

from coordinator import logbook, papers, state
from edge_agent import inspection, outbound, submission
from edge_agent.exchange import Exchange
from edge_agent.outbound import Policy
from federation.auditlog.events import Kind
from federation.blueprint.outbound import Officer, Outbound
from federation.study import Safeguards, Study
from kit import canonical, clock
from kit.errors import FormatError, KitError
from pki import keys
from tests.fakes import runs, site

SCHEME = "ed25519-file"
NONE = {"outbound_approval": False, "lease_days": 0}


@pytest.fixture
def officer(tmp_path):
    """The key file of site a's security officer, and the policy that names it."""
    path = tmp_path / "officer.key"
    keys.save(path, keys.new_signing_key())
    return path, Policy(officers=f"dr-okafor={public(path).hex()}")


def public(path):
    return keys.public_bytes(keys.load_signing(path))


def ask_for_approval(home, policy):
    (home.path / outbound.POLICY).unlink(missing_ok=True)
    outbound.set_policy(home, policy)


def look(home, run=site.STUDY):
    return inspection.inspect(home, run, now=clock.utc_now())


def sign(home, key, digest, run=site.STUDY):
    return inspection.sign_outbound(home, run, key, digest, now=clock.utc_now())


def refused(home, run=site.STUDY):
    with pytest.raises(KitError) as refusal:
        site.submit(home, run)
    return str(refusal.value)


def test_outbound_approval_nothing_leaves_without_a_second_persons_signature(enrolled, officer):
    home, (key, policy) = enrolled.home("a"), officer
    ask_for_approval(home, policy)
    # Nobody serves: what is refused here is refused before a connection is tried.
    assert "second person's signature" in refused(home)
    shown = look(home)
    assert shown.outbound_approval == "waits for an officer's signature"
    assert "nothing was sent" in refused(home)
    assert sign(home, key, shown.statement[:8]) == "dr-okafor"
    assert look(home).outbound_approval == "signed by dr-okafor"
    assert look(home).statement == shown.statement  # sealed once
    with enrolled.serving() as coordinator:
        done = site.submit(home)
        assert (done.blueprint, done.state) == (shown.statement, "received")
        [entry] = [e for e in logbook.events(coordinator) if e.subject == done.blueprint][:1]
        assert "outbound" not in entry.details  # this study did not ask, so it is not told


def test_outbound_approval_is_on_until_a_policy_says_otherwise(enrolled, officer):
    home, (_, policy) = enrolled.home("a"), officer
    assert outbound.policy(home).approval == outbound.OFF  # what the fixture chose
    (home.path / outbound.POLICY).unlink()
    assert outbound.is_required(home, home.study(site.STUDY))
    assert "this site has no officer" in refused(home)
    outbound.set_policy(home, policy)
    outbound.set_policy(home, policy)
    with pytest.raises(KitError, match="set already"):  # the agent does not undo it
        outbound.set_policy(home, Policy(approval=outbound.OFF))
    (home.path / outbound.POLICY).write_text('approval = "perhaps"\nofficers = ""\n')
    assert "approval is `required` or `off`" in refused(home)


@pytest.mark.parametrize(
    ("officers", "reason"),
    [
        ("Dr Okafor=" + "0" * 64, "officer"),
        ("a=" + "0" * 63, "officer key"),
        (f"a={'0' * 64},a={'1' * 64}", "named twice"),
        (f"a={'0' * 64},b={'0' * 64}", "a key of their own"),
    ],
)
def test_outbound_approval_officers_are_people_with_keys(officers, reason):
    assert Policy(officers=f"a={'0' * 64},b={'1' * 64}").keys().keys() == {"a", "b"}
    with pytest.raises(FormatError, match=reason):
        Policy(officers=officers).keys()


def test_outbound_approval_wants_the_digits_typed_back_and_a_key_from_elsewhere(enrolled, officer):
    """A15: nobody signs blindly, and nobody signs with a key that lies beside the sender's."""
    home, (key, policy) = enrolled.home("a"), officer
    ask_for_approval(home, policy)
    digest = look(home).statement
    wrong = ("f" if digest[0] != "f" else "e") + digest[1:8]
    for typed in ("", digest[:7], wrong, digest + "0"):
        with pytest.raises(FormatError, match="not the first digits"):
            sign(home, key, typed)
    inside = home.key("officer.key")
    inside.write_bytes(key.read_bytes())
    inside.chmod(0o600)
    with pytest.raises(KitError, match="no second person's"):
        sign(home, inside, digest)
    stranger = key.with_name("stranger.key")
    keys.save(stranger, keys.new_signing_key())
    with pytest.raises(KitError, match="none of this site's officers"):
        sign(home, stranger, digest)
    assert look(home).outbound_approval == "waits for an officer's signature"
    assert sign(home, key, digest[:8].upper()) == "dr-okafor"


def test_outbound_approval_is_over_one_sealed_blueprint_and_no_other(enrolled, officer):
    home, (key, policy) = enrolled.home("a"), officer
    ask_for_approval(home, policy)
    first = look(home)
    sign(home, key, first.statement)
    record = (submission.waiting(home, site.STUDY) / outbound.RECORD).read_bytes()
    study = home.study(site.STUDY)
    runs.write_run(home, study, site.LABELS["a"], name="other", seed=9)
    second = look(home, "other")
    folder = submission.waiting(home, "other")
    (folder / outbound.RECORD).write_bytes(record)
    assert "not one of an officer" in refused(home, "other")
    (folder / outbound.RECORD).unlink()
    assert "nothing was sent" in refused(home, "other")
    # Weights that changed after the signature are sealed anew, and so unsigned.
    runs.write_run(home, study, site.LABELS["a"], name=site.STUDY, seed=10)
    assert look(home).statement != first.statement
    assert "nothing was sent" in refused(home)
    sign(home, key, second.statement, "other")
    with enrolled.serving():
        assert site.submit(home, "other").blueprint == second.statement


@pytest.fixture
def strict(enrolled, officer):
    """A study that wants every site's second signature, though site a's own policy is off."""
    with enrolled.serving() as coordinator:
        study = site.create_study(coordinator, name="strict", outbound_approval=True)
        home = enrolled.home("a")
        site.visit(home)
    runs.write_run(home, study, site.LABELS["a"], name="strict", seed=5)
    return enrolled, home, study, officer


def test_outbound_approval_that_a_study_demands_is_checked_and_logged(strict):
    enrolled, home, study, (key, policy) = strict
    assert "study `strict` wants a second person's signature" in refused(home, "strict")
    ask_for_approval(home, dataclasses.replace(policy, approval=outbound.OFF))
    digest = look(home, "strict").statement
    sign(home, key, digest, "strict")
    record = (submission.waiting(home, "strict") / outbound.RECORD).read_bytes()
    with enrolled.serving() as coordinator:
        assert site.submit(home, "strict").state == "received"
        [event] = [e for e in logbook.events(coordinator) if e.kind is Kind.BLUEPRINT_RECEIVED]
        assert event.details["outbound"] == canonical.digest(record)
        assert event.details["officer"] == canonical.digest(public(key))
        with coordinator.state.read() as tx:
            [kept] = papers.of(tx, digest, papers.Paper.OUTBOUND)
            [vouched] = papers.of(tx, digest, papers.Paper.OFFICER)
        assert kept.envelope == record
        assert b"okafor" not in kept.envelope + vouched.envelope  # no name leaves the site
    assert Study.from_bytes(study.to_bytes()).safeguards == Safeguards(outbound_approval=True)


def test_outbound_approval_the_coordinator_believes_no_other_paper(strict):
    enrolled, home, study, (key, policy) = strict
    ask_for_approval(home, policy)
    digest = look(home, "strict").statement
    sign(home, key, digest, "strict")
    request = submission.announcement(home, study, submission.waiting(home, "strict"))
    theirs = enrolled.home("b")
    chain = submission.signing_chain(theirs)
    by_b = Officer(public_key=public(key).hex(), time="2026-01-01T00:00:00Z").sign(
        keys.load_signing(theirs.key("signing.key")), chain[0]
    )
    own = keys.load_signing(home.key("signing.key"))
    own_chain = submission.signing_chain(home)
    it_alone = Officer(public_key=keys.public_bytes(own).hex(), time="2026-01-01T00:00:00Z").sign(
        own, own_chain[0]
    )
    word = Outbound(
        blueprint=digest, study=study.digest, time="2026-01-01T00:00:00Z", scheme=SCHEME
    )
    other = dataclasses.replace(word, blueprint="0" * 64).sign(keys.load_signing(key))
    cases = [
        ({"outbound": b"", "officer": b""}, "second person's signature"),
        ({"outbound": b""}, "second person's signature"),
        ({"outbound": word.sign(keys.new_signing_key())}, "none of the site's officers"),
        ({"outbound": other}, "another blueprint or study"),
        ({"officer": by_b}, "not signed by `spiffe://test/site/a`"),
        ({"officer": it_alone, "outbound": word.sign(own)}, "own signing key"),
        (
            {"outbound": dataclasses.replace(word, scheme="none").sign(keys.load_signing(key))},
            "not in the registry",
        ),
    ]
    with enrolled.serving() as coordinator, Exchange.open(home) as exchange:
        for change, reason in cases:
            with pytest.raises(KitError, match=reason):
                exchange.begin(dataclasses.replace(request, **change))
        with coordinator.state.read() as tx:
            assert not tx.all(sa.select(state.papers))
        assert exchange.begin(request).status.state == "receiving"
        plain = submission.announcement(
            home, home.study(site.STUDY), _sealed_without_asking(home, policy)
        )
        assert (plain.outbound, plain.officer) == (b"", b"")
        with pytest.raises(KitError, match="asks for no outbound approval"):
            exchange.begin(
                dataclasses.replace(plain, outbound=request.outbound, officer=request.officer)
            )


def _sealed_without_asking(home, policy):
    ask_for_approval(home, dataclasses.replace(policy, approval=outbound.OFF))
    item = submission.cleared(home, site.STUDY)
    return submission.sealed(home, site.STUDY, item, clock.utc_now())


def test_outbound_approval_a_manifest_without_safeguards_keeps_its_bytes(strict):
    _, home, study, _ = strict
    plain = home.study(site.STUDY)
    table = canonical.decode(plain.to_bytes())
    assert (table["version"], "safeguards" in table) == (1, False)
    assert canonical.decode(study.to_bytes())["version"] == 2
    for change in ({"version": 2}, {"safeguards": NONE, "version": 2}):
        with pytest.raises(FormatError):
            Study.from_bytes(canonical.encode(table | change))
    guarded = table | {"safeguards": NONE | {"outbound_approval": True}}
    with pytest.raises(FormatError):
        Study.from_bytes(canonical.encode(guarded))
    assert Study.from_bytes(canonical.encode(guarded | {"version": 2})).digest != plain.digest
