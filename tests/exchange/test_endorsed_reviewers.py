"""A15: a reviewer who is said to be of a site is one whom that site's signing key endorses."""

import dataclasses
import json
from datetime import timedelta

import pytest
import sqlalchemy as sa

from coordinator import cli, registry, state, studies
from coordinator.errors import NotAllowedError
from edge_agent import cli as edge_cli
from edge_agent import outbound, reviewers, submission
from federation.auditlog.events import Kind
from federation.endorsement import Endorsement, from_file, to_file
from federation.study import ENDORSED_VERSION, Reviewer, Study
from kit import canonical, clock
from kit.errors import FormatError, KitError
from pki import certificates, keys
from pki.errors import IdentityError
from tests.fakes import runs, site


def person():
    return keys.public_bytes(keys.new_signing_key()).hex()


def endorse(home, name="dr-a", key=None):
    return reviewers.endorse(home, name, key or person(), now=clock.utc_now())


def study_with(coordinator, *people, name="endorsed", checked=True):
    """Create a study; unchecked, as a dishonest holder of the study key could."""
    if checked:
        return site.create_study(coordinator, name=name, endorsed=people)
    with coordinator.state.read() as tx:
        base = Study.from_bytes(registry.find_study(tx, site.STUDY).manifest)
    made = dataclasses.replace(base, id=name, title=name, reviewers=people)
    registry.create_study(coordinator, made, signer=site.study_key(coordinator))
    return made


def sealed(home, study):
    runs.write_run(home, study, site.LABELS[home.config.site], name=study.id)
    item = submission.outgoing(home, study.id)
    return submission.sealed(home, study.id, item, clock.utc_now())


def want_endorsed(home):
    text = (home.path / outbound.POLICY).read_text()
    (home.path / outbound.POLICY).write_text(text.replace('"anybody"', '"endorsed"'))
    assert outbound.policy(home).reviewers == outbound.ENDORSED


def test_a15_every_site_verifies_who_answers_for_a_reviewer(enrolled, capsys):
    a, b = enrolled.home("a"), enrolled.home("b")
    with enrolled.serving() as coordinator:
        one = from_file(to_file(endorse(a)))
        study = study_with(coordinator, one)
        assert json.loads(study.to_bytes())["version"] == ENDORSED_VERSION
        assert Study.from_bytes(study.to_bytes()).reviewers == (one,)
        for home in (a, b):
            want_endorsed(home)
            site.visit(home)
            assert reviewers.found(home, home.study(study.id)) == []
            assert sealed(home, study).is_dir()
        # The study from before lists a reviewer of no site: the policy refuses, the default tells.
        with pytest.raises(KitError, match="endorsed by no site"):
            submission.sealed(a, site.STUDY, submission.outgoing(a, site.STUDY), clock.utc_now())
        told = []
        site.visit(enrolled.home("c"))
        assert site.submit(enrolled.home("c"), tell=told.append).state == "received"
        assert any("endorsed by no site" in line for line in told)
    assert "alarm" not in capsys.readouterr().err


@pytest.mark.parametrize("lie", ["another site", "another key", "another name", "no signature"])
def test_a15_a_false_claim_is_an_alarm_and_nothing_is_sealed(enrolled, capsys, lie):
    a, b = enrolled.home("a"), enrolled.home("b")
    with enrolled.serving() as coordinator:
        true = endorse(a)
        other = endorse(b, "dr-b")
        false = {
            "another site": dataclasses.replace(true, site="b"),
            "another key": dataclasses.replace(true, public_key=person()),
            "another name": dataclasses.replace(true, name="dr-x"),
            "no signature": dataclasses.replace(true, endorsement=other.endorsement),
        }[lie]
        with pytest.raises((FormatError, IdentityError)):
            study_with(coordinator, false)
        lied = study_with(coordinator, false, checked=False, name="lied")
        good = study_with(coordinator, true, other, name="good")
        for home in (a, b):
            site.visit(home)  # news and withdrawals still come
            assert f"alarm: reviewer `{false.name}`" in capsys.readouterr().err
            with pytest.raises(KitError, match="names a reviewer falsely") as refused:
                sealed(home, lied)
            assert "by telephone" in refused.value.hint
            assert sealed(home, good).is_dir()


def test_a15_a_site_knows_its_own_word(enrolled):
    """A stolen signing key makes a reviewer for the others, not for the site it was stolen from."""
    a, b = enrolled.home("a"), enrolled.home("b")
    chain = submission.signing_chain(a)
    word = Endorsement.of(
        federation=site.FEDERATION,
        site="a",
        reviewer="ghost",
        public_key=person(),
        now=clock.utc_now(),
    )
    ghost = word.sign(keys.load_signing(a.key("signing.key")), chain[0])
    with enrolled.serving() as coordinator:
        haunted = study_with(coordinator, ghost)
        site.visit(b)
        assert sealed(b, haunted).is_dir()
        site.visit(a)
        with pytest.raises(KitError, match="which did not endorse them"):
            sealed(a, haunted)
        endorse(a, "ghost", word.public_key)  # it was one of theirs after all: they say so again
        site.visit(a)
        assert sealed(a, haunted).is_dir()


def refused(home, study, words):
    site.visit(home)
    with pytest.raises(KitError, match="names a reviewer falsely") as caught:
        sealed(home, study)
    assert words in str(caught.value)
    return True


