"""The dossier of a revocation: everything in it is proved, and nothing in it can be changed."""

import dataclasses
import json
import shutil
from datetime import timedelta

import pytest

from coordinator import audit, cli, dossiers, logbook, reviews, revocation, state
from coordinator.errors import StateError
from edge_agent import dossiers as at_site
from edge_agent import withdrawal
from federation.auditlog.events import Kind
from federation.dossier import document
from federation.dossier import verification as rules
from federation.dossier.document import Dossier
from federation.release.statement import sign
from kit import canonical, clock
from kit.errors import FormatError, KitError
from pki import certificates, keys
from pki.errors import IdentityError
from tests.fakes import four, site
from tests.fakes.federation import found as found_elsewhere

REVOKED = Kind.BLUEPRINT_REVOKED


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """Four hospitals and a release; d is revoked by a quorum, rebuilt, and a and b saw it."""
    folder, base = tmp_path_factory.mktemp("lived"), tmp_path_factory.getbasetemp()
    federation = four.copy("released", "monolithic", folder / "federation", base)
    with federation.open() as coordinator:
        assert site.revocation_of(federation, coordinator, "d").done
    site.build(federation)
    with federation.serving():
        for name in "ab":
            site.visit(federation.home(name))
    return federation


def gathered(federation):
    with federation.open() as coordinator, coordinator.state.read() as tx:
        return dossiers.gather(coordinator, tx, federation.digest("d"))


def signed(federation, dossier):
    """Sign a dossier as this coordinator would: what is left to find is what it says."""
    with federation.open() as coordinator:
        chain, key = coordinator.signer
        return sign(dossier.to_bytes(), document.PAYLOAD_TYPE, key, chain[0]), chain


def check(federation, dossier, **known):
    envelope, chain = signed(federation, dossier)
    with federation.open() as coordinator:
        return rules.verify(envelope, chain, root=coordinator.root, **known)


def test_a_dossier_says_who_asked_what_fell_what_was_destroyed_and_who_saw_it(lived, tmp_path):
    digest = lived.digest("d")
    with lived.open() as coordinator:
        done = dossiers.write(coordinator, digest, tmp_path / "dossier")
        log_key = keys.public_bytes(coordinator.log_key).hex()
    assert (done.destroyed, done.acknowledged, done.sites) == (True, 2, 4)
    root = lived.hub / "certificates" / "root.pem"
    found = dossiers.check(tmp_path / "dossier", root, log_key)
    assert found.asked.reviewers == ("reviewer-1",)
    [fallen] = found.fallen_releases
    [since] = found.releases_since
    assert since.digest != fallen
    assert four.SOLE_CLASS not in since.labels
    assert [item.what for item in found.destroyed] == ["blueprint's key", "recipient key"]
    assert all(item.time for item in found.destroyed)
    seen = {a.site: bool(a.log_size) for a in found.acknowledgements}
    assert seen == {"a": True, "b": True, "c": False, "d": False}
    page = (tmp_path / "dossier" / document.PAGE).read_text()
    assert "2 of 4 acknowledged" in page
    assert page.count("NO ACKNOWLEDGEMENT") == 2
    for words in (*revocation.NOT_REACHED, document.WORDS, fallen, since.digest, digest):
        assert words in page
    assert at_site.check(lived.home("a"), tmp_path / "dossier").acknowledgements


