"""A19: from a public base to a release, and what falls with the base."""

import json
import shutil
from datetime import timedelta

import pytest
import sqlalchemy as sa

from coordinator import (
    audit,
    builds,
    descent,
    releases,
    restoration,
    reviews,
    revocation,
    state,
)
from coordinator import bases as public_bases
from coordinator import stick as coordinator_stick
from coordinator.errors import StateError
from edge_agent import bases, contact, installed, runs, stick, submission
from edge_agent.training.folder import OPTIONS
from federation.auditlog.events import Kind
from federation.blueprint.statement import Statement
from kit import clock
from kit.errors import FormatError, InterruptedRunError, KitError
from tests.e2e.conftest import write_images
from tests.fakes import commands, public, site
from tests.fakes.runs import write_run


def told():
    lines = []
    return lines, lines.append


def fetch(home):
    return bases.fetch(home, site.STUDY, got=lambda *_: None)


def run_from(home, study, labels, base, **changes):
    """Write a finished run that says it started from `base`."""
    name = write_run(home, study, labels, **changes)
    path = home.run(name) / OPTIONS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": base}))
    return name


def withdraw(federation, coordinator, base):
    return public_bases.withdraw(
        coordinator, base[:12], reviewer_key=federation.reviewer(), reason="a flaw"
    )


def events(coordinator, kind):
    from coordinator import logbook

    return [event.subject for event in logbook.events(coordinator) if event.kind is kind]


@pytest.fixture(scope="module")
def taken_in_once(tmp_path_factory):
    """A published base, and the pending blueprints of a, trained from it, and of b."""
    folder = tmp_path_factory.mktemp("bases")
    federation = site.copy("enrolled", folder, tmp_path_factory.getbasetemp())
    with federation.serving() as coordinator:
        base = public.publish(coordinator, folder)
        for name, start in (("a", base), ("b", None)):
            home = federation.home(name)
            study = home.study(site.STUDY)
            run_from(home, study, site.LABELS[name], start, seed=ord(name))
            site.visit(home)
            site.submit(home)
        site.wait_for(lambda: site.settled(federation))
    assert federation.states() == {"a": "pending", "b": "pending"}
    return folder, base


@pytest.fixture
def warm_and_cold(taken_in_once, tmp_path):
    """A copy of that federation, with the base's file beside it; and the base."""
    folder, base = taken_in_once
    unused = shutil.ignore_patterns("reserve")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=unused)
    return site.Federation(tmp_path / "federation"), base


def test_a_site_trains_from_a_published_base_and_the_statement_names_it(enrolled, tmp_path):
    home = enrolled.home("a")
    data = tmp_path / "images"
    write_images(data)
    for old, new in (("square", "dark"),):
        (data / old).rename(data / new)
    (data / "patients.csv").unlink()
    request = runs.Request(
        study=site.STUDY,
        data=data,
        labels=("round", "long", "dark"),
        declared_count=60,
        run="warm",
        preset="",
        without_privacy=False,
        steps=2,
        held_out=0.0,
        accept_expected_loss=True,  # sixty images in three classes
    )
    with enrolled.serving() as coordinator:
        with pytest.raises(KitError, match="no base yet in study"):
            fetch(home)
        base = public.publish(coordinator, tmp_path)
        fetched = fetch(home)
        assert (fetched.base, fetched.origin) == (base, "procedural")
        assert fetched.bytes_downloaded == fetched.file.stat().st_size
        assert fetch(home).bytes_downloaded == 0
        with pytest.raises(KitError, match="no release yet in study"):  # a base predicts nothing
            installed.fetch(home, site.STUDY, got=lambda *_: None)

        from dataclasses import replace

        lines, tell = told()
        warm = replace(request, base=base[:12])
        result = runs.train(home, warm, now=clock.utc_now(), tell=tell)
        assert any("costs no privacy budget" in line for line in lines)
        assert not any("warning" in line for line in lines if "expect about" not in line)
        with pytest.raises(KitError, match="started with another base"):
            runs.train(home, request, now=clock.utc_now(), tell=tell)
        again = runs.train(home, warm, now=clock.utc_now(), tell=tell)
        assert again.was_finished
        assert again.privacy == result.privacy

        sent = site.submit(home, run="warm")
        site.wait_for(lambda: site.settled(enrolled))
        shown = reviews.show(coordinator, sent.blueprint)
        assert (shown.state, shown.reason) == ("pending", "")
        assert shown.base.startswith(f"{base[:16]}, public: procedural images")
        with coordinator.state.read() as tx:
            statement = Statement.from_bytes(reviews.find(tx, sent.blueprint).statement)
        assert statement.context.base == base
    site.approve(enrolled, "a")
    with enrolled.open() as coordinator:
        made = builds.build(coordinator, site.STUDY, report=lambda *_: None)
        with coordinator.state.read() as tx:
            assert descent.graph(tx).ancestors(made.release) == {base, sent.blueprint}