def test_a15_a_word_ends_after_its_days(enrolled):
    """Studies that the log recorded before stay; a later one finds the word ended, everywhere."""
    a, b = enrolled.home("a"), enrolled.home("b")
    now = clock.utc_now()
    key = person()
    for days in (0, 401):
        with pytest.raises(FormatError, match="number of days"):
            reviewers.endorse(a, "dr-a", key, now=now, days=days)
    old = reviewers.endorse(a, "dr-a", key, now=now - timedelta(days=31), days=32)
    stale = reviewers.endorse(a, "dr-s", key, now=now - timedelta(days=31), days=30)
    with enrolled.serving() as coordinator:
        early = study_with(coordinator, old, name="early")
        with pytest.raises(FormatError, match="the endorsement had ended"):
            study_with(coordinator, stale)
        late = study_with(coordinator, stale, checked=False, name="late")
        for home in (a, b):
            assert refused(home, late, "the endorsement had ended")
            assert sealed(home, early).is_dir()


def test_a15_only_the_current_certificate_of_an_active_site_speaks_for_later_studies(enrolled):
    a, b = enrolled.home("a"), enrolled.home("b")
    words = "not the current one of an active site"
    with enrolled.serving() as coordinator:
        before = endorse(a)
        early = study_with(coordinator, before, name="early")
        with coordinator.write() as tx:  # site a takes a new signing key
            name = tx.connection.scalar(
                sa.select(state.sites.c.pseudonym).where(state.sites.c.id == "a")
            )
            tx.record(Kind.SIGNING_KEY_RENEWED, "1" * 64, site=name)
        late = study_with(coordinator, before, checked=False, name="late")
        assert refused(b, late, words)
        assert sealed(b, early).is_dir()
        person_of_c = endorse(enrolled.home("c"), "dr-c")
        active = study_with(coordinator, person_of_c, name="active")
        registry.revoke_site(coordinator, "c")
        gone = study_with(coordinator, person_of_c, checked=False, name="gone")
        assert refused(b, gone, words)
        assert sealed(b, active).is_dir()


def test_a15_a_site_takes_its_word_back(enrolled, capsys):
    a, b = enrolled.home("a"), enrolled.home("b")
    key = person()
    with enrolled.serving() as coordinator:
        one, other = endorse(a, "dr-a", key), endorse(a, "dr-o")
        study, kept = study_with(coordinator, one), study_with(coordinator, other, name="kept")
        for home in (a, b):
            site.visit(home)
            assert sealed(home, study).is_dir()
        capsys.readouterr()
        words = ["endorse", "dr-a", key, "--home", str(a.path), "--withdraw"]
        edge_cli.app(words, standalone_mode=False)
        with pytest.raises(KitError, match="took that back"):
            sealed(a, study)  # at once, before any contact
        later = study_with(coordinator, one, name="later")  # the coordinator cannot know
        for item in (study, later):
            assert refused(a, item, "took that back")
        assert "alarm: reviewer `dr-a`" in capsys.readouterr().err
        assert sealed(a, kept).is_dir()
        site.visit(b)
        assert sealed(b, later).is_dir()  # others go on until the word ends, as the manual says
        with pytest.raises(KitError, match="did not endorse"):
            edge_cli.app(words, standalone_mode=False)
        with pytest.raises(KitError, match="needs `--out FILE`"):
            edge_cli.app(words[:-1], standalone_mode=False)


def test_a15_the_coordinator_takes_the_word_of_active_sites_only(enrolled):
    a = enrolled.home("a")
    with enrolled.open() as coordinator:
        one = endorse(a)
        with pytest.raises(FormatError, match="site's own signing key"):
            endorse(a, key=keys.public_bytes(submission.signing_chain(a)[0].public_key()).hex())
        with pytest.raises(NotAllowedError, match="not enrolled"):
            study_with(coordinator, dataclasses.replace(one, site="z"))
        assert study_with(coordinator, one).reviewers == (one,)
        registry.revoke_site(coordinator, "a")
        with pytest.raises(NotAllowedError, match="not enrolled or was revoked"):
            study_with(coordinator, one, name="later")


def test_a_manifest_with_endorsed_reviewers_has_one_form(enrolled):
    one = endorse(enrolled.home("a"))
    table = one.to_table()
    assert Reviewer.of(table) == one
    faults = [
        {"site": ""},
        {"site": "A B"},
        {"endorsement": "no base64!"},
        {"certificate": "A" * 40_000},
        {"extra": "1"},
    ]
    for fault in faults:
        with pytest.raises(FormatError):
            Reviewer.of(table | fault)
    del table["certificate"]
    with pytest.raises(FormatError):
        Reviewer.of(table)
    with enrolled.open() as coordinator:
        study = study_with(coordinator, one)
    for version in (1, 2):
        bad = canonical.decode(study.to_bytes()) | {"version": version}
        with pytest.raises(FormatError, match="version"):
            Study.from_bytes(canonical.encode(bad))


def test_a15_the_two_commands(enrolled, tmp_path, capsys):
    out, public = tmp_path / "dr-a.reviewer", person()
    words = ["endorse", "dr-a", public, "--home", str(enrolled.home("a").path), "--out", str(out)]
    edge_cli.app([*words, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["site"] == "a"
    shape = ["--classes", "x,y", "--channels", "1", "--height", "8", "--width", "8"]
    create = ["study", "create", "new", "--home", str(enrolled.hub), "--endorsed", str(out), *shape]
    cli.app([*create, "--roots", str(enrolled.roots), "--json"], standalone_mode=False)
    with enrolled.open() as coordinator:
        [study] = [s for s, _ in registry.list_studies(coordinator) if s.id == "new"]
    [listed] = study.reviewers
    assert (listed.name, listed.site, listed.public_key) == ("dr-a", "a", public)
    leaf = certificates.from_der(canonical.b64decode(listed.certificate))
    assert leaf == submission.signing_chain(enrolled.home("a"))[0]
    assert study.method == studies.METHOD