def test_a3_a_site_s_own_withdrawal_is_shown_by_its_signed_order(tmp_path, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    federation = four.copy("released", "monolithic", tmp_path / "federation", base)
    digest = federation.digest("d")
    with federation.serving():
        withdrawal.withdraw(
            federation.home("d"), site.STUDY, reason="asked to", now=clock.utc_now()
        )
    with federation.open() as coordinator, coordinator.state.read() as tx:
        dossier = dossiers.gather(coordinator, tx, digest)
    found = check(federation, dossier)
    [own] = [a.pseudonym for a in found.acknowledgements if a.site == "d"]
    assert (found.asked.site, found.asked.reviewers) == (own, ())
    without = [paper for paper in dossier.papers if paper.kind != "order"]
    with pytest.raises(FormatError, match="step 5: the site's signed order is missing"):
        check(federation, dataclasses.replace(dossier, papers=tuple(without)))


def test_a19_what_fell_second_hand_is_in_both_dossiers(tmp_path, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    federation = four.copy("approved", "monolithic", tmp_path / "federation", base)
    first, second = federation.digest("a"), federation.digest("b")
    with federation.open() as coordinator:
        with coordinator.write() as tx:
            for ancestor, descendant in ((first, "e" * 64), ("e" * 64, second)):
                edge = {"ancestor": ancestor, "descendant": descendant}
                tx.execute(state.lineage.insert().values(**edge))
        site.revocation_of(federation, coordinator, "a")
        with coordinator.state.read() as tx:
            cause, fallen = (dossiers.gather(coordinator, tx, d) for d in (first, second))
    assert check(federation, cause).fallen_blueprints == (second,)
    found = check(federation, fallen)
    assert (found.asked.cause, found.asked.reviewers, found.asked.site) == (first, (), "")
    quiet = tuple(e for e in cause.entries if (e.event.subject, e.event.kind) != (second, REVOKED))
    with pytest.raises(FormatError, match="step 6: the entry of something that fell is missing"):
        check(federation, dataclasses.replace(cause, entries=quiet))


def test_what_is_not_destroyed_yet_is_said_with_its_day(tmp_path, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    federation = four.copy("released", "monolithic", tmp_path / "federation", base)
    path = federation.hub / "config.toml"
    path.write_text(path.read_text().replace("grace_hours = 0", "grace_hours = 48"))
    digest = federation.digest("d")
    with federation.open() as coordinator:
        with pytest.raises(StateError, match="is approved: there is no revocation to show"):
            dossiers.write(coordinator, digest, tmp_path / "none")
        assert not (tmp_path / "none").exists()
        done = site.revocation_of(federation, coordinator, "d")
        assert not dossiers.write(coordinator, digest, tmp_path / "early").destroyed
        early = dossiers.check(tmp_path / "early", federation.hub / "certificates/root.pem", "")
        assert {item.due for item in early.destroyed} == {done.destroy_after, ""}
        assert "NOT YET, due" in (tmp_path / "early" / document.PAGE).read_text()
        coordinator.ahead = timedelta(hours=49)
        revocation.destroy_due(coordinator)
        assert dossiers.write(coordinator, digest, tmp_path / "late").destroyed


def without_entry(dossier, kind):
    kept = tuple(entry for entry in dossier.entries if entry.event.kind != kind)
    assert len(kept) < len(dossier.entries)
    return dataclasses.replace(dossier, entries=kept)


def with_other_leaf(dossier):
    first, second, *rest = dossier.entries
    changed = dataclasses.replace(second, leaf=second.leaf.replace(b"2026", b"2027"))
    assert changed.leaf != second.leaf
    return dataclasses.replace(dossier, entries=(first, changed, *rest))


def with_word_of_another(dossier):
    a, b, c, d = dossier.sites
    silent = next(s for s in (a, b, c, d) if not s.checkpoint)
    spoke = next(s for s in (a, b, c, d) if s.checkpoint)
    lent = dataclasses.replace(silent, checkpoint=spoke.checkpoint, path=spoke.path)
    return dataclasses.replace(
        dossier, sites=tuple(lent if s is silent else s for s in dossier.sites)
    )


def with_quieter_list(dossier):
    return dataclasses.replace(
        dossier, after=dataclasses.replace(dossier.after, releases=dossier.before.releases)
    )


def with_old_release(dossier):
    papers = [paper for paper in dossier.papers if paper.kind == "release"]
    stranger = dataclasses.replace(papers[0], chain=b"")
    return dataclasses.replace(
        dossier,
        papers=tuple(stranger if paper is papers[0] else paper for paper in dossier.papers),
    )


def without_papers(kind):
    return lambda dossier: dataclasses.replace(
        dossier, papers=tuple(paper for paper in dossier.papers if paper.kind != kind)
    )


LIES = {
    "the revocation is missing": (lambda d: without_entry(d, "blueprint.revoked"), "step 4"),
    "a release that fell is missing": (lambda d: without_entry(d, "release.withdrawn"), "step 6"),
    "the founding is missing": (lambda d: without_entry(d, "federation.created"), "step 3"),
    "a witness key is missing": (lambda d: without_entry(d, "witness.registered"), "step 9"),
    "the recipient key is missing": (lambda d: without_entry(d, "recipient.issued"), "step 7"),
    "a leaf is altered": (with_other_leaf, "not"),
    "the list hides a release": (with_quieter_list, "step 6"),
    "a record is missing": (without_papers("approval"), "step 5"),
    "the study is missing": (without_papers("study"), "step 5"),
    "a site speaks for another": (with_word_of_another, "step 9"),
    "it is about another blueprint": (
        lambda d: dataclasses.replace(d, blueprint=canonical.digest(b"another")),
        "step 4",
    ),
    "a study key of its own": (
        lambda d: dataclasses.replace(d, study_key=bytes(32)),
        "step 3",
    ),
    "a log key of its own": (lambda d: dataclasses.replace(d, log_key=bytes(32)), "key"),
    "a release by nobody": (with_old_release, "certificate"),
}


def test_no_lie_under_the_coordinator_s_own_signature_passes(lived):
    dossier = gathered(lived)
    assert check(lived, dossier).acknowledgements  # the control
    for lie, match in LIES.values():
        with pytest.raises(KitError, match=match):
            check(lived, lie(dossier))


def test_one_changed_byte_another_signer_or_another_root_is_refused(lived, tmp_path):
    dossier = gathered(lived)
    envelope, chain = signed(lived, dossier)
    with lived.open() as coordinator:
        root = coordinator.root
    assert rules.verify(envelope, chain, root=root).blueprint == dossier.blueprint
    other = dataclasses.replace(dossier, made="2026-01-01T00:00:00Z")
    table = json.loads(envelope)
    table["payload"] = canonical.b64encode(dataclasses.replace(dossier, not_reached=()).to_bytes())
    with pytest.raises(IdentityError):
        rules.verify(canonical.encode(table), chain, root=root)
    stranger = found_elsewhere()
    theirs = sign(
        dossier.to_bytes(),
        document.PAYLOAD_TYPE,
        stranger.coordinator.signing_key,
        stranger.coordinator.signing_chain[0],
    )
    with pytest.raises(IdentityError):
        rules.verify(theirs, stranger.coordinator.signing_chain, root=root)
    with pytest.raises(IdentityError, match="valid only from"):
        check(lived, other)
    home = lived.home("a")
    by_site = sign(
        dossier.to_bytes(),
        document.PAYLOAD_TYPE,
        keys.load_signing(home.key("signing.key")),
        certificates.from_pem(home.signing_chain.read_bytes())[0],
    )
    with pytest.raises(FormatError, match="not signed by"):
        rules.verify(by_site, certificates.from_pem(home.signing_chain.read_bytes()), root=root)


def test_whoever_holds_a_copy_of_the_log_finds_another_log_and_what_is_left_out(lived):
    dossier = gathered(lived)
    with lived.open() as coordinator:
        leaves = [event.to_leaf() for event in logbook.events(coordinator)]
        log_key = keys.public_bytes(coordinator.log_key)
    assert check(lived, dossier, leaves=leaves, log_key=log_key).acknowledgements
    fork = [*leaves[:-1], leaves[-1].replace(b"2026", b"2027")]
    assert fork != leaves
    with pytest.raises(FormatError, match="step 2: the dossier is about another log"):
        check(lived, dossier, leaves=fork)
    with pytest.raises(FormatError, match="of another key than yours"):
        check(lived, dossier, log_key=bytes(32))
    silent = dataclasses.replace(dossier, sites=tuple(s for s in dossier.sites if s.checkpoint))
    assert len(check(lived, silent).acknowledgements) == 2  # nobody can tell from the file alone
    with pytest.raises(FormatError, match="active at the revocation is not named"):
        check(lived, silent, leaves=leaves)


def test_the_document_reads_back_as_it_was_written_and_strangers_are_refused(lived):
    dossier = gathered(lived)
    data = dossier.to_bytes()
    assert Dossier.from_bytes(data) == dossier
    for change in (
        {"version": 2},
        {"extra": 1},
        {"blueprint": "short"},
        {"sites": {}},
        {"papers": [{"kind": "rumour", "envelope": "", "chain": ""}]},
        {"checkpoint": 5},
    ):
        with pytest.raises(FormatError):
            Dossier.from_bytes(canonical.encode(json.loads(data) | change))


def test_the_commands_write_and_check_a_dossier(lived, tmp_path, capsys):
    out = tmp_path / "dossier"
    words = ["audit", "dossier", lived.digest("d"), "--home", str(lived.hub), "--out", str(out)]
    assert cli.app(words, standalone_mode=False) in (None, 0)
    shown = capsys.readouterr().out
    assert str(out) in shown
    root = ["--root", str(lived.hub / "certificates" / "root.pem")]
    cli.app(["audit", "check-dossier", str(out), *root], standalone_mode=False)
    assert capsys.readouterr().out == (out / document.PAGE).read_text()
    shutil.rmtree(out)
    out.mkdir()
    (out / "something").write_text("else")
    with pytest.raises(KitError, match="is no dossier of a revocation"):
        cli.app(["audit", "check-dossier", str(out), *root], standalone_mode=False)


def test_the_log_bears_the_dossier_out(lived):
    """What `audit verify` recomputes is what the dossier's checkpoint is over."""
    dossier = gathered(lived)
    with lived.open() as coordinator:
        assert audit.verify(coordinator).checkpoint == dossier.checkpoint
        assert reviews.show(coordinator, dossier.blueprint).state == "revoked"