def test_step_9_refuses_a_base_that_the_coordinator_does_not_offer(warm_and_cold, tmp_path):
    federation, base = warm_and_cold
    home = federation.home("c")
    study = home.study(site.STUDY)
    with federation.serving() as coordinator:
        unknown = public.make(coordinator, tmp_path / "other.base", seed=1).base
        site.visit(home)
        run_from(home, study, site.LABELS["c"], unknown)
        with pytest.raises(KitError, match="step 9: the base is none that this coordinator offers"):
            site.submit(home)
        assert kept_of(coordinator, "c") == []
        run_from(home, study, site.LABELS["c"], base)
        with pytest.raises(InterruptedRunError):  # after its statement passed, before its bytes
            site.submit(home, sent=stop)
        assert kept_of(coordinator, "c") == ["receiving"]


def stop(_done, _total):
    raise InterruptedRunError("enough")


def kept_of(coordinator, name):
    table = state.blueprints
    with coordinator.state.read() as tx:
        return [r.state for r in tx.all(sa.select(table.c.state).where(table.c.site == name))]


def test_a_base_falls_with_what_came_from_it_and_with_nothing_else(warm_and_cold, tmp_path):
    federation, base = warm_and_cold
    with federation.serving() as coordinator:
        for name in ("a", "b"):
            site.approve(federation, name)
        release = builds.build(coordinator, site.STUDY, report=lambda *_: None).release
        warm, cold = federation.digest("a"), federation.digest("b")
        home = federation.home("a")
        study = home.study(site.STUDY)
        fetch(home)
        installed.fetch(home, site.STUDY, got=lambda *_: None)

        shown = public_bases.preview(coordinator, base[:12])
        assert (shown.revoked_blueprints, shown.withdrawn_releases) == ((warm,), (release,))
        assert not shown.done
        assert federation.states() == {"a": "approved", "b": "approved"}  # shown, and nothing done
        assert public_bases.preview(coordinator, warm[:12]) is None

        assert withdraw(federation, coordinator, base).done
        assert federation.states() == {"a": "revoked", "b": "approved"}
        assert events(coordinator, Kind.BLUEPRINT_REVOKED) == [warm]
        assert events(coordinator, Kind.RELEASE_WITHDRAWN) == [base, release]
        assert "WITHDRAWN" in reviews.show(coordinator, warm).base
        with pytest.raises(StateError, match="no such base in use"):
            withdraw(federation, coordinator, base)

        site.visit(home)
        site.visit(home)  # what was proved once, a reviewer's word too, is found again
        with pytest.raises(KitError, match=r"base `[0-9a-f]{16}` is withdrawn"):
            bases.choose(home, study, str(tmp_path / "public.base"), tell=lambda _: None)
        with pytest.raises(KitError, match=r"base `[0-9a-f]{16}` is withdrawn"):
            submission.cleared(home, site.STUDY)
        with pytest.raises(KitError, match="is withdrawn"):
            installed.load(home, site.STUDY, now=clock.utc_now())
        with pytest.raises(KitError, match="every base of study"):
            fetch(home)
        assert not list(home.releases.glob(f"*/{bases.FILE}"))

        assert audit.verify(coordinator)  # tables and log say the same
        rebuilt = builds.build(coordinator, site.STUDY, report=lambda *_: None)
        with coordinator.state.read() as tx:
            assert descent.graph(tx).ancestors(rebuilt.release) == {cold}


def test_a_blueprint_is_not_restored_while_its_base_is_withdrawn(warm_and_cold, tmp_path):
    federation, base = warm_and_cold
    home = federation.home("a")
    path = federation.hub / "config.toml"
    path.write_text(path.read_text().replace("grace_hours = 0", "grace_hours = 1"))
    key = federation.reviewer()
    with federation.serving() as coordinator:
        digest = federation.digest("a")
        withdraw(federation, coordinator, base)
        assert federation.states() == {"a": "revoked", "b": "pending"}
        with pytest.raises(StateError, match="which is out of use"):
            restoration.restore(coordinator, digest, reviewer_key=key, reason="back")
        assert federation.states() == {"a": "revoked", "b": "pending"}
        assert public_bases.publish(coordinator, tmp_path / "public.base").base == base
        assert restoration.restore(coordinator, digest, reviewer_key=key, reason="back").done
        assert federation.states() == {"a": "pending", "b": "pending"}
        fetch(home)
        assert withdraw(federation, coordinator, base).done  # the earlier word counts no more
        assert federation.states() == {"a": "revoked", "b": "pending"}
        site.visit(home)


def test_a_base_withdrawn_while_a_blueprint_is_under_way_keeps_it_out(enrolled, tmp_path):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator:
        base = public.publish(coordinator, tmp_path)
        run_from(home, home.study(site.STUDY), site.LABELS["a"], base)
        site.visit(home)

        def late(done, total):
            if done < total:
                return
            withdraw(enrolled, coordinator, base)

        with pytest.raises(KitError, match="is withdrawn"):
            site.submit(home, sent=late)
        assert enrolled.states() == {}
        assert events(coordinator, Kind.BLUEPRINT_RECEIVED) == []


def test_revoking_a_blueprint_takes_second_hand_blueprints_of_other_sites_along(pending):
    """A later kind of base may have ancestors: the rule holds for any edge of the lineage."""
    first, second = pending.digest("a"), pending.digest("b")
    with pending.open() as coordinator:
        with coordinator.write() as tx:
            for ancestor, descendant in ((first, "e" * 64), ("e" * 64, second)):
                edge = {"ancestor": ancestor, "descendant": descendant}
                tx.execute(state.lineage.insert().values(**edge))
        assert revocation.preview(coordinator, first).revoked_blueprints == (second,)
        made = site.revocation_of(pending, coordinator, "a")
        assert (made.done, made.revoked_blueprints) == (True, (second,))
    assert pending.states() == {"a": "revoked", "b": "revoked", "c": "pending"}


def test_a19_the_cascade_is_shown_before_anybody_confirms(released):
    first, second = released.digest("a"), released.digest("b")
    with released.open() as coordinator:
        with coordinator.write() as tx:
            for ancestor, descendant in ((first, "e" * 64), ("e" * 64, second)):
                edge = {"ancestor": ancestor, "descendant": descendant}
                tx.execute(state.lineage.insert().values(**edge))
        [release] = [found.digest for found in releases.list_releases(coordinator)]
    words = ("revoke", first, "--home", released.hub, "--reason", "gone")
    words += ("--key", released.roots / "reviewer-reviewer-1.key")
    shown = (
        f"blueprints that fall with it: {second[:16]}\nreleases that fall with it: {release[:16]}\n"
    )
    asked = commands.run("coordinator", *words, typed="n\n")
    assert asked.code == 1
    assert shown in asked.err
    assert "nothing was revoked" in asked.err
    assert released.states() == {"a": "approved", "b": "approved", "c": "approved"}
    done = commands.run("coordinator", *words, typed="y\n")
    assert done.code == 0
    assert shown in done.err
    for copy in revocation.NOT_REACHED:  # A2
        assert copy in done.out
    assert released.states() == {"a": "revoked", "b": "revoked", "c": "approved"}


def test_what_is_published_has_to_be_a_base_of_the_study(enrolled, tmp_path):
    with enrolled.open() as coordinator:
        made = public.make(coordinator, tmp_path / "good.base")
        good = (tmp_path / "good.base").read_bytes()
        bad = tmp_path / "bad.base"
        bad.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(FormatError, match="not those that its manifest names"):
            public_bases.publish(coordinator, bad)
        bad.write_bytes(good[8:])
        with pytest.raises(FormatError, match="no base"):
            public_bases.publish(coordinator, bad)
        site.create_study(coordinator, name="other", classes=("x", "y"))
        public.make(coordinator, tmp_path / "other.base", study="other")
        data = (tmp_path / "other.base").read_bytes()
        [digest] = {s.digest for s, _ in _studies(coordinator) if s.id == "other"}
        bad.write_bytes(data.replace(digest.encode(), made_for(coordinator).encode()))
        with pytest.raises(FormatError, match="not one that its study allows"):
            public_bases.publish(coordinator, bad)
        assert releases.list_releases(coordinator) == []
        assert public_bases.publish(coordinator, tmp_path / "good.base").base == made.base
        [listed] = releases.list_releases(coordinator)
        assert (listed.digest, listed.role, listed.blueprints) == (made.base, "initial-weights", 0)


def _studies(coordinator):
    from coordinator import registry

    return registry.list_studies(coordinator)


def made_for(coordinator):
    return next(s.digest for s, _ in _studies(coordinator) if s.id == site.STUDY)


def test_the_same_recipe_makes_the_same_base(enrolled, tmp_path):
    with enrolled.open() as coordinator:
        first = public.make(coordinator, tmp_path / "1")
        second = public.make(coordinator, tmp_path / "2")
        other = public.make(coordinator, tmp_path / "3", seed=1)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert first.base == second.base != other.base


def test_a_base_comes_by_file_and_by_stick(enrolled, tmp_path):
    home = enrolled.home("a")
    study = home.study(site.STUDY)
    with enrolled.open() as coordinator:
        made = public.make(coordinator, tmp_path / "file")
        lines, tell = told()
        assert bases.choose(home, study, str(tmp_path / "file"), tell=tell).digest == made.base
        assert any("unless the coordinator publishes it" in line for line in lines)
        public_bases.publish(coordinator, tmp_path / "file")
        now = clock.utc_now() + timedelta(seconds=2)
        coordinator.ahead = timedelta(seconds=2)
        carried = coordinator_stick.export(coordinator, "a", tmp_path / "stick")
        assert carried.releases == (made.base,)
    found = stick.fetch_base(home, site.STUDY, tmp_path / "stick", now=now)
    assert found.base == made.base
    for named in (str(tmp_path / "file"), made.base[:10]):
        lines, tell = told()
        assert bases.choose(home, study, named, tell=tell).digest == made.base
        assert not any("warning" in line for line in lines)
    with pytest.raises(KitError, match="there is no base"):
        bases.choose(home, study, "0" * 10, tell=tell)
    data = found.file.read_bytes()
    other = tmp_path / "altered"
    with enrolled.open() as coordinator:
        public.make(coordinator, other, seed=2)
    found.file.write_bytes(other.read_bytes())
    with pytest.raises(KitError, match="was altered"):
        bases.choose(home, study, made.base[:10], tell=tell)
    found.file.write_bytes(data)
    assert bases.choose(home, study, made.base[:10], tell=tell)
    assert contact.known(home)
